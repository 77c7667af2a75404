"""Vector quantization against brute force and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.ops import quantize
from jaxgen.ops.quantize import Codebook, Running

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(6, 5, 4, 3)).astype(np.float32)
CODES = RNG.normal(size=(17, 3)).astype(np.float32)


def brute_force(z, codes):
    """Computes every distance directly, in float64."""
    flat = z.reshape(-1, z.shape[-1]).astype(np.float64)
    return np.array([np.argmin([np.sum((v - c) ** 2) for c in codes]) for v in flat]).reshape(z.shape[:-1])


def test_the_nearest_code_is_brute_forces():
    np.testing.assert_array_equal(quantize.nearest(jnp.asarray(Z), jnp.asarray(CODES)), brute_force(Z, CODES))


def test_distances_are_f32_under_bfloat16():
    """A bf16 input is compared with f32 codes, which distinguishes codes that are equal in bf16."""
    codes = jnp.array([[1.0, 0.0], [1.001, 0.0]])
    assert codes.astype(jnp.bfloat16)[0, 0] == codes.astype(jnp.bfloat16)[1, 0]
    z = jnp.array([[1.0078125, 0.0]], jnp.bfloat16)
    assert int(quantize.nearest(z, codes)[0]) == 1


def test_by_angle_the_nearest_is_of_largest_cosine():
    book = Codebook(size=17, dim=3, cosine=True)
    codes = quantize.unit(jnp.asarray(CODES))
    found = book.find(codes, jnp.asarray(Z))
    unit = Z / np.linalg.norm(Z, axis=-1, keepdims=True)
    cosine = unit @ (CODES / np.linalg.norm(CODES, axis=-1, keepdims=True)).T
    np.testing.assert_array_equal(found.indices, cosine.argmax(-1))
    np.testing.assert_allclose(jnp.linalg.norm(found.z, axis=-1), 1, rtol=1e-5)
    assert np.all(np.isfinite(jax.grad(lambda z: jnp.sum(quantize.unit(z)))(jnp.zeros(3))))


def test_regression_vectors_are_places_not_strips_of_one_channel():
    """The sketch flattened f32[B, C, H, W] by .view(-1, D), whose rows are D neighbours along a line of one channel."""
    indices = RNG.integers(0, 17, (2, 6, 6))
    z = CODES[indices]  # each place holds a code
    book = Codebook(size=17, dim=3)
    np.testing.assert_array_equal(book.find(jnp.asarray(CODES), jnp.asarray(z)).indices, indices)
    strips = z.transpose(0, 3, 1, 2).reshape(-1, 3)
    sketch = CODES[brute_force(strips, CODES)].reshape(2, 3, 6, 6).transpose(0, 2, 3, 1)
    assert np.mean((sketch - z) ** 2) > 0.1  # though a code for each place was at hand


def test_the_gradient_through_codes_is_the_decoders():
    weight = jnp.asarray(RNG.normal(size=(3, 2)).astype(np.float32))

    def decoder(q):
        return jnp.sum(jnp.tanh(q @ weight))

    def through(z):
        q = jnp.asarray(CODES)[quantize.nearest(z, jnp.asarray(CODES))]
        return decoder(quantize.straight_through(z, q))

    z = jnp.asarray(Z)
    q = jnp.asarray(CODES)[brute_force(Z, CODES)]
    np.testing.assert_allclose(jax.grad(through)(z), jax.grad(decoder)(q), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(through(z), decoder(q), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.9, 0.0])
def test_the_loss_is_that_of_the_paper(decay):
    book = Codebook(size=17, dim=3, decay=decay, commitment=0.5)
    z, codes = jnp.asarray(Z), jnp.asarray(CODES)
    distance = np.mean((Z - CODES[brute_force(Z, CODES)]) ** 2)
    np.testing.assert_allclose(book.loss(book.find(codes, z)), (0.5 if decay else 1.5) * distance, rtol=1e-5)
    to_z, to_codes = jax.grad(lambda z, codes: book.loss(book.find(codes, z)), argnums=(0, 1))(z, codes)
    np.testing.assert_allclose(to_z, 0.5 * 2 * (Z - CODES[brute_force(Z, CODES)]) / Z.size, rtol=1e-4, atol=1e-7)
    assert bool(jnp.any(to_codes)) == (not decay)


def test_running_means_are_numpys():
    """Appendix A.1 over three batches; the codes that result, smoothed."""
    book = Codebook(size=17, dim=3, decay=0.8, restart=0.0)
    count = np.full(17, len(Z.reshape(-1, 3)) / 17)
    total = CODES * count[:, None]
    running = Running(jnp.asarray(count, jnp.float32), jnp.asarray(total, jnp.float32), jnp.zeros(17, jnp.int32))
    codes = CODES.astype(np.float64)
    for _ in range(3):
        z = RNG.normal(size=Z.shape).astype(np.float32)
        found = book.find(book.codes(running), jnp.asarray(z))
        running, _, metrics = book.update(jax.random.key(0), running, found)
        indices = brute_force(z, codes).reshape(-1)
        uses = np.bincount(indices, minlength=17)
        sums = np.stack([z.reshape(-1, 3)[indices == k].sum(0) for k in range(17)])
        count, total = 0.8 * count + 0.2 * uses, 0.8 * total + 0.2 * sums
        smoothed = (count + 1e-5) / (count.sum() + 17e-5) * count.sum()
        codes = total / smoothed[:, None]
        np.testing.assert_allclose(book.codes(running), codes, rtol=1e-4, atol=1e-5)
    p = uses[uses > 0] / uses.sum()
    np.testing.assert_allclose(metrics["perplexity"], np.exp(-np.sum(p * np.log(p))), rtol=1e-5)


def test_perplexity_counts_codes_used_alike():
    assert float(quantize.perplexity(jnp.array([3.0, 3, 0, 3, 3]))) == pytest.approx(4)
    assert float(quantize.perplexity(jnp.array([0.0, 7, 0]))) == pytest.approx(1)
    assert float(quantize.perplexity(jnp.zeros(3))) == pytest.approx(1)


@pytest.mark.parametrize("decay", [0.99, 0.0])
def test_dead_codes_restart_where_vectors_lie(decay):
    """A code far from all data is replaced by a vector of the batch and then chosen; a used code is not changed."""
    book = Codebook(size=17, dim=3, decay=decay, restart=0.1)
    codes = np.concatenate([CODES[:16], [[100.0, 100, 100]]]).astype(np.float32)
    share = Z[..., 0].size / 17
    count = np.full(17, share, np.float32)
    count[16] = 0.05 * share
    total = None if not decay else jnp.asarray(codes * count[:, None])
    running = Running(jnp.asarray(count), total, jnp.zeros(17, jnp.int32))
    found = book.find(book.codes(running, jnp.asarray(codes)), jnp.asarray(Z))
    assert 16 not in np.asarray(found.indices)
    running, learnt, _ = book.update(jax.random.key(0), running, found, jnp.asarray(codes))
    after = np.asarray(book.codes(running, learnt))
    nearest = np.abs(Z.reshape(-1, 3) - after[16]).max(1)
    assert nearest.min() < 1e-3
    assert 16 in np.asarray(book.find(jnp.asarray(after), jnp.asarray(Z)).indices)
    assert float(running.count[16]) == pytest.approx(share)
    np.testing.assert_allclose(after[:16], codes[:16], atol=0.1)
    assert list(running.idle[16:]) == [1]  # it has not been chosen yet


def test_restarts_draw_what_lies_far_from_its_code_and_nothing_twice():
    z = jnp.concatenate([jnp.zeros((50, 2)), jnp.arange(10.0).reshape(5, 2) + 1])
    drawn = quantize.drawn_by_error(jax.random.key(0), z, jnp.zeros_like(z), 5)
    np.testing.assert_array_equal(np.sort(drawn[:, 0]), [1, 3, 5, 7, 9])
    assert quantize.drawn_by_error(jax.random.key(0), z[:3], z[:3], 7).shape == (7, 2)


@pytest.mark.parametrize("index", [0, 30, 63])
def test_a_dead_code_restarts_at_an_outlier_whatever_its_index(index):
    """8 of 264 vectors hold nearly all of the error. Regression: a code of index k got the (k + 1)-th vector drawn."""
    rng = np.random.default_rng(0)
    codes = rng.normal(size=(64, 2)).astype(np.float32)
    codes[index] = 500
    alive = np.delete(np.arange(64), index)
    z = np.concatenate([codes[np.repeat(alive, 5)[:256]] + 0.01, 100 + rng.normal(size=(8, 2))]).astype(np.float32)
    count = np.full(64, 4.0, np.float32)
    count[index] = 0
    book = quantize.Codebook(size=64, dim=2, restart=0.1)
    running = quantize.Running(jnp.asarray(count), jnp.asarray(codes * count[:, None]), jnp.zeros(64, jnp.int32))
    found = book.find(jnp.asarray(codes), jnp.asarray(z[None, None]))
    running, learnt, _ = book.update(jax.random.key(0), running, found, jnp.asarray(codes))
    assert np.abs(np.asarray(book.codes(running, learnt))[index] - 100).max() < 5


def test_kmeans_finds_clusters():
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
    z = jnp.asarray(np.repeat(centres, 30, axis=0) + RNG.normal(size=(120, 2)).astype(np.float32))
    found = quantize.kmeans(jax.random.key(0), z, 4, 10)
    means = np.asarray(z).reshape(4, 30, 2).mean(1)
    order = brute_force(means, np.asarray(found))
    assert sorted(order) == [0, 1, 2, 3]
    np.testing.assert_allclose(found[order], means, atol=1e-4)


def test_codes_start_from_data():
    book = Codebook(size=8, dim=3)
    codes, running = book.start(jax.random.key(0), jnp.asarray(Z))
    np.testing.assert_allclose(book.codes(running), codes, rtol=1e-4)
    assert np.mean((book.find(codes, jnp.asarray(Z)).q - Z) ** 2) < 0.5 * np.mean((Z - Z.mean((0, 1, 2))) ** 2)


@pytest.mark.parametrize("wrong", [{"size": 1}, {"dim": 0}, {"decay": 1.0}, {"restart": -0.1}])
def test_an_impossible_codebook_is_refused(wrong):
    with pytest.raises(UserError, match=f"codebook.{next(iter(wrong))}"):
        check_fields(Codebook(**wrong), "codebook")


def test_kmeans_starts_from_seeds_in_proportion_to_squared_distance():
    """Where all but two of 1,000 points lie together, the farther of those is one of two seeds; whatever the scale."""
    z = jnp.zeros((1000, 1)).at[0, 0].set(10.0).at[1, 0].set(1000.0)
    keys = jax.random.split(jax.random.key(0), 200)

    @jax.jit
    def seeds(scale):
        return jax.vmap(lambda key: quantize.kmeans(key, scale * z, 2, 0)[:, 0] / scale)(keys)

    for scale in (1.0, 1e-4):
        # Of 200 draws whose odds are 10^4 to 1; half and half where distances above 1 counted as 1.
        assert np.mean(np.abs(np.asarray(seeds(scale)) - 1000).min(axis=1) < 1) > 0.98


def test_a_direction_that_nothing_chooses_stays():
    """Regression: it decayed to 0, which is nearer to z than every code more than 60 degrees away."""
    book = Codebook(size=2, dim=2, cosine=True, restart=0.0)
    total = jnp.array([[0.0, 1], [1, 0]])
    running = Running(jnp.ones(2), total, jnp.zeros(2, jnp.int32))
    z = jnp.tile(jnp.array([[[[0.1, 1.0]]]]), (4, 1, 1, 1))

    def step(running, i):
        found = book.find(book.codes(running), z)
        return book.update(jax.random.fold_in(jax.random.key(0), i), running, found)[0], None

    running, _ = jax.lax.scan(step, running, jnp.arange(10_000))
    np.testing.assert_allclose(book.codes(running), [z[0, 0, 0] / jnp.linalg.norm(z[0, 0, 0]), [1, 0]], atol=1e-5)


def test_averaged_codes_restart_with_those_that_are_averaged():
    book = Codebook(size=17, dim=3, decay=0.0)
    running = Running(jnp.full(17, 9.0).at[16].set(0), None, jnp.zeros(17, jnp.int32))
    found = book.find(jnp.asarray(CODES), jnp.asarray(Z))
    _, (now, mean), _ = book.update(jax.random.key(0), running, found, [jnp.asarray(CODES), 0.9 * jnp.asarray(CODES)])
    np.testing.assert_array_equal(now[16], mean[16])
    assert not np.array_equal(now[16], CODES[16])
    np.testing.assert_array_equal(now[:16], CODES[:16])
    np.testing.assert_array_equal(mean[:16], 0.9 * jnp.asarray(CODES)[:16])
