"""Planar and radial flows (arXiv:1505.05770) fitted to energies of the plane, figure 3 there.

    python experiments/planar.py toy             # the first energy of table 1; u2, u3 and u4 are the others
    jaxgen evaluate runs/planar-toy-0            # kl, of the flow from the normalized density, and kl_reverse
    python benchmarks/ablations.py posterior     # the same flows as the posterior of a VAE

Each is of 32 flows. CPU minutes (docs/presets.md): toy 0.2, u2 0.2, u3 0.2, u4 0.2, radial 0.3.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Energy2D
from jaxgen.experiment import Experiment
from jaxgen.models.energy_flow import EnergyFlow
from jaxgen.ops.energies import Energy
from jaxgen.ops.variational import Planar, Posterior, Radial
from jaxgen.optim import Adam


def fitted(energy: Energy, posterior: Posterior | None = None) -> Experiment:
    return Experiment(
        model=EnergyFlow(
            energy=energy, posterior=posterior or Planar(32), annealing=5000,
            optimizer=Adam(lr=2e-3, warmup=100, decay_steps=20_000, clip=1.0),
        ),
        codec=Identity(), data=Energy2D(name=energy), batch_size=256, steps=20_000, steps_per_call=100, log_every=500,
        sample_every=5000, save_every=5000, num_samples=2000,
    )  # fmt: skip


PRESETS = {
    "smoke": Experiment(
        model=EnergyFlow(posterior=Planar(3), optimizer=Adam(lr=2e-2)), codec=Identity(), data=Energy2D(num=200),
        batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=16,
    ),
    "toy": fitted("u1"),
    "u2": fitted("u2"),
    "u3": fitted("u3"),
    "u4": fitted("u4"),
    "radial": fitted("u1", Radial(32)),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
