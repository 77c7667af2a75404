"""Adversarial objectives on logits, penalties on a critic's gradient, and other means of stabilising GAN training.

Where an objective needs a probability, it is D = sigmoid(logit). All are written with log sigmoid(l) = -softplus(-l),
so that no logit gives an infinity. A critic here is a function x: f32[B, ...] -> logits f32[B].
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core.keys import uniform_each
from jaxgen.core.ranges import Decay

Critic = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Objective:
    """The losses of the critic and the generator, to minimise. Each is f32[], a mean over logits f32[B]."""

    def critic(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        raise NotImplementedError

    def generator(self, fake: jax.Array) -> jax.Array:
        raise NotImplementedError


@dataclass(frozen=True)
class Minimax(Objective):
    """min_G max_D E log D(x) + E log(1 - D(G(z))), eq. 1 of arXiv:1406.2661: -log 4 at D = 1/2."""

    smoothing: Decay = 0.0
    """One-sided label smoothing (section 3.4 of arXiv:1606.03498): the label of real examples is 1 - smoothing."""

    def critic(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        # The cross entropy with label 1 - s: (1 - s) softplus(-l) + s softplus(l) = softplus(-l) + s l.
        return jnp.mean(jax.nn.softplus(-real) + self.smoothing * real) + jnp.mean(jax.nn.softplus(fake))

    def generator(self, fake: jax.Array) -> jax.Array:
        return -jnp.mean(jax.nn.softplus(fake))


@dataclass(frozen=True)
class NonSaturating(Minimax):
    """The critic of `Minimax`; the generator maximises E log D(G(z)), whose gradient does not vanish where the critic
    is confident (section 3 of arXiv:1406.2661)."""

    def generator(self, fake: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.softplus(-fake))


@dataclass(frozen=True)
class LeastSquares(Objective):
    """Squared distance of the logits to labels, eq. 2 of arXiv:1611.04076 with a = 0, b = real, c = 1."""

    real: float = 1.0
    """Label of real examples; below 1 for label smoothing."""

    def critic(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((real - self.real) ** 2) + 0.5 * jnp.mean(fake**2)

    def generator(self, fake: jax.Array) -> jax.Array:
        return 0.5 * jnp.mean((fake - 1) ** 2)


@dataclass(frozen=True)
class Hinge(Objective):
    """Hinge loss with margin 1 for the critic, eqs. 16 and 17 of arXiv:1802.05957."""

    def critic(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + fake))

    def generator(self, fake: jax.Array) -> jax.Array:
        return -jnp.mean(fake)


@dataclass(frozen=True)
class Wasserstein(Objective):
    """E f(G(z)) - E f(x), eqs. 2 and 3 of arXiv:1701.07875: minus the Wasserstein distance if f is the optimal
    1-Lipschitz critic. Clipped weights, a gradient penalty or spectral normalization approximate the constraint."""

    def critic(self, real: jax.Array, fake: jax.Array) -> jax.Array:
        return jnp.mean(fake) - jnp.mean(real)

    def generator(self, fake: jax.Array) -> jax.Array:
        return -jnp.mean(fake)


# --- penalties ------------------------------------------------------------------------------------------------


def squared_gradient(critic: Critic, x: jax.Array) -> jax.Array:
    """|grad_x f(x)|^2, f32[B]. The logit of an example must depend on that example only, so the critic must not use
    batch normalization."""
    grads = jax.grad(lambda x: jnp.sum(critic(x)))(x).astype(jnp.float32)
    return jnp.sum(grads**2, axis=tuple(range(1, x.ndim)))


def gradient_penalty(critic: Critic, x: jax.Array) -> jax.Array:
    """E (|grad_x f(x)| - 1)^2 over the points x, eq. 3 of arXiv:1704.00028 without the factor lambda."""
    # Epsilon inside the root: the gradient of a norm is NaN at zero.
    norm = jnp.sqrt(squared_gradient(critic, x) + 1e-12)
    return jnp.mean((norm - 1) ** 2)


def between(keys: jax.Array, real: jax.Array, fake: jax.Array) -> jax.Array:
    """A uniform random point on the line from each fake to its real example, f32[B, ...]; example i is drawn with
    keys[i]."""
    u = uniform_each(keys, (1,) * (real.ndim - 1))
    return fake + u * (real - fake)


def zero_centred(critic: Critic, x: jax.Array) -> jax.Array:
    """E |grad_x f(x)|^2 / 2: R1 on real examples, R2 on fakes, eqs. 9 and 10 of arXiv:1801.04406 without gamma."""
    return 0.5 * jnp.mean(squared_gradient(critic, x))


def lazy(penalty: Callable[[], jax.Array], step: jax.Array, every: int) -> jax.Array:
    """Lazy regularisation, section 3.1 of arXiv:1912.04958: `every * penalty()` at each `every`-th step and 0 at the
    others, where it is not computed. The mean strength stays the same."""
    if every == 1:
        return penalty()
    return jax.lax.cond(step % every == 0, lambda: every * penalty(), lambda: jnp.zeros(()))


# --- noise and weights ----------------------------------------------------------------------------------------


def fading(start: float, steps: int, step: jax.Array) -> jax.Array:
    """`start` at step 0, falling linearly to 0 at `steps`: the standard deviation of instance noise
    (arXiv:1610.04490)."""
    return start * jnp.maximum(0.0, 1.0 - step.astype(jnp.float32) / max(steps, 1))


def clip_weights(params, bound: float):
    """Clips every weight to [-bound, bound], algorithm 1 of arXiv:1701.07875."""
    return jax.tree.map(lambda p: jnp.clip(p, -bound, bound), params)
