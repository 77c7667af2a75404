"""Generative adversarial network (arXiv:1406.2661), fully connected, with the non-saturating loss.

    python experiments/gan.py toy          # a grid of 25 Gaussians
    python experiments/gan.py digits
    python experiments/gan.py mnist --model.objective.smoothing 0.1 --model.instance-noise 0.1

`loss` is the critic's, log 4 = 1.386 where it cannot tell fakes. toy: 25 of 25 modes, 74 % good of 2,500 samples (seeds
0 to 4); at ten times the rate it loses a fifth of them, see docs/results.md. CPU minutes (docs/presets.md): digits 0.7,
toy 1.0, mnist 7. Not yet run to the end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.gan import GAN
from jaxgen.nets.gan import MLPCritic, MLPGenerator
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=8, generator=MLPGenerator(hidden=(32, 32)), critic=MLPCritic(hidden=(64, 32)),
            critic_optimizer=Adam(lr=1e-3, b1=0.5), ema_decay=0.99,
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "toy": Experiment(
        model=GAN(
            shape=(2,), latent=2, generator=MLPGenerator(hidden=(128, 128, 128), normalize=False, squash=False),
            critic=MLPCritic(hidden=(128, 128, 128)), optimizer=Adam(lr=1e-4, b1=0.5),
            critic_optimizer=Adam(lr=1e-4, b1=0.5),
        ),
        codec=Identity(), data=Toy2D(name="gaussians25"), batch_size=256, steps=20_000, steps_per_call=500,
        log_every=500, save_every=5000, sample_every=5000, num_samples=2500,
    ),
    "digits": Experiment(
        model=GAN(
            shape=(8, 8, 1), latent=32, generator=MLPGenerator(hidden=(128, 256)), ema_decay=0.999,
            critic=MLPCritic(hidden=(256, 128), dropout=0.3),
        ),
        data=Digits(), batch_size=128, steps=10_000, steps_per_call=100, save_every=2000, sample_every=2000,
    ),
    # 469 steps see the 60,000 training images once: 46,900 are 100 epochs.
    "mnist": Experiment(
        model=GAN(shape=(28, 28, 1), critic=MLPCritic(dropout=0.3), ema_decay=0.999),
        data=TFDS(name="mnist"), batch_size=128, steps=23_450, steps_per_call=70, log_every=700, save_every=4690,
        sample_every=4690,
    ),
    "cifar10": Experiment(
        model=GAN(shape=(32, 32, 3), critic=MLPCritic(dropout=0.3), ema_decay=0.999),
        data=TFDS(name="cifar10"), batch_size=128, steps=100_000, log_every=500, save_every=5000, sample_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
