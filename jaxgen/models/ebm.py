"""Energy-based models, arXiv:1903.08689: p(x) = exp(-E(x)) / Z on the box [-bound, bound]^D, learnt by Langevin chains.

x+ is data and x- the end of a chain, which starts from noise (short runs) or from the end of an earlier chain
(persistent chains, kept in `state.extra["buffer"]`). If x- is drawn from p, the expected gradient of E(x+) - E(x-) is
that of -log p(x+) (contrastive divergence). Z is finite because the box is, and a small penalty on squared energies
keeps their level from drifting.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.gradients import Seen, by_parts
from jaxgen.core.keys import coin_each, fold_each, integer_each, normal_each, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Fraction, NonNegative, Positive, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_shape
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.energy import CNNEnergy
from jaxgen.ops.langevin import AIS, Annealed, Energy, Langevin
from jaxgen.optim import Adam, Optimizer

SIDE = 200  # cells along each side of the lattice on which a density in the plane is shown and integrated
START, CHAIN = range(2)  # streams of a sample's key: where its chain starts, and the chain's noise


@dataclass(frozen=True, kw_only=True)
class EBM(LossModel):
    """x: f32[B, *shape] in [-bound, bound]."""

    network: nn.Module = field(default_factory=CNNEnergy)
    """x -> energies f32[B]."""
    shape: Shape = (28, 28, 1)
    bound: Positive = 1.0
    """Chains start uniform in [-bound, bound] and stay there."""
    chain: Langevin = Langevin()
    """The chains of a training step."""
    sampler: Langevin = Langevin(steps=256)
    """The chains that draw samples, from noise or from the buffer."""
    sample_from_buffer: bool = False
    """Start each sample at a training chain of the buffer, which the sample's key chooses."""
    buffer: Annotated[int, Ge(0), Le(10_000_000)] = 8192
    """Persistent chains kept; each step continues one of them for each example of the batch. 0 for short runs from
    noise."""
    restart: Fraction = 0.05
    """Probability that a persistent chain restarts from noise."""
    data_noise: NonNegative = 0.005
    """Standard deviation of noise added to data; without it the energy can become arbitrarily steep around data."""
    energy_penalty: NonNegative = 0.1
    """Weight of E(x+)^2 + E(x-)^2."""
    max_gap: Positive = 100.0
    """Training stops when |E(x-) - E(x+)|, averaged over a batch, exceeds this."""
    optimizer: Optimizer = Adam(lr=1e-4, b1=0.0, clip=0.1)

    adversarial: ClassVar[bool] = True
    """The chains play against the energy: `loss` stays near 0 as long as they keep up with it."""

    def problem(self) -> str | None:
        if self.sample_from_buffer and not self.buffer:
            return "sample_from_buffer needs a buffer: give model.buffer some places"

    def check(self, batch: Batch) -> None:
        check_shape(self.shape, batch)
        size = batch["x"].shape[0]
        if self.buffer and size > self.buffer:
            raise UserError(f"the batch has {size} examples, model.buffer {self.buffer} places: give it {size} or more")

    # --- the network ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"energy": self.network.init(key, batch["x"])["params"]}

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        key_network, key_buffer = jax.random.split(key)
        variables = dict(self.network.init(key_network, batch["x"]))
        extra: dict[str, PyTree] = {"network": {name: tree for name, tree in variables.items() if name != "params"}}
        if self.buffer:
            keys = fold_each(key_buffer, jnp.arange(self.buffer))
            extra["buffer"] = uniform_each(keys, self.shape, -self.bound, self.bound)
        return extra

    def energy(self, params: PyTree, extra: PyTree) -> Energy:
        """E: f32[B, *shape] -> f32[B]."""
        return lambda x: apply(self.network, {"params": params["energy"], **extra["network"]}, x)

    # --- training ---

    def _starts(self, buffer: jax.Array, key: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Where the chains of a step start, f32[B, *shape], and their places in the buffer, i32[B]. The places differ,
        as the order of two writes to one place is undefined."""
        key_slots, key_rows = jax.random.split(key)
        size = x.shape[0]
        slots = jax.random.permutation(key_slots, self.buffer)[:size]
        keys_fresh, keys_again = split_each(fold_each(key_rows, jnp.arange(size)), 2)
        fresh = uniform_each(keys_fresh, self.shape, -self.bound, self.bound)
        again = coin_each(keys_again, self.restart)
        return jnp.where(again.reshape(-1, *[1] * len(self.shape)), fresh, buffer[slots]), slots

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        """Contrastive divergence. `Seen.extra` is what the pass changed of the network's state."""
        x = batch["x"] + self.data_noise * normal_each(keys, self.shape)
        x = jnp.clip(x, -self.bound, self.bound)
        variables = {"params": params["energy"], **state.extra["network"]}
        real, network = apply_mutable(self.network, variables, x, mutable=["spectral"])
        fake = self.energy(params, {"network": {**state.extra["network"], **network}})(batch["negative"])
        gap = jnp.mean(fake) - jnp.mean(real)
        penalty = self.energy_penalty * jnp.mean(real**2 + fake**2)
        numbers = {"gap": gap, "data_energy": jnp.mean(real), "chain_energy": jnp.mean(fake), "penalty": penalty}
        return penalty - gap, Seen(numbers, extra=network)

    def _chains(self, energy: Energy, key: jax.Array, start: jax.Array) -> jax.Array:
        """The ends of chains from `start`, run in `accumulate` parts, as gradients are."""

        def run(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
            index, start = rows
            return self.chain(energy, fold_each(key, index), start, self.bound)

        return by_parts(run, (jnp.arange(len(start)), start), self.accumulate)

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        key_start, key_chain, key_loss = jax.random.split(key, 3)
        x = batch["x"]
        if self.buffer:
            start, slots = self._starts(state.extra["buffer"], key_start, x)
        else:
            start = uniform_each(fold_each(key_start, jnp.arange(x.shape[0])), self.shape, -self.bound, self.bound)
        negative = self._chains(self.energy(state.params, state.extra), key_chain, start)
        state, seen = self._step(state, key_loss, {**batch, "negative": negative})
        extra = {**state.extra, "network": {**state.extra["network"], **seen.extra}}
        if self.buffer:
            extra["buffer"] = extra["buffer"].at[slots].set(negative)
        return state.replace(extra=extra), seen.metrics

    def diverged(self, metrics: Mapping[str, np.ndarray]) -> str | None:
        gap = float(np.max(np.abs(metrics["gap"])))
        if gap <= self.max_gap:
            return None
        return (
            f"energies of data and chains are {gap:.3g} apart, model.max_gap is {self.max_gap:g}: train again with a "
            f"lower --model.optimizer.lr, more --model.chain.steps or --model.data-noise, or a larger "
            f"--model.energy-penalty"
        )

    # --- use ---

    def _sample_chains(self, state: TrainState, keys: jax.Array, frames: int = 0) -> jax.Array:
        """The ends of the sampler's chains, one for each of `keys`; with `frames`, that many states of each chain."""
        first = fold_each(keys, START)
        if self.sample_from_buffer:
            start = state.extra["buffer"][integer_each(first, 0, self.buffer)]
        else:
            start = uniform_each(first, self.shape, -self.bound, self.bound)
        energy = self.energy(state.sampling_params, state.extra)
        return self.sampler(energy, fold_each(keys, CHAIN), start, self.bound, frames)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """The ends of the sampler's chains: f32[len(keys), *shape] in [-bound, bound]."""
        return self._sample_chains(state, keys)

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`energy`, f32[B], which is high for x unlike the data; in the plane also `nll`, energy + log Z, in nats."""
        energy = self.energy(state.sampling_params, state.extra)(batch["x"])
        if self.shape != (2,):
            return {"energy": energy}
        return {"energy": energy, "nll": energy + self.lattice_log_z(state)}

    def log_z(self, state: TrainState, keys: jax.Array, temperatures: int = 1000, leapfrog: int = 10) -> Annealed:
        """log Z in nats by annealed importance sampling from the uniform density, one chain for each of `keys`."""
        energy = self.energy(state.sampling_params, state.extra)
        return AIS(temperatures, leapfrog, 0.1 * self.bound, bound=self.bound)(energy, keys, self.shape)

    # --- in the plane ---

    def _lattice_energies(self, state: TrainState) -> jax.Array:
        """E at the centres of SIDE x SIDE cells of the box, f32[SIDE, SIDE], with the top row first."""
        side = ((jnp.arange(SIDE) + 0.5) / SIDE * 2 - 1) * self.bound
        points = jnp.stack(jnp.meshgrid(side, side[::-1]), axis=-1).reshape(-1, 2)
        return self.energy(state.sampling_params, state.extra)(points).reshape(SIDE, SIDE)

    def lattice_log_z(self, state: TrainState) -> jax.Array:
        """log Z of a model of points in the plane, by summing over the lattice, f32[]."""
        return jax.nn.logsumexp(-self._lattice_energies(state)) + 2 * math.log(2 * self.bound / SIDE)

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Images: the course of chains, one in each row. Points in the plane: over the box, the energy up to 10 above
        its minimum, exp(-E), and held-out data, each dark where density is high."""
        if self.shape == (2,):
            energies = self._lattice_energies(state)
            energies -= jnp.min(energies)
            place = (batch["x"] * jnp.array([[1, -1]]) / self.bound + 1) / 2 * SIDE
            column, row = jnp.clip(place, 0, SIDE - 1).astype(int).T
            data = jnp.zeros((SIDE, SIDE)).at[row, column].set(1.0)
            shown = jnp.stack([1 - energies / 10, jnp.exp(-energies), data])
            return {"energy.png": (255 * (1 - jnp.clip(shown, 0, 1))).astype(jnp.uint8)[None, ..., None]}
        if len(self.shape) != 3:
            return {}
        return {"chains.png": jnp.swapaxes(self._sample_chains(state, keys[:6], 10), 0, 1)}
