"""Weak scaling by plan: what a step takes and sends on 8, 32, 128 and 256 devices, each with the same share of a batch.

    pip install -e '.[plan-gpu,plan-tpu]'
    python benchmarks/plan_scaling.py
    python benchmarks/plan_scaling.py DiT-XL       # rows whose name has this

Nothing is run on an accelerator. Rows are written as they are planned; those that are there already are kept unless
they are named.
"""

import json
import sys
from pathlib import Path

from plans import IMAGENET, keep, planned

RESULTS = Path(__file__).parent / "results" / "plan-scaling.json"
SIZES = (8, 32, 128, 256)
SLICES = {8: "2x4", 32: "4x8", 128: "8x16", 256: "16x16"}
WINDOWS = ("--model.accumulate", "1", "--remat")


def rows() -> dict[str, tuple[str, ...]]:
    """By name, the arguments of a plan."""
    found: dict[str, tuple[str, ...]] = {}
    for count in SIZES:
        gpus, slice_ = f"h100:{count}", f"v5e:{SLICES[count]}"
        hosts = f"data={count // 8},fsdp=8" if count > 8 else "fsdp=8"
        xl = ("gpt", "gpt2_xl", gpus, "--batch-size", str(8 * count), *WINDOWS)
        found[f"GPT-2 XL, fsdp, {count}"] = (*xl, "--mesh", f"fsdp={count}")
        found[f"GPT-2 XL, fsdp in a host, {count}"] = (*xl, "--mesh", hosts)
        dit = ("latent_diffusion", "dit_xl", slice_, "--batch-size", str(16 * count))
        found[f"DiT-XL/2, fsdp, {count}"] = (*dit, "--mesh", f"fsdp={count}")
        sd = ("text_to_image", "sd15", gpus, "--batch-size", str(32 * count), *IMAGENET)
        found[f"SD 1.5, data, {count}"] = (*sd, "--mesh", f"data={count}")
    return found


def curve(plan: dict) -> dict:
    """Of a plan, what its curve needs: a step's seconds at best, and bytes of memory and links of each device."""
    train = plan["programs"]["train"]
    times, exchanges = train["times"], train.get("exchanges", [])
    # What a collective is of, whatever the number of devices: a ring sends (n - 1) / n of it.
    arrays = sum(
        e["sent"] * (1 if e["kind"] == "collective-permute" else e["group"] / (e["group"] - 1)) for e in exchanges
    )
    return {
        **{name: plan[name] for name in ("machine", "mesh", "batch_size", "fits", "flags", "taken", "jax")},
        "memory": train["memory"]["needed"], "bound": train.get("bound"), "compile_seconds": train["compile_seconds"],
        "exchanges": exchanges, "sent_of_a_step": sum(e["sent"] for e in exchanges) / times,
        "arrays_of_a_step": arrays / times,
    }  # fmt: skip


def draw(found: dict[str, dict], file: Path) -> None:
    """Seconds of a step at best, and bytes sent by a device, against the number of devices."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=110, facecolor="white", layout="constrained")
    seconds, sent = figure.subplots(1, 2)
    for name in dict.fromkeys(name.rpartition(", ")[0] for name in found):
        points = [(n, found[key]) for n in SIZES if (key := f"{name}, {n}") in found and found[key]["bound"]]
        counts = [str(n) for n, _ in points]
        seconds.plot(counts, [1e3 * row["bound"]["seconds"] for _, row in points], marker="o", label=name)
        sent.plot(counts, [row["sent_of_a_step"] / 1e9 for _, row in points], marker="o", label=name)
    seconds.set(xlabel="devices", ylabel="ms of a step at best", ylim=(0, None))
    sent.set(xlabel="devices", ylabel="GB that a device sends a step", ylim=(0, None))
    sent.legend(frameon=False, fontsize="small")
    for axes in (seconds, sent):
        axes.grid(color="0.9")
    FigureCanvasAgg(figure).print_png(file)


def main(wanted: list[str]) -> None:
    every = rows()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in [n for n in every if (any(w in n for w in wanted) if wanted else n not in found)]:
        print(name, flush=True)
        if plan := planned(*every[name]):
            keep(RESULTS, name, curve(plan))
    found = json.loads(RESULTS.read_text())
    draw({name: found[name] for name in every if name in found}, RESULTS.with_suffix(".png"))


if __name__ == "__main__":
    main(sys.argv[1:])
