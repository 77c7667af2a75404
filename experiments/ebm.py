"""Energy-based model (arXiv:1903.08689) with persistent Langevin chains.

    python experiments/ebm.py toy          # two moons; energy.png shows the energy beside the data
    python experiments/ebm.py digits
    python experiments/ebm.py mnist --data.data-dir DIR
    jaxgen evaluate runs/ebm-mnist-0       # `energy`, the score that benchmarks/ood.py tells other images by

mnist takes 33 minutes of one core; its samples are digits, some of them smudged. CPU minutes (docs/presets.md): toy 2,
digits 11. Not yet run to the end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.ebm import EBM
from jaxgen.nets.energy import CNNEnergy, MLPEnergy, WideResNetEnergy
from jaxgen.ops.langevin import Langevin
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=EBM(
            shape=(8, 8, 1), network=CNNEnergy(channels=(8, 16), width=16), chain=Langevin(steps=5),
            sampler=Langevin(steps=10), buffer=64, optimizer=Adam(lr=3e-3, b1=0.0, clip=0.1), ema_decay=0.99,
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    # Noise that leaves exp(-E) as it is, so that energies are minus log densities up to a constant.
    "toy": Experiment(
        model=EBM(
            shape=(2,), network=MLPEnergy(), bound=4.0, chain=Langevin(steps=40, step=0.002, noise=None, clip=0.0),
            sampler=Langevin(steps=200, step=0.002, noise=None, clip=0.0), sample_from_buffer=True, data_noise=0.02,
            energy_penalty=0.001, optimizer=Adam(lr=1e-3, b1=0.0, decay_steps=4000), ema_decay=0.995,
        ),
        codec=Identity(), data=Toy2D(name="moons"), batch_size=256, steps=4000, steps_per_call=100, sample_every=1000,
        num_samples=2000,
    ),
    "digits": Experiment(
        model=EBM(
            shape=(8, 8, 1), network=CNNEnergy(channels=(32, 64)), chain=Langevin(steps=40), buffer=1024,
            ema_decay=0.999,
        ),
        data=Digits(), batch_size=64, steps=3000, sample_every=1000, save_every=1000,
    ),
    # 40 steps of 64 chains, forward and back to the image, are 8e9 operations: about 0.3 s with --mesh data=2 on two
    # cores, by the time that one step of the chains takes, and 23 minutes in all.
    "mnist": Experiment(
        model=EBM(
            chain=Langevin(steps=40), buffer=2048, ema_decay=0.999,
            optimizer=Adam(lr=2e-4, b1=0.0, clip=0.1, decay_steps=4500, final=0.1),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=4500, steps_per_call=25, log_every=100, save_every=500,
        sample_every=500,
    ),
    # WRN-28-10 and the chains of arXiv:1912.03263, without its classifier: 150 epochs of 782 steps.
    "cifar10": Experiment(
        model=EBM(
            shape=(32, 32, 3), network=WideResNetEnergy(), chain=Langevin(steps=20, step=1.0, noise=0.01, clip=0.0),
            sampler=Langevin(steps=100, step=1.0, noise=0.01, clip=0.0), sample_from_buffer=True, buffer=10_000,
            data_noise=0.03, energy_penalty=0.01, optimizer=Adam(lr=1e-4, warmup=1000, clip=1.0), ema_decay=0.999,
        ),
        data=TFDS(name="cifar10"), batch_size=64, steps=117_300, steps_per_call=50, log_every=500, save_every=2300,
        sample_every=2300,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
