"""Gradients in parts: accumulating them changes memory and nothing else, for every script's model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

from jaxgen import core
from jaxgen.core import INIT, TRAIN, fold_each, run_key, with_field
from jaxgen.core.gradients import Seen, by_parts, gradient, in_turns, joined_turns, once
from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.models.mdlm import MDLM
from jaxgen.models.shortcut import Shortcut
from jaxgen.models.stylegan import StyleGAN
from jaxgen.models.vae import VAE
from jaxgen.models.video import VideoDiffusion

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
# Scripts whose networks normalize by the batch and cannot do otherwise, or share something over it.
REFUSED = {
    **dict.fromkeys(("dcgan", "sngan", "tacotron2", "wgan_gp"), "batch normalization mixes the examples"),
    "ngp": "share one budget",
    "clip": "each example is compared with all others",
    "cyclegan": "keeps a history of whole batches",
}


def noisy_loss(params, keys, batch):
    """A mean weighted by what is drawn, as that over masked tokens is."""
    draw = jax.vmap(jax.random.uniform)(fold_each(keys, 1))
    each = (batch["x"] @ params - draw) ** 2
    total = jnp.sum(draw)
    return jnp.sum(draw * each) / total, Seen({"each": jnp.sum(draw * each) / total}, each, {"a": total}, total)


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_parts_give_the_gradient_of_the_whole(parts):
    """Of a weighted mean, beside jax.grad; rows come in their order, means of extra over the parts."""
    params, key = jnp.array([0.3, -1.0, 2.0]), jax.random.key(0)
    keys = fold_each(key, jnp.arange(12))
    (value, whole), grads = jax.value_and_grad(noisy_loss, has_aux=True)(params, keys, {"x": X})
    (got, seen), got_grads = jax.jit(lambda p: gradient(noisy_loss, p, key, 12, {"x": X}, parts))(params)
    np.testing.assert_allclose(got, value, rtol=1e-5)
    np.testing.assert_allclose(got_grads, grads, rtol=1e-5)
    np.testing.assert_allclose(seen.metrics["each"], value, rtol=1e-5)
    np.testing.assert_allclose(seen.rows, whole.rows, rtol=1e-5)
    np.testing.assert_allclose(seen.extra["a"], whole.extra["a"] / parts, rtol=1e-5)


def test_parts_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UserError, match=r"12 examples are not 5 equal parts: choose .* a multiple of 5"):
        gradient(noisy_loss, jnp.ones(3), jax.random.key(0), 12, {"x": X}, 5)
    with pytest.raises(UserError, match="accumulate is 0: an integer from 1"):
        smoke = presets(EXPERIMENTS["vae"])["smoke"]
        replace(smoke, model=replace(smoke.model, accumulate=0)).check()


def test_what_was_computed_once_is_differentiated_as_if_anew():
    """The value and its gradient, of two losses that share one computation: those of each by itself."""
    w = jnp.array([0.5, -1.5])

    def function(w):
        return jnp.tanh(w) * w[0], {"seen": w**2}

    def losses(answer):
        first, second = (jax.grad(lambda w, k=k: jnp.sum(answer(w)[0] ** k))(w) for k in (2, 3))
        return first, second, answer(w)

    for a, b in zip(jax.tree.leaves(losses(once(function, w))), jax.tree.leaves(losses(function))):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_turns_are_taken_by_stride_and_joined_in_order():
    """Part i has rows i, i + parts, ...: a batch that is split over devices stays so."""
    rows = jnp.arange(12)
    np.testing.assert_array_equal(in_turns(rows, 3)[1], [1, 4, 7, 10])
    np.testing.assert_array_equal(joined_turns(in_turns(rows, 3)), rows)
    np.testing.assert_array_equal(in_turns(rows, 3, 2)[1], [2, 3, 8, 9])
    np.testing.assert_array_equal(joined_turns(in_turns(rows, 3, 2), 2), rows)
    np.testing.assert_array_equal(by_parts(lambda r: 2 * r, rows, 4), 2 * rows)


def still(model, accumulate):
    """The model without dropout, whose masks are of a part, without batch normalization, and with Adam's epsilon so
    large that no gradient near 0, which rounding turns either way, becomes a whole step."""
    for field, value in {"dropout": 0.0, "normalize": False, "norm": "instance", "eps": 1e-3}.items():
        model = with_field(model, field, value)
    return with_field(model, "accumulate", accumulate)


def trained(experiment, accumulate, steps=3):
    """State and metrics after some steps, from the same start for any `accumulate`."""
    model, codec = still(experiment.model, accumulate), experiment.codec.load()
    batches = [experiment.data.batch_at(experiment.seed, i, experiment.batch_size) for i in range(steps)]
    state = core.init(model, run_key(experiment.seed, INIT), batches[0], codec)
    stacked = jax.tree.map(lambda *a: np.stack(a), *batches)
    return jax.device_get(core.train_steps(model, state, run_key(experiment.seed, TRAIN), stacked, codec))


def compare(experiment):
    """Every field of the state and every metric, of one part and of two."""
    state, metrics = trained(experiment, 1)
    again, in_parts = trained(experiment, 2)
    assert again.step == state.step == 3
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path((state, metrics)), jax.tree.leaves((again, in_parts))):
        size = float(np.sqrt(np.nanmean(np.square(a, dtype=np.float64)))) if a.size else 0.0
        np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4 * size + 2e-6, err_msg=jax.tree_util.keystr(path))


def quick(name):
    """A loss model with noise and averages, a GAN with two critic steps, one with lazy penalties and path lengths."""
    return name in ("vae", "gan", "stylegan2")


@pytest.mark.parametrize("smoke", [
    pytest.param(n, marks=() if quick(n) else pytest.mark.slow) for n in EXPERIMENTS
], indirect=True)  # fmt: skip
def test_accumulation_changes_memory_and_nothing_else(smoke, request):
    """Parameters, averages, optimizer, schedules, counters, codebooks and buffers after three steps are those of the
    whole batch; where a batch cannot be divided, it is refused before training."""
    name = request.node.callspec.params["smoke"]
    if hasattr(smoke.model, "ema_decay"):
        smoke = replace(smoke, model=replace(smoke.model, ema_decay=0.9))
    if hasattr(smoke.model, "critic"):
        smoke = replace(smoke, batch_size=16 * getattr(smoke.model, "n_critic", 1))
    if name not in REFUSED:
        compare(smoke)
        return
    with pytest.raises(UserError, match=REFUSED[name]):
        replace(smoke, model=still(smoke.model, 2)).check()


def test_what_one_part_of_a_batch_cannot_know_is_refused():
    """Groups of a critic, statistics of a batch, free bits."""
    refused = {"pix2pix": "batch normalization mixes", "stylegan2": "path lengths are of 3 examples"}
    for script, match in refused.items():
        smoke = presets(EXPERIMENTS[script])["smoke"]
        with pytest.raises(UserError, match=match):
            replace(smoke, batch_size=24, model=with_field(smoke.model, "accumulate", 4)).check()
    with pytest.raises(UserError, match="free bits need the KL's mean over the whole batch"):
        VAE(shape=(3,), free_bits=0.1, accumulate=2).check({"x": X})


def test_the_parts_of_a_batch_are_of_what_a_loss_keeps_together():
    """Regression: fields named `block`, frames of clips and tokens of texts, were taken for groups of examples."""
    models = [kind(accumulate=2) for kind in (VideoDiffusion, MDLM, VAE, Shortcut, StyleGAN)]
    assert [Experiment(model=model, data=Digits()).parts for model in models] == [2, 2, 2, 8, 8]
