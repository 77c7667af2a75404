"""Held-out pictures to the latents of a published autoencoder and back, beside PyTorch with the same files.

    python benchmarks/first_stages.py FOLDER --sprites DIR    # FOLDER holds TAEF2's two files

PSNR is the mean over pictures, of 8-bit values.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import common
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from peers import taesd as peer
from peers import use_all_cores

from jaxgen import core
from jaxgen.cli import parse
from jaxgen.core.capabilities import LatentStage
from jaxgen.data import Dataset, Emoji, ImageFolder
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.runs.taesd import import_run

SIDE, BATCH = 64, 32


@dataclass(frozen=True)
class Options:
    folder: Annotated[str, tyro.conf.Positional]
    """Of taef2_encoder.pth and taef2_decoder.pth."""
    sprites: str = ""
    """Folder of pictures to measure beside emoji; none when empty."""
    num: int = 0
    """Pictures of each, the first ones; all when 0."""
    out: str = ""
    """JSON file; benchmarks/results/first-stages.json when empty."""


def batches(data: Dataset, num: int) -> Iterator[np.ndarray]:
    """Held-out pictures, uint8[B, H, W, 3]."""
    for batch, mask in data.padded_batches(BATCH, "test", num or None):
        yield np.asarray(batch["x"])[np.asarray(mask)]


def psnr(back: np.ndarray, images: np.ndarray) -> np.ndarray:
    """f64[B] in dB, of pictures in [0, 1] and what they should be as uint8."""
    error = (np.rint(255 * np.asarray(back, np.float64)) - images) ** 2
    return 10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))


def measure(name: str, data: Dataset, folder: str, num: int) -> common.Row:
    """Both sides over the test pictures of a data set."""
    with tempfile.TemporaryDirectory() as place:
        import_run(Path(folder), Path(place) / "run", SIDE)
        run = restore(RunFolder(Path(place) / "run"))
    model = run.model
    assert isinstance(model, LatentStage)
    encode = jax.jit(lambda state, x: model.to_latent(state, x, jax.random.key(0)))
    decode = jax.jit(lambda state, z: model.from_latent(state, z))
    theirs = peer.autoencoder(Path(folder))
    use_all_cores()
    found, expected, latents, differences = [], [], [], []
    for images in batches(data, num):
        x = jnp.asarray(images) / np.float32(255)
        z = np.asarray(encode(run.state, x))
        back = np.clip(np.asarray(decode(run.state, z)), 0, 1)
        their_z, their_back = peer.round_trip(theirs, images)
        found.append(psnr(back, images))
        expected.append(psnr(their_back, images))
        latents.append(z.reshape(-1, z.shape[-1]))
        differences.append(np.abs(z - their_z).max())
    z = np.concatenate(latents).astype(np.float64)
    return {
        "name": name,
        "num": sum(map(len, found)),
        "params": core.count_params(run.state.params),
        "psnr": float(np.concatenate(found).mean()),
        "psnr_torch": float(np.concatenate(expected).mean()),
        "largest_latent_difference": float(max(differences)),
        "latent_mean": float(z.mean()),
        "latent_deviation": float(z.std()),
    }


COLUMNS = {
    "pictures": lambda r: r["name"],
    "number": lambda r: str(r["num"]),
    "PSNR": lambda r: f"{r['psnr']:.3f} dB",
    "PyTorch": lambda r: f"{r['psnr_torch']:.3f} dB",
    "difference of latents": lambda r: f"{r['largest_latent_difference']:.1e}",
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, None, sys.argv[1:] if args is None else args, "first_stages.py", __doc__)
    sets: dict[str, Dataset] = {"emoji": Emoji(size=SIDE, label="none")}
    if options.sprites:
        sets["sprites"] = ImageFolder(folder=options.sprites, size=SIDE, label="none")
    rows = common.rows(options.out or common.RESULTS / "first-stages.json", "first_stages", COLUMNS, options)
    for name, data in sets.items():
        rows.add(name, lambda name=name, data=data: measure(name, data, options.folder, options.num))
    rows.finish("TAEF2, there and back")


if __name__ == "__main__":
    parse.run(main)
