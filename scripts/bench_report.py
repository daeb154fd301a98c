"""What the benchmark found: figures with their samples, as tables for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

OURS = "memcache_shm"


@dataclass
class Figure:
    """One question, and each contender's answer to it, once a round.

    `reference` is the contender that ours is compared with; `limit` and `limit_ratio` are the targets: ours at most `limit` of
    the unit, ours / reference at most `limit_ratio` (at least, both, when `more_is_better`).
    """

    subject: str
    unit: str
    samples: dict[str, list[float]]
    reference: str | None = None
    limit: float | None = None
    limit_ratio: float | None = None
    more_is_better: bool = False

    def median(self, contender: str) -> float:
        return statistics.median(self.samples[contender])

    def ratio(self) -> float | None:
        """Ours / reference: the median over the rounds, where both ran in the same round on the same machine."""
        ours, theirs = self.samples.get(OURS), self.samples.get(self.reference or "")
        if not ours or not theirs:
            return None
        return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))

    def targets(self) -> list[tuple[str, bool]]:
        """Each target (of the unit, or as a multiple of the reference, "x"), and whether it was met."""
        bound = ">=" if self.more_is_better else "<="
        found: list[tuple[str, bool]] = []
        ratio = self.ratio()
        if self.limit is not None and OURS in self.samples:
            found.append((f"{bound} {_target(self.limit)}", self._meets(self.median(OURS), self.limit)))
        if self.limit_ratio is not None and ratio is not None:
            found.append((f"{bound} {_target(self.limit_ratio)}x", self._meets(ratio, self.limit_ratio)))
        return found

    def _meets(self, value: float, limit: float) -> bool:
        return value >= limit if self.more_is_better else value <= limit

    def to_dict(self) -> dict[str, object]:
        return {
            "subject": self.subject,
            "unit": self.unit,
            "median": {name: self.median(name) for name in self.samples},
            "samples": self.samples,
            "reference": self.reference,
            "ratio": self.ratio(),
            "targets": [{"target": text, "met": met} for text, met in self.targets()],
        }


@dataclass
class Section:
    """Figures that belong together, with a sentence on how they were taken."""

    title: str
    how: str
    figures: list[Figure] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        return {"title": self.title, "how": self.how, "figures": [figure.to_dict() for figure in self.figures]}

    def to_text(self) -> str:
        contenders = list(dict.fromkeys(name for figure in self.figures for name in figure.samples))
        rows = [["", *contenders, "ours is", "target"]]
        rows += [self._row(figure, contenders) for figure in self.figures]
        return f"\n{self.title}\n{self.how}\n\n{_align(rows)}"

    def _row(self, figure: Figure, contenders: Sequence[str]) -> list[str]:
        values = [_value(figure, name) if name in figure.samples else "" for name in contenders]
        ratio = figure.ratio()
        compared = "" if ratio is None else f"{ratio:.2f}x {figure.reference}"
        targets = ", ".join(f"{text} {'met' if met else 'MISSED'}" for text, met in figure.targets())
        return [", ".join(filter(None, (figure.subject, figure.unit))), *values, compared, targets]


class Progress:
    """Says on a terminal what is being measured; silent where there is none."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def say(self, what: str) -> None:
        if self._shown:
            print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)

    def done(self) -> None:
        self.say("")


def machine() -> dict[str, object]:
    """What a reader needs to know of the machine to compare with his own."""
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "unknown")
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def _value(figure: Figure, name: str) -> str:
    """The median, and how far the rounds lay apart where there were several."""
    samples = figure.samples[name]
    spread = f" ({_number(min(samples))}-{_number(max(samples))})" if len(samples) > 1 else ""
    return _number(figure.median(name)) + spread


def _target(value: float) -> str:
    """Two decimals at most: 1.35, 1.2, 0.33, 600."""
    return f"{value:.2f}".rstrip("0").removesuffix(".")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
