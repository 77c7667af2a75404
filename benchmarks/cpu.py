"""The table of speed on a CPU, renewed in one run: every benchmark with a peer in PyTorch, one after another.

    pip install -e '.[peers]'
    python benchmarks/cpu.py                  # most of an hour on two cores that do nothing else
    python benchmarks/cpu.py DCGAN NeRF       # those alone, in the file of the last run

Each benchmark writes its own file in benchmarks/results; of its rows the ratios to the peer, as it is and by
torch.compile, are collected in speed-cpu.json with their geometric means. A stopped command goes on where it was.
"""

import json
import subprocess
import sys
from pathlib import Path

import rows as kept

from jaxgen.cli import parse
from jaxgen.runs.environment import environment
from jaxgen.runtime.files import write_text

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "speed-cpu.json"
TABLE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # What is measured: the file it is written to, the command, and what its rows are called.
    "training, MNIST": (
        "train-mnist", "train.py vae mlp3 mlp3-wide --preset mnist --peer",
        ("VAE 784-400-20", "MLP 2-64-64-2", "MLP 2-128-128-2"),
    ),
    "training, DDPM": ("train-digits", "train.py ddpm --preset digits --peer --devices 2", ("DDPM, digits",)),
    "training, WGAN-GP of points": (
        "train-wgan-toy", "train.py wgan_gp --preset toy --steps 50 --peer", ("WGAN-GP, 25 Gaussians",)
    ),
    "training, WGAN-GP of emoji": (
        "train-wgan-emoji", "train.py wgan_gp --preset emoji --steps 4 --calls 3 --peer --devices 2",
        ("WGAN-GP, emoji at 32 px",),
    ),
    "training, DCGAN": (
        "train-dcgan", "train.py dcgan --preset emoji64 --steps 4 --calls 3 --peer", ("DCGAN at 64 px",)
    ),
    "training, GPT": ("train-gpt", "train.py gpt-cpu --peer", ("GPT, nanoGPT's CPU setting",)),
    "NeRF": ("nerf-peer", "nerf.py peer", ("NeRF: training", "NeRF: rendering")),
    "Tacotron 2": (
        "tacotron2", "tacotron2.py", ("Tacotron 2: training", "Tacotron 2: one text", "Tacotron 2: eight texts")
    ),
    "sampling, DDPM": (
        "sample-digits", "sample.py ddpm --preset digits --peer --devices 2 --sampler-steps 20",
        ("digits DDPM, ancestral steps",),
    ),
    "diffusers": (
        "diffusers-digits", "diffusers_pipeline.py digits --num 64 --devices 2 --rounds 2",
        ("DDIM beside diffusers", "1,000 ancestral steps beside diffusers"),
    ),
    "Stable Diffusion": (
        "stable-diffusion", "stable_diffusion.py --devices 2 --rounds 3",
        ("tiny Stable Diffusion, DDIM", "tiny Stable Diffusion, PNDM", "tiny Stable Diffusion, DPM-Solver++"),
    ),
    "generation": ("gpt-generate", "gpt_generate.py", ("GPT: eight texts", "GPT: one text")),
    "Inception": ("inception", "inception.py --devices 2", ("Inception features",)),
}  # fmt: skip


def collected(what: str) -> list[kept.Row]:
    """The ratios in the file of one benchmark."""
    file, _, names = TABLE[what]
    found = json.loads((OUT.parent / f"{file}.json").read_text())["results"]
    ratios = [row.get("peer_ratio", row.get("ratio")) for row in found]
    ours = [(row, ratio) for row, ratio in zip(found, ratios, strict=True) if ratio]
    return [
        {
            "case": name, "of": what, "file": f"{file}.json", "peer_ratio": ratio,
            "compiled_ratio": row.get("compiled_ratio"), "taken": row["taken"],
        }
        for name, (row, ratio) in zip(names, ours, strict=True)
    ]  # fmt: skip


def write(rows: list[kept.Row], unfinished: bool) -> None:
    order = list(TABLE)
    rows.sort(key=lambda row: order.index(row["of"]))
    means = {name: kept.geometric(rows, name) for name in ("peer_ratio", "compiled_ratio")}
    record = {"benchmark": "speed on a CPU", "provenance": environment(), "geometric_means": means, "results": rows}
    write_text(OUT, json.dumps(record | ({"unfinished": True} if unfinished else {}), indent=1) + "\n")


def main(wanted: list[str]) -> None:
    before = json.loads(OUT.read_text()) if OUT.exists() else {}
    rows = before.get("results", []) if wanted or before.get("unfinished") else []
    there = set() if wanted else {row["of"] for row in rows}
    chosen = [what for what in TABLE if what not in there and (not wanted or any(word in what for word in wanted))]
    for what in chosen:
        file, command, _ = TABLE[what]
        command = f"benchmarks/{command} --out benchmarks/results/{file}.json"
        print(f"{what}: {command}", flush=True)
        subprocess.run([sys.executable, *command.split()], cwd=ROOT, check=True)
        rows = [row for row in rows if row["of"] != what] + collected(what)
        write(rows, unfinished=True)
    write(rows, unfinished={row["of"] for row in rows} != set(TABLE))
    columns = {
        "experiment": lambda r: r["case"],
        "torch/ours": lambda r: f"{r['peer_ratio']:.2f}",
        "compiled/ours": lambda r: f"{r['compiled_ratio']:.2f}" if r["compiled_ratio"] else "",
    }
    kept.show("speed on a CPU", rows, columns)


if __name__ == "__main__":
    parse.run(lambda: main(sys.argv[1:]))
