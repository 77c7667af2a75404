"""Words under pictures."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

SIZE, LINE, MOST_LINES = 11, 13, 3  # px, px and the lines that a text may take
INK = (40, 40, 40)


@cache
def _font() -> "FreeTypeFont | ImageFont":
    from PIL import ImageFont

    return ImageFont.load_default(SIZE)


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` px, three at most; an ellipsis stands for what is left out."""
    lines = [""]
    for word in text.split():
        word = word if _fits(word, width) else _cut(word, width)
        longer = f"{lines[-1]} {word}".strip()
        if _fits(longer, width):
            lines[-1] = longer
        elif len(lines) < MOST_LINES:
            lines.append(word)
        else:
            lines[-1] = _cut(lines[-1], width)
            break
    return lines


def _fits(text: str, width: int) -> bool:
    return _font().getlength(text) <= width


def _cut(text: str, width: int) -> str:
    """The beginning of a text, as much as fits before an ellipsis."""
    while text and not _fits(text + "…", width):
        text = text[:-1]
    return text + "…"


def strips(texts: Sequence[str], width: int, background: tuple[int, int, int]) -> np.ndarray:
    """uint8[N, S, width, 3]: each text in the middle of a strip, which is as high as the longest text needs."""
    from PIL import Image, ImageDraw

    each = [wrapped(text, width - 4) for text in texts]
    height = LINE * max(map(len, each)) + 4
    made = []
    for lines in each:
        strip = Image.new("RGB", (width, height), background)
        draw = ImageDraw.Draw(strip)
        for i, line in enumerate(lines):
            left = (width - _font().getlength(line)) // 2
            draw.text((left, 1 + LINE * i), line, fill=INK, font=_font())
        made.append(np.asarray(strip))
    return np.stack(made)
