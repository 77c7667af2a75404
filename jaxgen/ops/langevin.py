"""Markov chains that sample from exp(-E(x)) / Z, and estimates of Z.

E is an energy, f32[B, *shape] -> f32[B], computed for each row separately; x is the state of a chain, p its momentum,
beta an inverse temperature. There are unadjusted Langevin steps, Hamiltonian steps with a Metropolis test (with one
leapfrog step these are Metropolis-adjusted Langevin), and annealed importance sampling built on them
(arXiv:physics/9803008). `ops.samplers.AnnealedLangevin` instead anneals over the noise levels of a denoiser.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.core.keys import fold_each, normal_each, uniform_each
from jaxgen.core.ranges import NonNegative, Positive, Steps

Energy = Callable[[jax.Array], jax.Array]

# Streams of a chain's key.
MOMENTUM, ACCEPT = range(2)  # in a Hamiltonian step
TUNING, WEIGHING = range(2)  # in annealing: the pass that tunes the steps, and the one that counts
START = 0  # in one such pass; its temperatures follow from 1 on


@dataclass(frozen=True)
class Langevin:
    """x <- x - step grad E(x) + noise z, z ~ N(0, 1).

    `step` is lambda / 2 in section 3.1 of arXiv:1903.08689 and alpha / 2 in eq. 3 of arXiv:1912.03263. Noise of
    variance lambda (alpha) would leave exp(-E) invariant. Both papers use far less noise, which amounts to sampling at
    a low temperature.
    """

    steps: Steps = 60
    step: Positive = 10.0
    noise: NonNegative | None = 0.005
    """Standard deviation of the noise; None for sqrt(2 step), with which chains of small steps converge to exp(-E)."""
    clip: NonNegative = 0.03
    """Bound on each component of the gradient; 0 for none."""

    def __call__(self, energy: Energy, keys: jax.Array, x: jax.Array, bound: float = 0.0, frames: int = 0) -> jax.Array:
        """The final states of chains that start at x: f32[B, *shape]. Chain i depends on x[i] and keys[i] only.

        bound: states are clipped to [-bound, bound]; 0 for no bounds. frames: if above 0, return that many states along
        the way, [frames, B, *shape], instead; at most one a step. The last of them is the final state.
        """
        force = jax.grad(lambda x: jnp.sum(energy(x)))
        noise = math.sqrt(2 * self.step) if self.noise is None else self.noise
        frames = min(frames, self.steps)

        def step(carry: tuple[jax.Array, jax.Array], i: jax.Array):
            x, film = carry
            gradient = force(x)
            if self.clip:
                gradient = jnp.clip(gradient, -self.clip, self.clip)
            x = x - self.step * gradient + noise * normal_each(fold_each(keys, i), x.shape[1:])
            if bound:
                x = jnp.clip(x, -bound, bound)
            if frames:
                film = film.at[i * frames // self.steps].set(x)
            return (x, film), None

        (x, film), _ = jax.lax.scan(step, (x, jnp.zeros((frames, *x.shape))), jnp.arange(self.steps))
        return film if frames else x


# --- Hamiltonian Monte Carlo ----------------------------------------------------------------------------------


def _reflect(x: jax.Array, p: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """x reflected into [-bound, bound] as by walls, and p with its sign flipped where x is mirrored."""
    if not bound:
        return x, p
    y = (x + bound) % (4 * bound)
    beyond = y > 2 * bound
    return jnp.where(beyond, 4 * bound - y, y) - bound, jnp.where(beyond, -p, p)


def _per_row(values: jax.Array, like: jax.Array) -> jax.Array:
    """f32[B] reshaped to f32[B, 1, ...] with as many axes as `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def hmc_step(
    energy: Energy, keys: jax.Array, x: jax.Array, step: jax.Array | float, leapfrog: int = 10, bound: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """One step of Hamiltonian Monte Carlo, section 5.3.2 of arXiv:1206.1901, which leaves exp(-E) exactly invariant.

    x: f32[B, *shape]; step: step size of the leapfrog integrator; leapfrog: its steps in a proposal. bound: for E on a
    box, reflecting walls at -bound and bound; 0 for none. Returns the new x and each proposal's acceptance probability,
    f32[B].
    """
    gradient = jax.value_and_grad(lambda x: (lambda e: (jnp.sum(e), e))(energy(x)), has_aux=True)

    def kinetic(p: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(p**2, axis=tuple(range(1, p.ndim)))

    def leap(carry, _):
        x, p, g, _ = carry
        p = p - 0.5 * step * g
        x, p = _reflect(x + step * p, p, bound)
        (_, e), g = gradient(x)
        return (x, p - 0.5 * step * g, g, e), None

    p = normal_each(fold_each(keys, MOMENTUM), x.shape[1:])
    (_, e), g = gradient(x)
    (new, p_new, _, e_new), _ = jax.lax.scan(leap, (x, p, g, e), length=leapfrog)
    change = e_new + kinetic(p_new) - e - kinetic(p)
    # A proposal of infinite or undefined energy has diverged: reject it.
    chance = jnp.where(jnp.isfinite(change), jnp.exp(jnp.minimum(-change, 0.0)), 0.0)
    taken = uniform_each(fold_each(keys, ACCEPT), ()) < chance
    return jnp.where(_per_row(taken, x), new, x), chance


# --- the partition function -----------------------------------------------------------------------------------


class Annealed(NamedTuple):
    """The result of annealed importance sampling."""

    log_z: jax.Array
    """Estimate of log Z in nats, f32[]. Its expectation is at most log Z."""
    ess: jax.Array
    """Effective sample size (sum w)^2 / sum w^2, f32[] in [1, B]. log_z has an error of about sqrt(1 / ess - 1 / B)."""
    log_weights: jax.Array
    """Logarithms of the importance weights w, f32[B]."""
    x: jax.Array
    """Final states of the chains, f32[B, *shape]. Weighted by w, they are samples of exp(-E) / Z."""
    acceptance: jax.Array
    """Mean acceptance probability at each temperature, f32[T]."""


@dataclass(frozen=True)
class AIS:
    """Annealed importance sampling, section 2 of arXiv:physics/9803008: log Z = log of the integral of exp(-E(x)).

    The chains start from p_0 = N(0, scale^2) or, with `bound`, from the uniform density on [-bound, bound]^D, to which
    E is then restricted. They pass through log f_beta = (1 - beta) log p_0 - beta E with beta from 0 to 1 in equal
    parts, and take one Hamiltonian step at each.
    """

    temperatures: Steps = 500
    """Values of beta above 0."""
    leapfrog: Steps = 10
    """Steps of the leapfrog integrator in a proposal; 1 is Metropolis-adjusted Langevin."""
    step: Positive = 0.1
    """Initial step size of the integrator. Separate chains tune it at each temperature to an acceptance of two in
    three, as step sizes tuned on a chain itself would bias its weight."""
    scale: float = 1.0
    bound: NonNegative = 0.0
    """0 for no bound."""

    def __call__(self, energy: Energy, keys: jax.Array, shape: tuple[int, ...]) -> Annealed:
        """log Z of exp(-E) over f32[*shape], from one chain for each of `keys`."""
        steps = self._anneal(energy, fold_each(keys, TUNING), shape)[1]
        (x, log_weights, _), _, acceptance = self._anneal(energy, fold_each(keys, WEIGHING), shape, steps)
        total = jax.nn.logsumexp(log_weights)
        ess = jnp.exp(2 * total - jax.nn.logsumexp(2 * log_weights))
        return Annealed(total - math.log(keys.shape[0]), ess, log_weights, x, acceptance)

    def _log_base(self, x: jax.Array) -> jax.Array:
        """log p_0 of x: f32[B, *shape], f32[B]."""
        size = math.prod(x.shape[1:])
        log_volume = size * math.log(2 * self.bound if self.bound else self.scale * math.sqrt(2 * math.pi))
        if self.bound:
            return jnp.full(x.shape[0], -log_volume)
        return -0.5 * jnp.sum((x / self.scale) ** 2, axis=tuple(range(1, x.ndim))) - log_volume

    def _anneal(self, energy: Energy, keys: jax.Array, shape: tuple[int, ...], steps: jax.Array | None = None):
        """The chains' final (x, log weights, log step), and the log step and acceptance at each temperature, f32[T].

        steps: log step at each temperature, f32[T]; tuned on these chains if None.
        """
        rise = 1 / self.temperatures

        def at(carry, row):
            x, log_weight, log_step = carry
            i, beta, log_given = row
            log_weight += rise * (-energy(x) - self._log_base(x))
            used = log_step if steps is None else log_given
            x, chance = hmc_step(
                lambda x: beta * energy(x) - (1 - beta) * self._log_base(x), fold_each(keys, i), x, jnp.exp(used),
                self.leapfrog, self.bound,
            )  # fmt: skip
            accepted = jnp.mean(chance)
            return (x, log_weight, used + 0.2 * (accepted - 0.67)), (used, accepted)

        first = fold_each(keys, START)
        if self.bound:
            x = uniform_each(first, shape, -self.bound, self.bound)
        else:
            x = self.scale * normal_each(first, shape)
        index = jnp.arange(1, self.temperatures + 1)
        rows = (index, index / self.temperatures, jnp.zeros(self.temperatures) if steps is None else steps)
        carry = (x, jnp.zeros(keys.shape), jnp.log(jnp.asarray(self.step, jnp.float32)))
        final, (used, acceptance) = jax.lax.scan(at, carry, rows)
        return final, used, acceptance
