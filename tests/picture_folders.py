"""Folders of pictures of noise, and what a process knows of those that it has read."""

from pathlib import Path

import numpy as np
from PIL import Image

from jaxgen.data import dataset, image_folder


def forget() -> None:
    """What a new process does not know."""
    for known in (image_folder.index, image_folder._pixels, dataset._load):
        known.cache_clear()


def write_noise(folder: Path, train: int, test: int, classes: str = "") -> None:
    """Pictures of 8 x 8 as folder/train/0.png and so on; in a folder for each of `classes` in turn, if there are."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for i in range(count):
            file = folder / split / (classes[i % len(classes)] if classes else "") / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
