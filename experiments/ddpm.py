"""Denoising diffusion (arXiv:2006.11239).

    python experiments/ddpm.py digits      # 8 x 8 digits, minutes on two cores
    python experiments/ddpm.py emoji --mesh data=2     # 32 px, a row for each of nine groups: 46 minutes there
    python experiments/ddpm.py mnist --mesh data=2

Not yet run to the end: cifar10, imagenet64.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.unet import UNet, ddpm32
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, Ancestral
from jaxgen.ops.schedules import Cosine, Linear
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=UNet(width=8, mults=(1, 2), blocks=1, attention=(4,), head_dim=8),
            schedule=Cosine(num_steps=20), ema_decay=0.99, evaluate_times=4,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=DDPM(
            shape=(8, 8, 1), network=UNet(width=32, mults=(1, 2), blocks=1, attention=(4,), head_dim=32),
            schedule=Cosine(num_steps=1000), sampler=Ancestral(steps=100), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500,
    ),
    "emoji": Experiment(
        model=DDPM(
            shape=(32, 32, 3), network=UNet(48, (1, 2, 4), 1, (8,), head_dim=48, patch=2), kind="v",
            schedule=Cosine(num_steps=1000), sampler=DDIM(steps=50), ema_decay=0.999, num_classes=9, class_dropout=0.1,
            guidance=Guidance(scale=4.0), optimizer=Adam(lr=1e-3, warmup=200, decay_steps=4000, clip=1.0),
        ),
        data=Emoji(size=32), batch_size=32, steps=4000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=500, num_samples=72,
    ),
    "mnist": Experiment(
        model=DDPM(
            shape=(28, 28, 1), network=UNet(width=32, mults=(1, 2), blocks=1, attention=(7,), head_dim=32, patch=2),
            schedule=Cosine(num_steps=1000), sampler=DDIM(steps=50), kind="v", ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=5000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=5000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    # Appendix B of the paper: 35.7 M parameters, linear schedule, the larger variance, 800,000 steps, FID 3.17.
    "cifar10": Experiment(
        model=DDPM(
            shape=(32, 32, 3), network=ddpm32(), schedule=Linear(num_steps=1000), sampler=Ancestral(large=True),
            optimizer=Adam(lr=2e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=800_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
    "imagenet64": Experiment(
        model=DDPM(
            shape=(64, 64, 3), network=UNet(width=128, mults=(1, 2, 3, 4), blocks=3, attention=(16, 8)),
            schedule=Cosine(num_steps=1000), sampler=DDIM(steps=250), num_classes=1000, class_dropout=0.1,
            guidance=Guidance(scale=1.5), optimizer=Adam(lr=1e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=128, steps=1_500_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
