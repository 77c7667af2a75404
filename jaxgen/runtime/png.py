"""PNG files that say where their picture comes from, in a compressed text chunk of JSON."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.errors import UserError
from jaxgen.runtime.picture import undecoded
from jaxgen.runtime.reading import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

KEYWORD = "jaxgen"
"""Of the text chunk."""

Origin = Mapping[str, Any]
"""Where a picture comes from: a JSON object, as `runs.origin.origin_of` makes it."""


def png_bytes(image: "Image", origin: Origin | None = None) -> bytes:
    """A PNG of an image, with its origin in a text chunk before the pixels where one is given."""
    from PIL.PngImagePlugin import PngInfo

    chunks, buffer = PngInfo(), io.BytesIO()
    if origin is not None:
        chunks.add_text(KEYWORD, json.dumps(origin), zip=True)
    image.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def read_origin(file: Path) -> dict[str, Any]:
    """The origin that a PNG holds. Raises UserError for a file that is no such picture, or whose chunk is damaged."""
    with undecoded(file) as image:
        kind, text = image.format, image.info.get(KEYWORD)
    if kind != "PNG":
        raise UserError(f"{file} is a {kind}, only the PNGs that jaxgen writes say where they come from: name one")
    if not isinstance(text, str):
        raise UserError(f"{file} does not say where it comes from: jaxgen did not write it, or it was changed since")
    origin = parse_json(text, f"the origin that {file} holds")
    if not isinstance(origin, dict):
        raise UserError(f"the origin that {file} holds is no JSON object: restore the file")
    return origin
