"""Packs the Noto emoji into jaxgen/data/emoji/.

    npm pack emoji-datasource-google@16.0.0
    python -m jaxgen.data.pack_emoji emoji-datasource-google-16.0.0.tgz

Writes lossless WebP sheets of 64 px RGBA pictures, emoji.json with one entry per picture in sheet order, and NOTICE.
The same input and version of Pillow give the same bytes. At the end every picture is read back and compared.
"""

import argparse
import concurrent.futures
import io
import json
import pathlib
import tarfile

import numpy as np
from PIL import Image

SIDE = 64
GRID = 8  # pictures along each side of a sheet
TARGET = pathlib.Path(__file__).parent / "emoji"

NOTICE = """\
The pictures in this folder are from Noto Emoji, https://github.com/googlefonts/noto-emoji
Copyright Google. Licensed under the Apache License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0
Changed here: packed into lossless sheets; colour under fully transparent pixels set to zero.

Names, groups and the 64 px renderings are from emoji-datasource-google 16.0.0,
https://github.com/iamcal/emoji-data

The MIT License (MIT)

"""


def read(path: pathlib.Path) -> tuple[list[dict], np.ndarray, str]:
    """Base emoji in Unicode order, their pictures uint8[N, 64, 64, 4], and the body of the MIT licence."""
    with tarfile.open(path) as tar:
        members = [m for m in tar if m.isfile() and "sheets" not in m.name]
        files = {m.name: file.read() for m in members if (file := tar.extractfile(m))}
    entries = [e for e in json.loads(files["package/emoji.json"]) if e["has_img_google"]]
    # The five pictures of "Component" are swatches of skin tones, not emoji.
    entries = sorted((e for e in entries if e["category"] != "Component"), key=lambda e: e["sort_order"])
    images = []
    for entry in entries:
        with Image.open(io.BytesIO(files[f"package/img/google/64/{entry['image']}"])) as image:
            images.append(np.asarray(image.convert("RGBA")))
    images = np.stack(images)
    if images.shape[1:] != (SIDE, SIDE, 4):
        raise SystemExit(f"pictures are {images.shape[1:]}, expected {(SIDE, SIDE, 4)}: use version 16.0.0")
    images[images[..., 3] == 0] = 0  # invisible colours only take space
    licence = files["package/LICENSE"].decode().split("\n\n", 1)[1]
    return entries, images, licence


def sheet(images: np.ndarray) -> bytes:
    """One WebP sheet of up to GRID * GRID pictures, row by row; empty places are transparent."""
    full = np.zeros((GRID * GRID, SIDE, SIDE, 4), np.uint8)
    full[: len(images)] = images
    grid = full.reshape(GRID, GRID, SIDE, SIDE, 4).swapaxes(1, 2).reshape(GRID * SIDE, GRID * SIDE, 4)
    out = io.BytesIO()
    # Without exact=True, WebP may change colours where alpha is zero.
    Image.fromarray(grid).save(out, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tgz", type=pathlib.Path)
    entries, images, licence = read(parser.parse_args().tgz)

    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.glob("sheet-*.webp"):
        old.unlink()
    per = GRID * GRID
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sheets = list(pool.map(sheet, [images[i : i + per] for i in range(0, len(images), per)]))
    for i, data in enumerate(sheets):
        (TARGET / f"sheet-{i:02d}.webp").write_bytes(data)
    lines = [
        json.dumps(
            {
                "name": e["name"],
                "short_name": e["short_name"],
                "group": e["category"],
                "subgroup": e["subcategory"],
                "unified": e["unified"],
            }
        )
        for e in entries
    ]
    (TARGET / "emoji.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
    (TARGET / "NOTICE").write_text(NOTICE + licence, encoding="utf-8")

    back = []
    for path in sorted(TARGET.glob("sheet-*.webp")):
        with Image.open(path) as image:
            grid = np.asarray(image.convert("RGBA"))
        back.append(grid.reshape(GRID, SIDE, GRID, SIDE, 4).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 4))
    back = np.concatenate(back)
    if not np.array_equal(back[: len(images)], images) or back[len(images) :].any():
        raise SystemExit("the sheets differ from the pictures when read back: do not use them")
    total = sum(path.stat().st_size for path in TARGET.iterdir())
    print(f"{len(images)} pictures in {len(sheets)} sheets, {total / 1e6:.2f} MB, verified by reading them back")


if __name__ == "__main__":
    main()
