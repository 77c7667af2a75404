"""Diffusion transformers (arXiv:2212.09748) on pixels: adaLN-Zero, hybrid loss or flow matching, guidance.

    python experiments/dit.py digits         # 1.3 M parameters, 8 x 8 digits
    python experiments/dit.py digits_repa    # its tokens aligned to features of runs/classifier-digits-0 (REPA)

digits_repa is digits aligned to a frozen run (arXiv:2410.06940), that of experiments/classifier.py digits; another by
--codec.run. CPU minutes (docs/presets.md): digits 11, mnist 7, digits_repa 7. Not yet run to the end: cifar10
(DiT-S/2), imagenet64 (DiT-XL/4, 675 M). For a GPU, not run here: emoji_large (DiT-S/2, 32 M). The paper: FID 2.27,
DiT-XL/2 on ImageNet-256 latents.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.alignment import Alignment
from jaxgen.models.ddpm import DDPM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.dit import DiT, dit
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, DPMSolverPP, Heun
from jaxgen.ops.schedules import Cosine, Linear
from jaxgen.optim import Adam
from jaxgen.runs.aligned import Aligned


def repa(experiment: Experiment, run: str) -> Experiment:
    """The experiment aligned to features of a frozen run."""
    aligned = replace(experiment.model, align=Alignment(weight=0.5, block=2))
    return replace(experiment, model=aligned, codec=Aligned(run=run))


PRESETS = {
    "smoke": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=DiT(width=32, depth=2, heads=2, patch=2), schedule=Linear(num_steps=50),
            objective="hybrid", sampler=DDIM(steps=10), num_classes=10, class_dropout=0.2, guidance=Guidance(scale=2.0),
            ema_decay=0.99, evaluate_times=4, optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "digits": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=DiT(width=128, depth=4, heads=4, patch=2), schedule=Cosine(num_steps=1000),
            objective="hybrid", sampler=DPMSolverPP(steps=25), num_classes=10, class_dropout=0.1, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=4000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=4000, log_every=100, sample_every=1000, save_every=500, num_samples=80,
    ),
    "emoji_large": Experiment(
        model=FlowMatching(
            shape=(32, 32, 3), network=dit("S"), sampler=Heun(steps=25, clip=0.0), logit_std=1.0, ema_decay=0.9995,
            num_classes=9, class_dropout=0.1, guidance=Guidance(scale=2.0),
            optimizer=Adam(lr=3e-4, warmup=1000, clip=1.0),
        ),
        data=Emoji(size=32), batch_size=256, steps=50_000, steps_per_call=50, log_every=100, sample_every=5000,
        save_every=2500, num_samples=72, precision="bfloat16",
    ),
    # Velocities: noise that is predicted, as of digits, was still wrong from patch to patch after as many steps.
    "mnist": Experiment(
        model=FlowMatching(
            shape=(28, 28, 1), network=DiT(width=128, depth=4, heads=4, patch=4), sampler=Heun(steps=25, clip=0.0),
            logit_std=1.0, ema_decay=0.999, num_classes=10, class_dropout=0.1,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=3000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000, num_samples=80,
    ),
    "cifar10": Experiment(
        model=DDPM(
            shape=(32, 32, 3), network=dit("S"), schedule=Cosine(num_steps=1000), objective="hybrid", num_classes=10,
            class_dropout=0.1, sampler=DDIM(steps=250), optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="cifar10"), batch_size=256, steps=400_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, num_samples=80, precision="bfloat16",
    ),
    # DiT-XL with patches of 4 has as many tokens on 64 pixels as the paper's has on latents of 32: batch 256, constant
    # rate, 400,000 steps as in table 4.
    "imagenet64": Experiment(
        model=DDPM(
            shape=(64, 64, 3), network=dit("XL", 4), schedule=Cosine(num_steps=1000), objective="hybrid",
            num_classes=1000, class_dropout=0.1, guidance=Guidance(scale=1.5), sampler=DDIM(steps=250),
            optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=256, steps=400_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip
PRESETS |= {
    "digits_repa": repa(PRESETS["digits"], "runs/classifier-digits-0"),
}

if __name__ == "__main__":
    main(PRESETS, __doc__)
