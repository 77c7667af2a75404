"""Conditional GAN: the class concatenated (arXiv:1411.1784), or to the critic by projection (arXiv:1802.05637).

    python experiments/cgan.py digits
    jaxgen sample runs/cgan-digits-0 --cond 7

digits and mnist concatenate, as the source sketches do; cifar10 projects. mnist: 9 minutes of CPU, 93.3 % of 10,000
samples are of the class asked for, fd_mnist_cnn 1.09 (seed 0). CPU minutes (docs/presets.md): digits 0.9, toy 1.1. Not
yet run to the end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import MLPCritic, MLPGenerator
from jaxgen.nets.resnet_gan import ResNetCritic, ResNetGenerator
from jaxgen.ops.gan import Hinge
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, num_classes=10, generator=MLPGenerator(hidden=(32, 32)),
            critic=MLPCritic(hidden=(64, 32), projection=True), critic_optimizer=Adam(lr=1e-3, b1=0.5), ema_decay=0.99,
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=GAN(
            shape=(2,), latent=2, num_classes=25, critic=MLPCritic(hidden=(128, 128, 128), projection=True),
            generator=MLPGenerator(hidden=(128, 128, 128), normalize=False, squash=False),
            optimizer=Adam(lr=1e-4, b1=0.5), critic_optimizer=Adam(lr=1e-4, b1=0.5),
        ),
        codec=Identity(), data=Toy2D(name="gaussians25"), batch_size=256, steps=20_000, steps_per_call=500,
        log_every=500, save_every=5000, sample_every=5000, num_samples=2500,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, num_classes=10, generator=MLPGenerator(hidden=(128, 256)), ema_decay=0.999,
            critic=MLPCritic(hidden=(256, 128), dropout=0.3),
        ),
        data=Digits(), batch_size=128, steps=10_000, steps_per_call=100, save_every=2000, sample_every=2000,
        num_samples=80,
    ),
    "mnist": Experiment(
        model=GAN(shape=(28, 28, 1), num_classes=10, critic=MLPCritic(dropout=0.3), ema_decay=0.999),
        data=TFDS(name="mnist"), batch_size=128, steps=10_000, steps_per_call=50, log_every=500, save_every=2000,
        sample_every=2000, num_samples=80,
    ),
    "cifar10": Experiment(
        model=GAN(
            shape=(32, 32, 3), latent=128, num_classes=10, generator=ResNetGenerator(), critic=ResNetCritic(),
            objective=Hinge(), n_critic=5, optimizer=Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=100_000),
            critic_optimizer=Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=500_000), ema_decay=0.999,
        ),
        data=TFDS(name="cifar10"), batch_size=5 * 64, steps=100_000, log_every=500, save_every=5000,
        sample_every=5000, num_samples=80,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
