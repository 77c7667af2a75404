"""Times the features that FID is computed from, beside torch-fidelity's extractor with the same random weights.

    python benchmarks/inception.py                    # batches of 50, as published scores have them
    python benchmarks/inception.py --devices 2        # the batch split over two CPU devices
"""

import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from peers import LAYOUTS, use_all_cores
from peers import inception as peer

from jaxgen import core, weights
from jaxgen.cli import parse
from jaxgen.core.flops import flops
from jaxgen.metrics.features import Features
from jaxgen.nets.inception import InceptionV3

FEATURES = {"pool3": "2048", "logits_unbiased": "logits_unbiased", "logits": "logits"}  # by our name and theirs


@dataclass(frozen=True)
class Options:
    batch: int = 50
    side: int = 32
    """Pixels across; every image is enlarged to 299."""
    calls: int = 5
    """Turns of each side."""
    devices: int = 1
    """CPU devices to split each batch over."""
    out: str = ""
    """JSON file; benchmarks/results/inception.json when empty."""


def measure(options: Options, matmul: float) -> common.Row:
    """All numbers of one size of batch."""
    images = np.random.default_rng(0).integers(0, 256, (options.batch, options.side, options.side, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "random.pth"
        peer.write_random_weights(source, images[:8])
        found = weights.convert("inception", source, Path(folder) / "inception.safetensors")
        modules = {layout: peer.extractor(source, tuple(FEATURES.values())) for layout in LAYOUTS}
    params, x = common.spread(options.devices, found.params, (images, 0))
    network = Features(found)
    network.params = params
    outputs, seconds = common.timed(lambda: network(x))
    work = flops(lambda p, x: InceptionV3().apply({"params": p}, x), params, images)

    use_all_cores()
    theirs = peer.to_torch(images)
    sides = {"ours": lambda: network(x)}
    for layout, module in modules.items():
        module.to(memory_format=LAYOUTS[layout])
        sides[f"torch {layout}"] = lambda module=module: extract(module, theirs)
    fastest = copy.deepcopy(modules["channels_last"])
    name = "torch.compile channels_last"

    def compiled_side() -> Callable[[], Any]:
        fastest.compile()
        return lambda: extract(fastest, theirs)

    reason = common.tried("inception", name, sides, compiled_side)
    expected = dict(zip(FEATURES, extract(modules["contiguous"], theirs), strict=True))
    error = max(float(np.abs(np.asarray(outputs[name]) - expected[name].numpy()).max()) for name in FEATURES)
    ms = {side: common.summary(times) for side, times in common.in_turns(sides, options.calls, "inception").items()}
    ours = ms["ours"]["median"]
    return {
        "name": "inception",
        "devices": options.devices,
        "num_images": options.batch,
        "side": options.side,
        "params": core.count_params(found.params),
        "flops_per_batch": work,
        "first_call_seconds": seconds,
        "process_peak_bytes": common.process_peak_bytes(),
        "largest_difference": error,
        "ms_per_batch": ms,
        "images_per_second": 1000 * options.batch / ours,
        "flops_per_second": 1000 * work / ours,
        "matmul_share": 1000 * work / ours / matmul,
        **common.against_peer(ms, "ours", reason),
    }


@torch.no_grad()
def extract(module: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return module(images)


COLUMNS = {
    "experiment": lambda r: r["name"],
    "batch": lambda r: str(r["num_images"]),
    "devices": lambda r: str(r["devices"]),
    "ms/batch": lambda r: common.ms(r["ms_per_batch"]["ours"]["median"]),
    "images/s": lambda r: f"{r['images_per_second']:,.1f}",
    "GFLOP/s": lambda r: f"{r['flops_per_second'] / 1e9:.1f}",
    "of matmul": lambda r: f"{r['matmul_share']:.0%}",
    "difference": lambda r: f"{r['largest_difference']:.1e}",
    "peer": lambda r: r["peer"],
    "torch/ours": common.ratio,
    "compiled/ours": lambda r: common.ratio(r, "compiled"),
}


def main(args: Sequence[str] | None = None) -> None:
    options = parse.parse(Options, Options(), sys.argv[1:] if args is None else args, "inception.py", __doc__)
    common.use_devices(options.devices)
    rows = common.rows(options.out or common.RESULTS / "inception.json", "inception", COLUMNS, options)
    rows.add("inception", lambda: measure(options, rows.matmul))
    rows.finish("Inception features")


if __name__ == "__main__":
    parse.run(main)
