"""Plans of paper-sized presets, each on the smallest machine that should hold it: `jaxgen plan`, row after row.

    pip install -e '.[plan-gpu,plan-tpu]'
    python benchmarks/plans.py
    python benchmarks/plans.py gpt dit_xl          # rows whose name has one of these

Nothing is run on an accelerator: figures are the compiler's, for devices that are not here. Rows are written as they
are planned; those that are there already are kept unless they are named.
"""

import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from jaxgen.runs.environment import environment

RESULTS = Path(__file__).parent / "results" / "plans.json"

IMAGENET = ["--steps-per-call", "10", "--log-every", "10", "--save-every", "10", "--sample-every", "10"]
"""Fewer batches in a call: those of ImageNet are larger than the model."""
ROWS: dict[str, list[str]] = {
    "autoencoder_kl f8": ["h100", *IMAGENET],
    "autoencoder_kl f4": ["h100", *IMAGENET],
    "clip vit_b32": ["h100:64", "--mesh", "data=64", "--remat", *IMAGENET],
    "cgan cifar10": ["rtx4090"],
    "dcgan cifar10": ["rtx4090"],
    "dcgan imagenet64": ["rtx4090"],
    "ddpm cifar10": ["rtx4090"],
    "ddpm imagenet64": ["a100"],
    "dit cifar10": ["a100"],
    "dit imagenet64": ["a100:8"],
    "ebm cifar10": ["rtx4090"],
    "edm cifar10": ["a100:8"],
    "edm imagenet64": ["h100:32", *IMAGENET],
    "flow_matching cifar10": ["rtx4090"],
    "flow_matching imagenet64": ["a100:8"],
    "glow cifar10": ["a100:8"],
    "gpt gpt2": ["h100:8", "--model.accumulate", "5"],
    "gpt gpt2 on TPU": ["v5e:1", "--batch-size", "12", "--model.accumulate", "1"],
    "gpt gpt2_medium": ["h100:8", "--model.accumulate", "5"],
    "gpt gpt2_large": ["h100:8", "--mesh", "fsdp=8", "--model.accumulate", "10"],
    "gpt gpt2_xl": ["h100:8", "--mesh", "fsdp=8", "--batch-size", "64", "--model.accumulate", "1", "--remat"],
    "hifigan ljspeech": ["rtx4090"],
    "improved_ddpm cifar10": ["rtx4090"],
    "improved_ddpm imagenet64": ["a100"],
    "latent_diffusion dit_xl": ["v5e:4x4", "--mesh", "fsdp=16"],
    "latent_diffusion ldm4": ["h100:8"],
    "maf mnist_paper": ["rtx4090"],
    "mipnerf blender": ["rtx4090"],
    "nerf blender": ["rtx4090"],
    "ngp blender": ["rtx4090"],
    "nsf cifar10": ["rtx4090"],
    "pix2pix folder": ["rtx4090"],
    "pixelcnn cifar10": ["rtx4090", "--model.accumulate", "2"],
    "pixelcnn_pp cifar10": ["a100:8"],
    "realnvp cifar10": ["rtx4090"],
    "score_matching cifar10": ["rtx4090"],
    "score_matching imagenet64": ["a100"],
    "sngan cifar10": ["rtx4090"],
    "stylegan celeba_hq256": ["a100:8"],
    "stylegan2 celeba_hq256": ["a100:8"],
    "super_resolution imagenet64": ["a100:8"],
    "tacotron2 ljspeech": ["h100"],
    "tacotron2 ljspeech on TPU": ["v5e:2x2"],
    "text_to_image ldm_kl8": ["h100:8"],
    "text_to_image sd15": ["h100:64", *IMAGENET],
    "text_to_image sd15 by LoRA": [
        "rtx4090", "--batch-size", "1", "--model.accumulate", "1", "--lora.rank", "8", "--init", "runs/sd15",
        "--steps-per-call", "1", "--log-every", "1", "--remat", "--samples", "1",
    ],
    "vae cifar10": ["rtx4090"],
    "vit_vqgan imagenet": ["h100:8", *IMAGENET],
    "vit_vqgan_prior imagenet": ["v5e:4x4", "--mesh", "fsdp=16"],
    "vit_vqgan_prior imagenet_maskgit": ["h100:8"],
    "vqvae cifar10": ["rtx4090"],
    "vqvae imagenet_two_levels": ["h100:8", *IMAGENET],
    "wgan_gp cifar10": ["rtx4090"],
}  # fmt: skip


def main(wanted: list[str]) -> None:
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    named = {name for name in ROWS if any(word in name for word in wanted)}
    for name in sorted(named if wanted else ROWS.keys() - found.keys()):
        print(name, flush=True)
        row = planned(*name.split()[:2], *ROWS[name])
        if row is not None:
            keep(RESULTS, name, row)


def keep(file: Path, name: str, row: dict) -> None:
    """Writes one row beside those that the file has by now."""
    found = {**(json.loads(file.read_text()) if file.exists() else {}), name: row}
    file.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")


def planned(script: str, preset: str, machine: str, *flags: str) -> dict | None:
    """The plan of one row, with when and of which commit it was made; None if the command refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, "-m", "jaxgen", "plan", script, preset, "--on", machine, *flags, "--out", str(out)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            print("  " + done.stderr.strip().splitlines()[-1], flush=True)
            return None
        taken = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "git": environment()["git"]}
        return {**json.loads(out.read_text()), "flags": flags, "taken": taken}


if __name__ == "__main__":
    main(sys.argv[1:])
