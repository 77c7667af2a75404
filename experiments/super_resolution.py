"""Super-resolution by diffusion, SR3 (arXiv:2104.07636): a small image in, a large one out.

    python experiments/super_resolution.py digits    # 4 x 4 to 8 x 8
    python experiments/super_resolution.py mnist --data.data-dir DIR    # 7 x 7 to 28 x 28

Of captioned pictures, the second stage of cascade.py. CPU minutes (docs/presets.md): digits 7, mnist 12. Not yet run to
the end: cifar10 (8 to 32), imagenet64 (16 to 64).
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.nets.unet import UNet
from jaxgen.ops.samplers import Ancestral, DPMSolverPP
from jaxgen.ops.schedules import Cosine
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=SuperResolution(
            shape=(8, 8, 1), factor=2, network=UNet(8, (1, 2), 1, (), head_dim=8), schedule=Cosine(num_steps=20),
            sampler=Ancestral(steps=8), kind="v", min_snr=5.0, ema_decay=0.99, evaluate_times=4,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "digits": Experiment(
        model=SuperResolution(
            shape=(8, 8, 1), factor=2, network=UNet(32, (1, 2), 1, (4,), head_dim=32),
            schedule=Cosine(num_steps=1000), sampler=DPMSolverPP(steps=25), kind="v", ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500,
    ),
    "mnist": Experiment(
        model=SuperResolution(
            shape=(28, 28, 1), factor=4, network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2),
            schedule=Cosine(num_steps=1000), sampler=DPMSolverPP(steps=25), kind="v", ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=4000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=4000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    "cifar10": Experiment(
        model=SuperResolution(
            shape=(32, 32, 3), factor=4, network=UNet(128, (1, 2, 2, 2), 2, (16,), dropout=0.1),
            schedule=Cosine(num_steps=1000), sampler=DPMSolverPP(steps=25), kind="v",
            optimizer=Adam(lr=2e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=400_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
    "imagenet64": Experiment(
        model=SuperResolution(
            shape=(64, 64, 3), factor=4, network=UNet(128, (1, 2, 3, 4), 3, (16, 8)), schedule=Cosine(num_steps=1000),
            sampler=DPMSolverPP(steps=25), kind="v", optimizer=Adam(lr=1e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=256, steps=500_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
