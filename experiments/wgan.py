"""Wasserstein GAN with clipped weights (arXiv:1701.07875).

    python experiments/wgan.py toy
    python experiments/wgan.py mnist

Algorithm 1 of the paper: RMSprop 5e-5, weights within 0.01, five steps of the critic on 64 fresh examples each for one
of the generator; batch_size counts all five. `loss` is minus the estimate of the distance, times the critic's unknown
Lipschitz constant. CPU minutes (docs/presets.md): toy 3, digits 1.3, mnist 9. Not yet run to the end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import DCGANCritic, DCGANGenerator, MLPCritic, MLPGenerator
from jaxgen.ops.gan import Wasserstein
from jaxgen.optim import RMSprop

WGAN = {
    "objective": Wasserstein(), "n_critic": 5, "clip_weights": 0.01,
    "optimizer": RMSprop(lr=5e-5), "critic_optimizer": RMSprop(lr=5e-5),
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, generator=MLPGenerator(hidden=(32, 32)), **{**WGAN, "clip_weights": 0.1},
            critic=MLPCritic(hidden=(32,), bias=False), ema_decay=0.99,
        ),
        data=Digits(), batch_size=5 * 16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    # A box that small leaves a critic of points no slope to speak of.
    "toy": Experiment(
        model=GAN(
            shape=(2,), latent=2, generator=MLPGenerator(hidden=(128, 128, 128), normalize=False, squash=False),
            critic=MLPCritic(hidden=(128, 128, 128), bias=False), **{**WGAN, "clip_weights": 0.1},
        ),
        codec=Identity(), data=Toy2D(name="gaussians25"), batch_size=5 * 256, steps=20_000, steps_per_call=500,
        log_every=500, save_every=5000, sample_every=5000, num_samples=2500,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, generator=MLPGenerator(hidden=(128, 256)),
            critic=MLPCritic(hidden=(256, 128), bias=False), **WGAN,
        ),
        data=Digits(), batch_size=5 * 64, steps=20_000, steps_per_call=100, save_every=5000, sample_every=5000,
    ),
    "mnist": Experiment(
        model=GAN(
            shape=(28, 28, 1), generator=DCGANGenerator(channels=(128, 64, 32)),
            critic=DCGANCritic(channels=(32, 64, 128), bias=False), **WGAN,
        ),
        data=TFDS(name="mnist"), batch_size=5 * 64, steps=4000, steps_per_call=20, save_every=1000,
        sample_every=1000,
    ),
    "cifar10": Experiment(
        model=GAN(
            shape=(32, 32, 3), generator=DCGANGenerator(channels=(256, 128, 64)),
            critic=DCGANCritic(channels=(64, 128, 256), bias=False), **WGAN,
        ),
        data=TFDS(name="cifar10"), batch_size=5 * 64, steps=200_000, log_every=500, save_every=5000,
        sample_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
