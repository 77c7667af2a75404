"""Programs that a faulty compiler gets wrong, for any jax, without jaxgen: `python faults.py NAME`.

Each prints the version and how many numbers came out wrong; some end the process instead.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np


def wrong_rows(rows: int = 40_000) -> int:
    """Sums of squares of m @ r: jax issue 39103."""
    rng = np.random.default_rng(0)
    m, r = rng.normal(size=(3, 3)).astype(np.float32), rng.normal(size=(rows, 3)).astype(np.float32)
    found = jax.jit(jax.vmap(lambda r: jnp.sum((m @ r) ** 2)))(r)
    exact = np.sum((r.astype(np.float64) @ m.T.astype(np.float64)) ** 2, axis=1)
    return int(np.sum(np.abs(np.asarray(found) - exact) > 1e-4 * (1 + exact)))


def rank_seven() -> int:
    """Products summed over one of seven axes, beside an axis of size 1: jax issue 40412."""
    a, b = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
    found = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
    return int(np.sum(np.abs(np.asarray(found) - np.sum(a * b, axis=3)) > 1e-5))


def rank_eight() -> int:
    """Products summed after a broadcast from rank 3 to 8: jax issue 39257."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(10, 4, 6)).astype(np.float32)
    b = rng.normal(size=(10, 4, 6, *[9] * 5)).astype(np.float32)
    found = jax.jit(lambda a, b: jnp.sum(a[(..., *[None] * 5)] * b, axis=2))(a, b)
    exact = np.einsum("abc,abcdefgh->abdefgh", a.astype(np.float64), b)
    return int(np.sum(np.abs(np.asarray(found) - exact) > 1e-4))


def shifted_rows() -> int:
    """Rows moved down by one within a buffer: openxla/xla issue 49176."""
    base = np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)
    found = jax.jit(lambda base: base.at[1:].set(base[:-1]).reshape(-1))(base)
    return int(np.sum(np.asarray(found) != np.concatenate([base[:1], base[:-1]]).reshape(-1)))


def bisection() -> int:
    """A search by halves in a loop of gathers: jax issue 39887."""
    rng, num = np.random.default_rng(0), 10_001
    rows = np.sort(rng.normal(size=(8, num)).astype(np.float32), axis=1)
    wanted = rng.normal(size=(8, 50)).astype(np.float32)

    @jax.jit
    def search(rows, wanted):
        def halve(_, ends):
            low, high = ends
            middle = (low + high) // 2
            above = jnp.take_along_axis(rows, jnp.minimum(middle, num - 1), axis=1) < wanted
            return jnp.where(above, middle + 1, low), jnp.where(above, high, middle)

        start = jnp.zeros(wanted.shape, jnp.int32), jnp.full(wanted.shape, num, jnp.int32)
        return jax.lax.fori_loop(0, 15, halve, start)[0]

    exact = np.stack([np.searchsorted(row, w) for row, w in zip(rows, wanted)])
    return int(np.sum(np.asarray(search(rows, wanted)) != exact))


def scaled_bias() -> int:
    """x + h (tanh(x) W + b) in a scan, whose product's epilogue a GPU has dropped h from: jax issue 39336."""
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(64, 64)).astype(np.float32) / 8, 10 * rng.normal(size=64).astype(np.float32)
    x = rng.normal(size=(32, 64)).astype(np.float32)
    found = jax.jit(lambda x: jax.lax.scan(lambda x, _: (x + 0.05 * (jnp.tanh(x) @ w + b), None), x, length=5)[0])(x)
    exact = x.astype(np.float64)
    for _ in range(5):
        exact = exact + 0.05 * (np.tanh(exact) @ w + b)
    return int(np.sum(np.abs(np.asarray(found) - exact) > 1e-2))  # TF32 included


def joined_norms() -> int:
    """Concatenate, normalize, concatenate: jax issue 39486, on GPU."""
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(4, n, 64)).astype(np.float32) for n in (1, 3, 16))

    def normalized(x, m):
        x = x - m.mean(x, axis=-1, keepdims=True)
        return x / m.sqrt(m.mean(x**2, axis=-1, keepdims=True) + 1e-6)

    found = jax.jit(lambda a, b, c: jnp.concatenate([a, normalized(jnp.concatenate([b, c], 1), jnp)], 1))(a, b, c)
    exact = np.concatenate([a, normalized(np.concatenate([b, c], 1), np)], 1)
    return int(np.sum(np.abs(np.asarray(found) - exact) > 1e-4))


def donated_twice() -> int:
    """Donated arrays returned behind numbers made of them: jax issue 39625, on GPU."""
    state = {name: jnp.full((512, 512), float(i)) for i, name in enumerate("abcd")}

    def step(state):
        state = {name: value + 1 for name, value in state.items()}
        return {"sum": jnp.sum(state["a"]), "copy": state["b"]}, state

    metrics, state = jax.jit(step, donate_argnums=0)(state)
    found = [float(jnp.mean(value)) for value in (*state.values(), metrics["copy"])]
    return sum(x != y for x, y in zip(found, (1, 2, 3, 4, 2)))


FAULTS = {
    f.__name__: f
    for f in (wrong_rows, rank_seven, rank_eight, shifted_rows, bisection, scaled_bias, joined_norms, donated_twice)
}

if __name__ == "__main__":
    print(f"jax {jax.__version__}: {FAULTS[sys.argv[1]]()} wrong")
