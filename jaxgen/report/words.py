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
    font, lines = _font(), [""]
    for word in text.split():
        while font.getlength(word) > width:  # a word without end
            word = word[:-2] + "…" if word.endswith("…") else word[:-1] + "…"
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) < MOST_LINES:
            lines.append(word)
        else:
            while lines[-1] and font.getlength(lines[-1] + "…") > width:
                lines[-1] = lines[-1][:-1]
            lines[-1] += "…"
            break
    return lines


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
