"""Slots of splats: which are copied, cut in two, emptied and filled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.densification import EMPTY, SMALLER, Densification, densified, is_splat
from jaxgen.ops.splatting import rotation

RULES = Densification(gradient=1.0, small=0.1, large=2.0, faint=0.01)
N = 12


def slots() -> dict[str, np.ndarray]:
    """Splats 0 to 7, small ones of opacity 0.64, but 1 is large, 2 faint and 3 huge; 8 to 11 are empty."""
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 0.05, (N, 3))
    scale[1], scale[3] = (0.3, 0.02, 0.01), (2.5, 0.1, 0.1)
    logit = np.full(N, np.log(0.64 / 0.36))
    logit[2], logit[8:] = -6, EMPTY
    arrays = {
        "mean": rng.normal(size=(N, 3)), "log_scale": np.log(scale), "quaternion": rng.normal(size=(N, 4)),
        "opacity": logit, "sh0": rng.normal(size=(N, 3)),
    }  # fmt: skip
    return {name: a.astype(np.float32) for name, a in arrays.items()}


@pytest.fixture(scope="module")
def run():
    program = jax.jit(lambda params, gradient, key: densified(params, gradient, key, RULES, 1.0))

    def called(gradient: dict[int, float], seed: int = 0):
        values = np.zeros(N, np.float32)
        values[list(gradient)] = list(gradient.values())
        params, fresh, lacking = program(slots(), values, jax.random.key(seed))
        return {name: np.asarray(a) for name, a in params.items()}, np.asarray(fresh), float(lacking)

    return called


def test_nothing_but_the_faint_and_the_huge_goes(run):
    old, (new, fresh, lacking) = slots(), run({})
    assert list(np.flatnonzero(fresh)) == [2, 3, 8, 9, 10, 11] and lacking == 0
    np.testing.assert_array_equal(np.flatnonzero(is_splat(new["opacity"])), [0, 1, 4, 5, 6, 7])
    for name, a in new.items():
        keep = slice(None) if name != "opacity" else ~fresh
        np.testing.assert_array_equal(a[keep], old[name][keep])


def test_a_small_one_is_copied(run):
    """Both then hide at their centre what one did: 1 - (1 - o)^2 = 0.64."""
    old, (new, fresh, _) = slots(), run({5: 2.0})
    assert fresh[2] and not fresh[5]  # into the first empty slot; the original keeps its moments
    for name in ("mean", "log_scale", "quaternion", "sh0"):
        np.testing.assert_array_equal(new[name][2], old[name][5])
        np.testing.assert_array_equal(new[name][5], old[name][5])
    opacity = 1 / (1 + np.exp(-new["opacity"][[2, 5]]))
    np.testing.assert_allclose(1 - np.prod(1 - opacity), 0.64, rtol=1e-5)
    assert opacity[0] == opacity[1]
    assert np.sum(is_splat(new["opacity"])) == 7


def test_a_large_one_is_cut_in_two_within_itself(run):
    """Both halves lie by its covariance, by other numbers with each key."""
    old = slots()
    turn = np.stack([np.asarray(row)[1] for row in rotation(jnp.asarray(old["quaternion"]))])
    whiten = turn.T / np.exp(old["log_scale"][1])[:, None]
    draws = []
    for seed in range(40):
        new, fresh, _ = run({1: 2.0}, seed)
        assert fresh[1] and fresh[2]
        np.testing.assert_allclose(new["log_scale"][[1, 2]], old["log_scale"][[1, 1]] - np.log(SMALLER), rtol=1e-5)
        np.testing.assert_array_equal(new["opacity"][[1, 2]], old["opacity"][[1, 1]])
        draws += [whiten @ (new["mean"][i] - old["mean"][1]) for i in (1, 2)]
    draws = np.array(draws)
    assert len(np.unique(draws[:, 0])) == 80
    np.testing.assert_allclose(draws.mean(axis=0), 0, atol=0.4)
    np.testing.assert_allclose(draws.std(axis=0), 1, atol=0.25)


def test_where_slots_lack_the_largest_gradients_come_first(run):
    """Six empty slots, two of which were just emptied, for seven."""
    old = slots()
    everyone = {0: 5.0, 1: 9.0, 2: 99.0, 3: 99.0, 4: 3.0, 5: 2.0, 6: 8.0, 7: 4.0}
    new, _, lacking = run(everyone)
    assert lacking == 0 and np.all(is_splat(new["opacity"]))  # 2 and 3 are gone, whatever their gradients
    rules = Densification(gradient=1.0, small=0.1, large=2.0, faint=1e-6)
    gradient = jnp.array([everyone.get(i, 0.0) for i in range(N)])
    params, _, lacking = densified(jax.tree.map(jnp.asarray, old), gradient, jax.random.key(0), rules, 100.0)
    assert lacking == 4 and np.all(is_splat(params["opacity"]))
    copies = {i: np.flatnonzero(np.all(params["sh0"] == old["sh0"][None, i], axis=-1)).tolist() for i in range(8)}
    assert [i for i, places in copies.items() if len(places) == 2] == [1, 2, 3, 6]


def test_rules_are_due_by_the_step():
    rules = Densification(every=100, start=500, stop=1000)
    due = np.flatnonzero(jax.vmap(lambda step: rules.due(step, rules.every))(jnp.arange(1200))) + 1
    assert due.tolist() == [600, 700, 800, 900]
    assert not rules.due(jnp.int32(99), 0)
