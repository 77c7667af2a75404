"""GAN with spectral normalization (arXiv:1802.05957): residual networks, hinge loss.

    python experiments/sngan.py digits
    python experiments/sngan.py cifar10    # the paper: FID 21.7 of 5,000 samples

cifar10 is table 4 of the paper with Adam 2e-4, betas 0 and 0.9, five steps of the critic on 64 examples each; the
learning rate falls as a cosine, not linearly, and the generator sees 64 fakes, not 128. CPU minutes (docs/presets.md):
digits 4, toy 3, mnist 9. Not yet run to the end: cifar10.
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

ADAM = Adam(lr=2e-4, b1=0.0, b2=0.9)

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, generator=ResNetGenerator(channels=(8,)),
            critic=ResNetCritic(channels=(8, 8), halvings=1), objective=Hinge(), n_critic=2, ema_decay=0.99,
            optimizer=ADAM, critic_optimizer=Adam(lr=2e-3, b1=0.0, b2=0.9),
        ),
        data=Digits(), batch_size=2 * 16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "toy": Experiment(
        model=GAN(
            shape=(2,), latent=2, generator=MLPGenerator(hidden=(128, 128, 128), normalize=False, squash=False),
            critic=MLPCritic(hidden=(128, 128, 128), spectral=True), objective=Hinge(), optimizer=ADAM,
            critic_optimizer=ADAM, n_critic=5,
        ),
        codec=Identity(), data=Toy2D(name="gaussians25"), batch_size=5 * 256, steps=20_000, steps_per_call=500,
        log_every=500, save_every=5000, sample_every=5000, num_samples=2500,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, generator=ResNetGenerator(channels=(32,)),
            critic=ResNetCritic(channels=(32, 32), halvings=1), objective=Hinge(), optimizer=ADAM,
            critic_optimizer=ADAM, ema_decay=0.999,
        ),
        data=Digits(), batch_size=128, steps=5000, save_every=1000, sample_every=1000,
    ),
    "mnist": Experiment(
        model=GAN(
            shape=(28, 28, 1), latent=128, generator=ResNetGenerator(channels=(32, 32)),
            critic=ResNetCritic(channels=(32, 32, 32)), objective=Hinge(), optimizer=ADAM, critic_optimizer=ADAM,
            ema_decay=0.999,
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=10, save_every=1000, sample_every=1000,
    ),
    "cifar10": Experiment(
        model=GAN(
            shape=(32, 32, 3), latent=128, generator=ResNetGenerator(), critic=ResNetCritic(), objective=Hinge(),
            n_critic=5, optimizer=Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=100_000),
            critic_optimizer=Adam(lr=2e-4, b1=0.0, b2=0.9, decay_steps=500_000), ema_decay=0.999,
        ),
        data=TFDS(name="cifar10"), batch_size=5 * 64, steps=100_000, log_every=500, save_every=5000,
        sample_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
