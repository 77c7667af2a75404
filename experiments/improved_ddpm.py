"""Improved DDPM (arXiv:2102.09672): cosine schedule, learned variance, hybrid loss; bits/dim by the variational bound.

    python experiments/improved_ddpm.py digits     # 8 x 8 digits, minutes on two cores
    jaxgen evaluate runs/improved_ddpm-digits-0    # bits_per_dim, over all 1,000 steps

CPU minutes (docs/presets.md): digits 8, mnist 61. Not yet run to the end: cifar10 (52.5 M; the paper: FID 2.90 after
500,000 steps, or 2.94 bits/dim trained on the bound, --model.objective vlb), imagenet64 (121 M).
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.unet import UNet, improved32
from jaxgen.ops.samplers import DDIM, Ancestral
from jaxgen.ops.schedules import Cosine
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8, scale_shift=True, resample_blocks=True),
            schedule=Cosine(num_steps=20), objective="hybrid", importance=True, ema_decay=0.99, evaluate_times=4,
            bound_steps=5, optimizer=Adam(lr=2e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "digits": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32, scale_shift=True),
            schedule=Cosine(num_steps=1000), objective="hybrid", sampler=Ancestral(steps=100), ema_decay=0.999,
            bound_steps=1000, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500,
    ),
    "mnist": Experiment(
        model=DDPM(
            shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2, scale_shift=True),
            schedule=Cosine(num_steps=1000), objective="hybrid", sampler=Ancestral(steps=100), ema_decay=0.999,
            bound_steps=100, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=5000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=5000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    # Appendix A: 52.5 M parameters, dropout 0.3, 500,000 steps.
    "cifar10": Experiment(
        model=DDPM(
            shape=(32, 32, 3), network=improved32(), schedule=Cosine(num_steps=4000), objective="hybrid",
            bound_steps=4000, optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=500_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
    "imagenet64": Experiment(
        model=DDPM(
            shape=(64, 64, 3), network=UNet(128, (1, 2, 3, 4), 3, (16, 8), head_dim=64, scale_shift=True),
            schedule=Cosine(num_steps=4000), objective="hybrid", sampler=DDIM(steps=250), bound_steps=4000,
            optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=128, steps=1_500_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
