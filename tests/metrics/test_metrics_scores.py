"""Scores between sets of features: closed forms, brute force, and independence of batches, padding and devices."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy.linalg import sqrtm

from jaxgen.errors import UserError
from jaxgen.metrics.collect import Collect, Mean
from jaxgen.metrics.fid import FID, Gaussian, IntraFID, Moments, frechet_distance, merge_moments, with_labels
from jaxgen.metrics.inception_score import InceptionScore, inception_score
from jaxgen.metrics.inputs import SingularCovariance
from jaxgen.metrics.kid import KID, kid
from jaxgen.metrics.likelihood import Likelihood, bits_per_dim, nats
from jaxgen.metrics.memorization import Memorization, memorization
from jaxgen.metrics.prdc import PRDC, prdc

DIM = 16


def features(num: int, seed: int, dim: int = DIM, shift: float = 0.0) -> np.ndarray:
    """f32[num, dim], correlated and away from 0, as a network's are."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(dim, dim)) / dim**0.5
    return (rng.normal(size=(num, dim)) @ mixing + 3 + shift).astype(np.float32)


def mesh(count: int) -> NamedSharding:
    auto = (jax.sharding.AxisType.Auto,)
    devices = jax.make_mesh((count,), ("data",), axis_types=auto, devices=jax.devices()[:count])
    return NamedSharding(devices, PartitionSpec("data"))


