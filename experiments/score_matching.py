"""Denoising score matching with annealed Langevin sampling (arXiv:1907.05600, settings of arXiv:2006.09011).

    python experiments/score_matching.py toy       # eight Gaussians in the plane, 1.8 minutes on two cores
    python experiments/score_matching.py digits

CPU minutes (docs/presets.md): toy 0.8, digits 8, mnist 10. Not yet run to the end: cifar10 (35.7 M; arXiv:2006.09011:
FID 10.87), imagenet64 (116 M).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.score_matching import ScoreMatching
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet, ddpm32
from jaxgen.ops.samplers import AnnealedLangevin
from jaxgen.ops.schedules import Geometric
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=ScoreMatching(
            shape=(8, 8, 1), network=TimeMLP(width=64, depth=2), schedule=Geometric(10, 0.05, 5.0),
            sampler=AnnealedLangevin(each=2, step=0.3), ema_decay=0.99, evaluate_times=4,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=ScoreMatching(
            shape=(2,), network=TimeMLP(width=128, depth=3), schedule=Geometric(20, 0.03, 4.0), sigma_data=1.0,
            sampler=AnnealedLangevin(each=20, step=0.3), ema_decay=0.999, optimizer=Adam(lr=1e-3, decay_steps=5000),
        ),
        codec=Identity(), data=Toy2D(name="gaussians8"), batch_size=512, steps=5000, steps_per_call=100,
        sample_every=1000, num_samples=2000,
    ),
    "digits": Experiment(
        model=ScoreMatching(
            shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), schedule=Geometric(40, 0.02, 8.0),
            sampler=AnnealedLangevin(each=5, step=0.3), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500,
    ),
    "mnist": Experiment(
        model=ScoreMatching(
            shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2),
            schedule=Geometric(100, 0.01, 25.0), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=3000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    # 232 levels from 50 to 0.01 for data in [0, 1], which is 100 to 0.02 in [-1, 1]; 5 Langevin steps at each:
    # arXiv:2006.09011.
    "cifar10": Experiment(
        model=ScoreMatching(
            shape=(32, 32, 3), network=ddpm32(), schedule=Geometric(232, 0.02, 100.0), ema_decay=0.999,
            optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=300_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
    "imagenet64": Experiment(
        model=ScoreMatching(
            shape=(64, 64, 3), network=UNet(128, (1, 2, 3, 4), 3, (16, 8)), schedule=Geometric(500, 0.02, 220.0),
            sampler=AnnealedLangevin(each=5, step=0.066), ema_decay=0.999, optimizer=Adam(lr=1e-4),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=128, steps=500_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
