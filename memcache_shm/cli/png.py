"""What pictures in PNG files have in common: they are drawn by Pillow (the extra "png"), and written whole or not at all."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from memcache_shm.cli.messages import PROGRAM
from memcache_shm.errors import MemcacheError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

REMEDY = "pip install 'memcache_shm[png]'"
WHITE, BLACK, GREY = (255, 255, 255), (30, 30, 30), (110, 110, 110)
_PILLOW = 10, 1


def check(path: str) -> None:
    """MemcacheError where Pillow is missing or too old, or `path` cannot be written, as far as that can be told beforehand."""
    _check_pillow()
    place = os.path.realpath(path)
    directory = os.path.dirname(place)
    if not os.path.isdir(directory):
        raise MemcacheError(f"cannot write {path}: there is no directory {directory}")
    if os.path.isdir(place):
        raise MemcacheError(f"cannot write {path}: it is a directory; name a file")
    if not os.access(place if _is_special(place) else directory, os.W_OK, effective_ids=True):
        raise MemcacheError(f"cannot write {path}: no right to write there; choose another place")


def _check_pillow() -> None:
    try:
        import PIL.Image
    except ImportError:
        raise MemcacheError(f"--png needs Pillow; {REMEDY}") from None
    if tuple(map(int, PIL.__version__.split(".")[:2])) < _PILLOW:
        raise MemcacheError(f"--png needs Pillow {'.'.join(map(str, _PILLOW))}, not {PIL.__version__}; {REMEDY}")


def text(pen: ImageDraw, x: int, y: int, words: str, size: int, colour: tuple[int, int, int] = BLACK, anchor: str = "lm") -> int:
    """Write; how wide it became, in pixels."""
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    pen.text((x, y), words, colour, font, anchor)
    return round(pen.textlength(words, font))


def write(image: Image, path: str) -> None:
    """Put `image` into the file `path`. MemcacheError when that cannot be written."""
    drawn = io.BytesIO()
    image.save(drawn, "PNG", optimize=True)
    try:
        _put(path, drawn.getvalue())
    except OSError as problem:
        raise MemcacheError(f"cannot write {path}: {problem.strerror}") from None


def _put(path: str, content: bytes) -> None:
    if _is_special(path):
        with open(path, "wb") as file:
            file.write(content)
        return
    path = os.path.realpath(path)  # of a link, where it leads
    temporary = os.path.join(os.path.dirname(path), f".{PROGRAM}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _is_special(path: str) -> bool:
    """A pipe or device, which is written to, not replaced."""
    return os.path.exists(path) and not os.path.isfile(path)