def accumulate(metric, rows: np.ndarray, parts: int, devices: int = 1, wrap=lambda rows: rows):
    """The metric of the rows in `parts` batches, padded to one size with rows that must be ignored."""
    size = -(-len(rows) // parts)
    size = -(-size // devices) * devices
    state = metric.init()
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        mask = np.arange(size) < len(batch)
        batch = np.concatenate([batch, np.full((size - len(batch), *rows.shape[1:]), 1e6, np.float32)])
        if devices > 1:
            batch, mask = jax.device_put((batch, mask), mesh(devices))
        state = metric.update(state, wrap(jnp.asarray(batch)), mask)
    return metric.compute(state)


# --- Frechet ------------------------------------------------------------------------------------------------------


def test_two_gaussians():
    """Against the closed form with a general matrix square root, for given moments and for samples."""
    rng = np.random.default_rng(0)
    mean, factors = rng.normal(size=(2, DIM)), rng.normal(size=(2, DIM, DIM))
    cov = factors @ factors.transpose(0, 2, 1)
    a, b = (Gaussian(100, mean[i], cov[i]) for i in (0, 1))
    root = sqrtm(cov[0] @ cov[1]).real
    exact = np.sum((mean[0] - mean[1]) ** 2) + np.trace(cov[0] + cov[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)

    draws = [rng.multivariate_normal(mean[i], cov[i], 20_000).astype(np.float32) for i in (0, 1)]
    metric = FID(dim=DIM, reference=Gaussian.of(draws[1]))
    assert accumulate(metric, draws[0], 3)["fid"] == pytest.approx(exact, rel=0.03)


def test_commuting_covariances():
    """For diagonal covariances the distance is the sum of (m - n)^2 + (s - t)^2."""
    s, t = np.array([3.0, 0.0, 0.5]), np.array([1.0, 2.0, 0.0])
    a, b = Gaussian(9, np.zeros(3), np.diag(s**2)), Gaussian(9, np.ones(3), np.diag(t**2))
    assert frechet_distance(a, b) == pytest.approx(3 + np.sum((s - t) ** 2), rel=1e-12)


def test_identical_sets():
    x = features(300, 0, dim=64)
    assert abs(frechet_distance(Gaussian.of(x), Gaussian.of(x[::-1]))) < 1e-9
    assert kid(x, x, 4, 50)["kid"] < 0.05
    assert prdc(x, x) == pytest.approx({"precision": 1, "recall": 1, "density": 4 / 3, "coverage": 1})


def test_singular_covariances():
    """Fewer samples than dimensions give a warning and an exact distance: for equal sets, and by the closed form."""
    x, y = features(20, 0, dim=50), features(20, 1, dim=50)
    with pytest.warns(SingularCovariance, match="20 samples are too few for 50"):
        a = Gaussian.of(x)
    with pytest.warns(SingularCovariance):
        b = Gaussian.of(y)
    assert abs(frechet_distance(a, a)) < 1e-9
    # tr (C_1 C_2)^(1/2) is the nuclear norm of A_1 A_2' for C = A'A.
    roots = [(s - s.mean(axis=0, dtype=np.float64)) / 19**0.5 for s in (x.astype(np.float64), y.astype(np.float64))]
    cross = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    exact = np.sum((a.mean - b.mean) ** 2) + np.trace(a.cov) + np.trace(b.cov) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(exact, rel=1e-9)


def test_merged_moments():
    x = features(100, 0)
    moments = Moments(dim=DIM)
    parts = [moments.update(moments.init(), part) for part in (x[:30], x[30:])]
    for whole in (moments.compute(merge_moments(*parts)), Gaussian.of(x)):
        np.testing.assert_allclose(whole.cov, np.cov(x.astype(np.float64).T), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(whole.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-12)


def test_intra_fid():
    x, y = features(60, 0, dim=4), features(60, 1, dim=4, shift=1.0)
    labels, reference_labels = np.arange(60) % 3, np.arange(60) // 20
    metric = IntraFID(capacity=60, dim=5, reference=y, labels=reference_labels)
    found = metric.compute(metric.update(metric.init(), with_labels(jnp.asarray(x), jnp.asarray(labels))))
    expected = [frechet_distance(Gaussian.of(x[c::3]), Gaussian.of(y[20 * c : 20 * c + 20])) for c in range(3)]
    assert list(found["per_class"].values()) == pytest.approx(expected)
    assert found["intra_fid"] == pytest.approx(np.mean(expected))
    with pytest.raises(UserError, match="class 0 has fewer than two"):
        metric.compute(metric.update(metric.init(), with_labels(jnp.asarray(x), jnp.asarray(labels + 1))))


# --- every accumulator --------------------------------------------------------------------------------------------

N = 700
REFERENCE = features(400, 1)
METRICS = {
    "fid": FID(dim=DIM, reference=Gaussian.of(REFERENCE)),
    "kid": KID(capacity=N, dim=DIM, reference=REFERENCE, subsets=5, subset_size=100),
    "is": InceptionScore(capacity=N, dim=DIM),
    "prdc": PRDC(capacity=N, dim=DIM, reference=REFERENCE),
    "memorization": Memorization(capacity=N, dim=DIM, train=REFERENCE, test=features(300, 2)),
    "mean": Mean(capacity=N),
    "bits": Likelihood(capacity=N, dims=12, bits=8),
}


@pytest.mark.parametrize("name", METRICS)
def test_batches_and_devices_do_not_matter(name):
    metric, rows = METRICS[name], features(N, 0)
    rows = rows[:, 0] if getattr(metric, "dim", DIM) == 1 else rows
    straight = metric.compute(metric.update(metric.init(), jnp.asarray(rows)))
    assert straight["num"] == N
    for parts, devices in ((1, 4), (7, 1), (7, 4), (100, 1)):
        found = accumulate(metric, rows, parts, devices)
        assert found.keys() == straight.keys()
        for key, value in straight.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-6, err_msg=key)


def test_update_compiles_once_for_padded_batches():
    metric = Collect(capacity=10, dim=2)

    @jax.jit
    def both(state, rows, mask):
        return metric.update(state, rows, mask)

    state = metric.init()
    for mask in ([True, True, True], [True, False, True]):
        state = both(state, jnp.ones((3, 2)), jnp.array(mask))
    assert both._cache_size() == 1
    assert metric.compute(state).shape == (5, 2)


def test_collect_refuses():
    metric = Collect(capacity=3, dim=2)
    with pytest.raises(UserError, match="0 rows"):
        metric.compute(metric.init())
    with pytest.raises(UserError, match=r"\[B, 2\] is expected"):
        metric.update(metric.init(), jnp.ones((2, 3)))
    with pytest.raises(UserError, match=r"bool\[2\] is expected"):
        metric.update(metric.init(), jnp.ones((2, 2)), jnp.ones(2))
    with pytest.raises(UserError, match="4 rows were collected, but 1 to 3"):
        metric.compute(metric.update(metric.init(), jnp.ones((4, 2))))


# --- the others ---------------------------------------------------------------------------------------------------


def test_kid_is_unbiased():
    """It equals the double sum, and is near 0 for two sets of one distribution."""
    x, y = features(12, 0, 3).astype(np.float64), features(12, 1, 3).astype(np.float64)

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    expected = sum(k(x[i], x[j]) + k(y[i], y[j]) for i, j in pairs) / len(pairs)
    expected -= 2 * np.mean([k(a, b) for a in x for b in y])
    assert kid(x, y, 1, 12)["kid"] == pytest.approx(expected, rel=1e-9)
    same = kid(features(3000, 0), features(3000, 1), 30, 500)
    assert abs(same["kid"]) < 3 * same["kid_std"]
    assert kid(features(3000, 0), features(3000, 1, shift=0.3), 30, 500)["kid"] > 10 * same["kid_std"]


def test_inception_score_of_known_predictions():
    classes = np.arange(1000) % 10
    certain = np.where(np.arange(10) == classes[:, None], 1e4, 0.0)
    assert inception_score(certain, 5, shuffle=False)["is"] == pytest.approx(10)  # one-hot in f64, every class
    assert inception_score(np.zeros((50, 10)))["is"] == pytest.approx(1)


def test_copies_lie_on_the_border_in_any_order():
    """Each real row five times: balls of radius zero, in which every copy lies however products round."""
    rng = np.random.default_rng(0)
    real = np.repeat(rng.normal(size=(200, 2048)).astype(np.float32) + 3, 5, axis=0)
    some = real[rng.permutation(len(real))[:777]]
    found = prdc(some, real)
    assert found["precision"] == 1
    assert prdc(real, some)["coverage"] == 1


def test_prdc_by_brute_force():
    fake, real, k = features(90, 0, 3, shift=1.0), features(70, 1, 3), 4

    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None], axis=-1)

    # Sorted, the first distance is that of a point to itself.
    fake_radius, real_radius = (np.sort(distances(s, s), axis=1)[:, k] for s in (fake, real))
    to_real = distances(fake, real)
    expected = {
        "precision": np.mean(np.any(to_real <= real_radius[None], axis=1)),
        "recall": np.mean(np.any(fake_radius[None] >= to_real.T, axis=1)),
        "density": np.sum(to_real <= real_radius[None]) / (k * len(fake)),
        "coverage": np.mean(np.any(to_real <= real_radius[None], axis=0)),
    }
    assert min(expected.values()) > 0.1
    assert max(expected["precision"], expected["recall"], expected["coverage"]) < 0.95
    assert prdc(fake, real, k) == pytest.approx(expected)


def test_memorization_tells_copies():
    train, test = features(400, 0), features(300, 1)
    fresh = memorization(features(200, 2), train, test)
    assert fresh["nn_ratio"] == pytest.approx(1, abs=0.1)
    assert abs(fresh["copying_z"]) < 3
    index = np.arange(200) * 2
    copied = memorization(train[index] + np.float32(1e-3), train, test)
    assert copied["nn_ratio"] < 0.01
    assert copied["copying_z"] < -10
    np.testing.assert_array_equal(copied["nearest"], index)
    assert memorization(features(200, 2, shift=4.0), train, test)["copying_z"] > 10


def test_likelihood_units():
    """A uniform density over 256 levels is 8 bits per dimension, however it is scaled."""
    dims = 12
    assert bits_per_dim(dims * np.log(256), dims) == pytest.approx(8)
    assert bits_per_dim(0.0, dims, bits=8) == pytest.approx(8)
    assert nats(bits_per_dim(5.0, dims, 8), dims, 8) == pytest.approx(5)
    metric = Likelihood(capacity=2, dims=dims)
    found = metric.compute(metric.update(metric.init(), jnp.array([1.0, 3.0])))
    assert found["nats"] == 2
    assert found["bits_per_dim"] == pytest.approx(2 / (dims * np.log(2)))
    assert found["bits_per_dim_stderr"] == pytest.approx(1 / (dims * np.log(2)))


def test_bad_features():
    x, y = features(20, 0), features(20, 1)
    with pytest.raises(UserError, match=r"\[N, 16\] is expected"):
        kid(x, y[:, :3])
    with pytest.raises(UserError, match="choose a size from 2 to 20"):
        kid(x, y, subset_size=21)
    with pytest.raises(UserError, match="below both"):
        prdc(x, y, k=20)
    with pytest.raises(UserError, match="30 splits of 20"):
        inception_score(x, splits=30)
    with pytest.raises(UserError, match="not finite"):
        Gaussian.of(np.where(x == x[0, 0], np.nan, x))
    with pytest.raises(UserError, match="at least two"):
        Gaussian.of(x[:1])
    with pytest.raises(UserError, match="same network for both"):
        frechet_distance(Gaussian.of(x), Gaussian.of(y[:, :3]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Gaussian.of(x)  # 20 samples of 16 dimensions: no warning
