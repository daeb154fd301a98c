"""The list of mutations keeps step with the code: the whole run, which takes hours, is not what finds out that a text is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutation import Mutation, place
from mutations import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_its_text_is_there_once_and_what_it_names_exists(mutation: Mutation) -> None:
    text = (ROOT / place(mutation.file)).read_text()
    assert mutation.mutate(text) != text
    for name in [*(f"{place(module)}.pyx" for module in mutation.modules), *mutation.tests]:
        assert (ROOT / name).exists(), name


def test_no_name_stands_for_two() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
