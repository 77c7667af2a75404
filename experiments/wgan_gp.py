"""Wasserstein GAN with a gradient penalty (arXiv:1704.00028).

    python experiments/wgan_gp.py toy                 # a grid of 25 Gaussians
    python experiments/wgan_gp.py toy --seeds 5       # five of them in one program
    python experiments/wgan_gp.py mnist

Algorithm 1 of the paper: lambda 10, Adam 1e-4 with betas 0 and 0.9, five steps of the critic on 64 fresh examples each
for one of the generator; batch_size counts all five. `real_logit` less `fake_logit` estimates the distance. For points
lambda is 0.1 and the learning rate falls from 1e-3: 25 of 25 modes and 91.4 +- 1.3 % good of 2,500 samples (seeds 0 to
4), 44 minutes for all five beside other runs on two cores. mnist: 15 minutes of CPU, fd_mnist_cnn 4.51 of 10,000
samples (seed 0), the rarest digit 7.4 %. CPU minutes (docs/presets.md): toy 4, digits 0.9, emoji 7. Not yet run to the
end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Emoji, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator
from jaxgen.nets.resnet_gan import ResNetCritic, ResNetGenerator
from jaxgen.ops.gan import Wasserstein
from jaxgen.optim import Adam

WGAN_GP = {
    "objective": Wasserstein(), "n_critic": 5, "gradient_penalty": 10.0,
    "optimizer": Adam(lr=1e-4, b1=0.0, b2=0.9), "critic_optimizer": Adam(lr=1e-4, b1=0.0, b2=0.9),
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, generator=DCGANGenerator(channels=(16, 8)), **WGAN_GP,
            critic=DCGANCritic(channels=(8, 16), normalize=False, bias=False), ema_decay=0.99,
        ),
        data=Digits(), batch_size=5 * 8, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "toy": Experiment(
        model=GAN(
            shape=(2,), latent=2, generator=MLPGenerator(hidden=(128, 128, 128), normalize=False, squash=False),
            critic=MLPCritic(hidden=(128, 128, 128), bias=False),
            **{
                **WGAN_GP, "gradient_penalty": 0.1, "optimizer": Adam(lr=1e-3, b1=0.0, b2=0.9, decay_steps=20_000),
                "critic_optimizer": Adam(lr=1e-3, b1=0.0, b2=0.9, decay_steps=100_000),
            },
        ),
        codec=Identity(), data=Toy2D(name="gaussians25"), batch_size=5 * 256, steps=20_000, steps_per_call=500,
        log_every=500, save_every=5000, sample_every=5000, num_samples=2500,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, generator=MLPGenerator(hidden=(128, 256)), ema_decay=0.999,
            critic=MLPCritic(hidden=(256, 128), bias=False), **WGAN_GP,
        ),
        data=Digits(), batch_size=5 * 64, steps=10_000, steps_per_call=100, save_every=2000, sample_every=2000,
    ),
    "emoji": Experiment(
        model=GAN(
            shape=(32, 32, 3), generator=DCGANGenerator(channels=(128, 64, 32), up="nearest"), ema_decay=0.999,
            critic=DCGANCritic(channels=(32, 64, 128), normalize=False, bias=False), **WGAN_GP,
        ),
        data=Emoji(size=32), batch_size=5 * 32, steps=3500, steps_per_call=10, log_every=50, save_every=1000,
        sample_every=1000,
    ),
    "mnist": Experiment(
        model=GAN(
            shape=(28, 28, 1), generator=DCGANGenerator(channels=(128, 64, 32)), ema_decay=0.999,
            critic=DCGANCritic(channels=(16, 32, 64), normalize=False, bias=False),
            **{
                **WGAN_GP, "optimizer": Adam(lr=5e-4, b1=0.0, b2=0.9, decay_steps=2000),
                "critic_optimizer": Adam(lr=5e-4, b1=0.0, b2=0.9, decay_steps=10_000),
            },
        ),
        data=TFDS(name="mnist"), batch_size=5 * 64, steps=2000, steps_per_call=10, save_every=500, sample_every=500,
    ),
    # As in the paper: residual networks 128 wide, Adam 2e-4, 100,000 steps.
    "cifar10": Experiment(
        model=GAN(
            shape=(32, 32, 3), latent=128, generator=ResNetGenerator(channels=(128, 128, 128)),
            critic=ResNetCritic(spectral=False, bias=False),
            **{
                **WGAN_GP, "optimizer": Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=100_000),
                "critic_optimizer": Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=500_000),
            },
        ),
        data=TFDS(name="cifar10"), batch_size=5 * 64, steps=100_000, log_every=500, save_every=5000,
        sample_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
