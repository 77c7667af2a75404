"""Deep convolutional GAN (arXiv:1511.06434), at 32 px by doubling and convolving, at 64 px by transposed convolution.

    python experiments/dcgan.py emoji      # 32 px
    python experiments/dcgan.py emoji64
    python experiments/dcgan.py mnist

Weights start from N(0, 0.02); Adam 2e-4 with beta_1 = 0.5, batch 128, as in section 4 of the paper. mnist: 15 minutes
of CPU, fd_mnist_cnn 2.98 of 10,000 samples (seed 0), the rarest digit 6.6 %. CPU minutes (docs/presets.md): digits 0.8,
emoji 6. Not yet run to the end: cifar10, imagenet64. For a GPU, not run here: emoji64.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import DCGANCritic, DCGANGenerator
from jaxgen.optim import Adam

# The stack of the source sketches at 32 px; wider, it is the usual one.
SMALL = {
    "generator": DCGANGenerator(channels=(128, 128, 64), up="nearest", slope=0.2),
    "critic": DCGANCritic(channels=(16, 32, 64, 128), size=3, dropout=0.25),
}

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, generator=DCGANGenerator(channels=(16, 8)), critic=DCGANCritic(channels=(8, 16)),
            critic_optimizer=Adam(lr=1e-3, b1=0.5), ema_decay=0.99,
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, generator=DCGANGenerator(channels=(64, 32)),
            critic=DCGANCritic(channels=(32, 64)), ema_decay=0.999,
        ),
        data=Digits(), batch_size=128, steps=5000, save_every=1000, sample_every=1000,
    ),
    "emoji": Experiment(
        model=GAN(shape=(32, 32, 3), **SMALL, ema_decay=0.999), data=Emoji(size=32), batch_size=64, steps=6000,
        steps_per_call=10, log_every=50, save_every=1000, sample_every=1000,
    ),
    "emoji64": Experiment(
        model=GAN(shape=(64, 64, 3), generator=DCGANGenerator(), critic=DCGANCritic(), ema_decay=0.999),
        data=Emoji(size=64), batch_size=64, steps=10_000, steps_per_call=10, log_every=50, save_every=1000,
        sample_every=1000,
    ),
    # 28 px are cropped from 32.
    "mnist": Experiment(
        model=GAN(
            shape=(28, 28, 1), generator=DCGANGenerator(channels=(128, 64, 32)),
            critic=DCGANCritic(channels=(32, 64, 128)), ema_decay=0.999,
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=4000, steps_per_call=20, save_every=1000, sample_every=1000,
    ),
    "cifar10": Experiment(
        model=GAN(
            shape=(32, 32, 3), generator=DCGANGenerator(channels=(256, 128, 64)),
            critic=DCGANCritic(channels=(64, 128, 256)), ema_decay=0.999,
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=100_000, log_every=500, save_every=5000, sample_every=5000,
    ),
    "imagenet64": Experiment(
        model=GAN(
            shape=(64, 64, 3), generator=DCGANGenerator(channels=(1024, 512, 256, 128)),
            critic=DCGANCritic(channels=(128, 256, 512, 1024)), ema_decay=0.999,
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=128, steps=500_000, steps_per_call=100, log_every=500,
        save_every=10_000, sample_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
