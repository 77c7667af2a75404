"""EDM (arXiv:2206.00364): preconditioned denoiser, log-normal noise levels, Heun's method in few evaluations.

    python experiments/edm.py toy            # eight Gaussians in the plane, 1.4 minutes on two cores
    python experiments/edm.py digits
    python experiments/edm.py mnist
    python experiments/edm.py emoji_large    # 35.7 M parameters, for a GPU

CPU minutes (docs/presets.md): toy 0.4, digits 7. Not yet run to the end: cifar10 (56.5 M; the paper: FID 1.97 at 35
evaluations), imagenet64 (296 M; the paper: 1.36 at 511). For a GPU, not run here: emoji_large.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Emoji, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.edm import EDM
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet, adm64
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Heun
from jaxgen.ops.schedules import Karras
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=EDM(
            shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8), sampler=Heun(steps=6, clip=0.0, churn=4.0),
            num_classes=10, class_dropout=0.2, guidance=Guidance(scale=1.5), ema_decay=0.99, evaluate_times=4,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=EDM(
            shape=(2,), network=TimeMLP(width=128, depth=3), sigma_data=1.0, schedule=Karras(sigma_max=20.0),
            ema_decay=0.999, optimizer=Adam(lr=1e-3, decay_steps=5000),
        ),
        codec=Identity(), data=Toy2D(name="gaussians8"), batch_size=512, steps=5000, steps_per_call=100,
        sample_every=1000, num_samples=2000,
    ),
    "digits": Experiment(
        model=EDM(
            shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), num_classes=10, class_dropout=0.1,
            ema_decay=0.999, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500, num_samples=80,
    ),
    "emoji_large": Experiment(
        model=EDM(
            shape=(32, 32, 3), network=UNet(128, (1, 2, 2, 2), 2, (16,), dropout=0.1), ema_decay=0.9995, num_classes=9,
            class_dropout=0.1, guidance=Guidance(scale=2.0), optimizer=Adam(lr=3e-4, warmup=1000, clip=1.0),
        ),
        data=Emoji(size=32), batch_size=256, steps=50_000, steps_per_call=50, log_every=100, sample_every=5000,
        save_every=2500, num_samples=72, precision="bfloat16",
    ),
    "mnist": Experiment(
        model=EDM(
            shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=3000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    # Table 7: 128 channels at 32, 16 and 8 pixels twice as many, batch 512, dropout 0.13, 200 M images.
    "cifar10": Experiment(
        model=EDM(
            shape=(32, 32, 3), network=UNet(128, (2, 2, 2), 4, (16,), head_dim=256, dropout=0.13, resample_blocks=True),
            ema_decay=0.9993, optimizer=Adam(lr=1e-3, warmup=19_500),
        ),
        data=TFDS(name="cifar10"), batch_size=512, steps=390_600, steps_per_call=100, log_every=300,
        sample_every=9300, save_every=9300,
    ),
    # Table 7: ADM's network, batch 4096, 2,500 M images; stochastic sampling as in table 5.
    "imagenet64": Experiment(
        model=EDM(
            shape=(64, 64, 3), network=adm64(), ema_decay=0.99995, num_classes=1000,
            sampler=Heun(steps=256, clip=0.0, churn=40.0, churn_min=0.05, churn_max=50.0, churn_noise=1.003),
            optimizer=Adam(lr=1e-4, warmup=2400),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=4096, steps=610_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
