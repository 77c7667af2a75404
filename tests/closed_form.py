"""Data whose denoiser and densities are known exactly, and samplers as float64 NumPy loops over their tables."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from jaxgen.ops.diffusion import Denoised


def gaussian_x0(x, alpha, sigma, mu, std):
    """E[x_0 | x_t] of N(mu, std^2) data, elementwise."""
    return mu + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x - alpha * mu)


class Mixture:
    """sum_k weight_k N(mean_k, std_k^2) in one dimension, and what noise makes of it."""

    weight, mean, std = np.array([0.3, 0.7]), np.array([-0.8, 0.5]), np.array([0.35, 0.25])

    def noised(self, alpha, sigma):
        """Means and stds of the components of x_t."""
        return alpha * self.mean, np.sqrt(alpha**2 * self.std**2 + sigma**2)

    def x0(self, x, alpha, sigma):
        """E[x_0 | x_t], float64 of x's shape."""
        mean, std = self.noised(alpha, sigma)
        log = np.log(self.weight) + norm.logpdf(x[..., None], mean, std)
        responsible = np.exp(log - log.max(-1, keepdims=True))
        responsible /= responsible.sum(-1, keepdims=True)
        return (responsible * gaussian_x0(x[..., None], alpha, sigma, self.mean, self.std)).sum(-1)

    def denoise(self, schedule):
        """The same for JAX: each element of x is on its own."""

        def denoise(x, t):
            alpha, sigma = (a[..., None] for a in schedule.at(t, x.ndim))
            weight, mean, std = (
                jnp.asarray(a, jnp.float32).reshape((1,) * x.ndim + (-1,)) for a in (self.weight, self.mean, self.std)
            )
            var = alpha**2 * std**2 + sigma**2
            log = jnp.log(weight) - 0.5 * (x[..., None] - alpha * mean) ** 2 / var - 0.5 * jnp.log(var)
            each = mean + alpha * std**2 / var * (x[..., None] - alpha * mean)
            return Denoised(jnp.sum(jax.nn.softmax(log) * each, axis=-1))

        return denoise

    def cdf(self, x, alpha=1.0, sigma=0.0):
        return (self.weight * norm.cdf(np.asarray(x)[..., None], *self.noised(alpha, sigma))).sum(-1)

    def pdf(self, x):
        return (self.weight * norm.pdf(np.asarray(x)[..., None], self.mean, self.std)).sum(-1)

    def quantile(self, p, alpha=1.0, sigma=0.0):
        bound = 12 * (1 + sigma)
        return np.array([brentq(lambda x, q=q: self.cdf(x, alpha, sigma) - q, -bound, bound, xtol=1e-13) for q in p])

    @property
    def moments(self):
        mean = (self.weight * self.mean).sum()
        return mean, np.sqrt((self.weight * (self.std**2 + self.mean**2)).sum() - mean**2)


def run(table, schedule, x0, x, noise=None):
    """A sampler's table as a loop in float64. x0(x, alpha, sigma) is the denoiser; noise: [R, ...] or None for none."""
    alphas, sigmas = schedule.levels(table.t)
    columns = {name: table.column(name) for name in ("a", "b", "c", "d", "e", "save")}
    saved, past = (np.zeros_like(x), np.zeros_like(x)), []
    for i in range(len(table.t)):
        row = {name: values[i] for name, values in columns.items()}
        guess = x0(x, alphas[i], sigmas[i])
        new = row["a"] * guess + row["b"] * x + row["d"] * saved[0] + row["e"] * saved[1]
        if table.past is not None:
            new = new + sum(weight * eps for weight, eps in zip(table.past[i], past))
        if row["save"]:
            saved, past = (guess, x), [(x - alphas[i] * guess) / sigmas[i], *past]
        x = new if noise is None else new + row["c"] * noise[i]
    return x


def law(table, schedule, mu, std):
    """Mean and standard deviation that a sampler gives on N(mu, std^2) data, free of sampling error.

    With the exact denoiser of a Gaussian each row is affine in x, so that x is a sum of independent noises: one number
    for each, and the mean, go through the loop.
    """
    rows = len(table.t)
    x = np.zeros(rows + 2)
    x[1] = table.start

    def x0(x, alpha, sigma):
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        guess = gain * x
        guess[0] += mu - gain * alpha * mu
        return guess

    x = run(table, schedule, x0, x, np.eye(rows, rows + 2, 2))
    return x[0], np.sqrt(np.sum(x[1:] ** 2))
