"""--trainable: the rest keeps every bit and has no optimizer state, whatever the family does in a step."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import EXPERIMENTS

from jaxgen import core
from jaxgen.core.gradients import gradient
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.models.student import Student
from jaxgen.nets.lora import LoRA
from jaxgen.optim import Adam, path_name, trained, with_frozen

KEY = core.run_key(0, core.TRAIN)


def begun(script: str, model: dict | None = None, **changes):
    """The smoke preset of a script as changed, its state with a negative zero and a large number in each array."""
    experiment = presets(EXPERIMENTS[script])["smoke"]
    experiment = replace(experiment, model=replace(experiment.model, **(model or {})), **changes)
    experiment.check()
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    state = core.init(experiment.compute_model, core.run_key(0, core.INIT), batch, experiment.codec.load())

    def odd(leaf):
        return leaf.reshape(-1).at[:2].set(jnp.array([-0.0, 9.0])[: leaf.size]).reshape(leaf.shape)

    params = jax.tree.map(odd, state.params)
    ema = state.ema and jax.tree.map(lambda _, leaf: odd(leaf), state.ema, state.ema)
    return experiment, state.replace(params=params, ema=ema)


def after(experiment, state, steps: int = 2):
    batches = [experiment.data.batch_at(0, i, experiment.batch_size) for i in range(steps)]
    stacked = jax.tree.map(lambda *rows: np.stack(rows), *batches)
    return core.train_steps(experiment.compute_model, state, KEY, stacked, experiment.codec.load())


def leaves(tree) -> dict[str, np.ndarray]:
    return {path_name(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_frozen(before: dict, now: dict, moving) -> None:
    assert before.keys() == now.keys() and any(map(moving, before)) and not all(map(moving, before))
    for name, old in before.items():
        same = old.tobytes() == now[name].tobytes()
        assert same != moving(name), name


@pytest.mark.parametrize(
    ("script", "pattern", "model"),
    [("vae", "encoder/.*kernel", {"ema_decay": 0.9}),
     ("wgan", "^gen/.*kernel|^critic/Dense_0", {"ema_decay": 0.9}),  # clips the weights of its critic
     ("clip", "text.*qkv", {}),  # clamps its logit scale
     ("gpt", "norm", {"accumulate": 2})],
)  # fmt: skip
def test_frozen_parameters_keep_every_bit(script, pattern, model):
    experiment, state = begun(script, model, trainable=pattern)
    before, average = leaves(state.params), leaves(state.ema)
    moving = lambda name: trained({name: 0}, pattern)[name] is not None  # noqa: E731
    states = [name for name in leaves(state.opt_state) if "count" not in name]
    kept = sum(map(moving, before))
    per = len(states) // kept
    assert len(states) == per * kept  # the same number for each that is trained, none for others
    new, _ = after(experiment, state)
    check_frozen(before, leaves(new.params), moving)
    if new.ema is not None:
        check_frozen(average, leaves(new.ema), moving)


def test_one_network_of_a_gan_can_be_frozen_whole():
    experiment, state = begun("gan", trainable="^critic")
    before = leaves(state.params)
    new, metrics = after(experiment, state)
    check_frozen(before, leaves(new.params), lambda name: name.startswith("critic"))
    assert not np.any(metrics["generator_grad_norm"]) and np.all(metrics["critic_grad_norm"] > 0)


def test_norms_and_clipping_are_of_what_is_trained():
    """grad_norm, by the gradient of the whole loss; the clipped gradient, in Adam's first moment."""
    pattern, clip = "decoder", 0.01
    experiment, state = begun("vae", {"optimizer": Adam(clip=clip, weight_decay=0.1)}, trainable=pattern)
    model, codec = experiment.model, experiment.codec.load()
    batch = experiment.data.batch_at(0, 0, experiment.batch_size)
    key_codec, key_model = jax.random.split(jax.random.fold_in(KEY, 0))
    encoded = codec.encode(batch, key_codec)

    def loss(params, keys, batch):
        return model.seen(params, state, keys, batch)

    _, grads = gradient(loss, state.params, key_model, experiment.batch_size, encoded)
    norm = float(optax.tree.norm(trained(grads, pattern)))
    assert norm < 0.99 * float(optax.tree.norm(grads))
    new, metrics = after(experiment, state, 1)
    np.testing.assert_allclose(metrics["grad_norm"][0], norm, rtol=1e-5)
    moments = [leaf for name, leaf in leaves(new.opt_state).items() if "/mu/" in name or ".mu" in name]
    np.testing.assert_allclose(np.sqrt(sum(np.sum(m**2) for m in moments)), 0.1 * clip, rtol=1e-4)


def test_what_is_left_out_is_put_back():
    params = {"a": {"kernel": 1, "bias": 2}, "b": 3}
    part = trained(params, "^in/a/k", "in")
    assert part == {"a": {"kernel": 1, "bias": None}, "b": None}
    whole = with_frozen({"a": {"kernel": 10, "bias": None}, "b": None}, params)
    assert whole == {"a": {"kernel": 10, "bias": 2}, "b": 3}
    assert trained(params, None) is params


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"trainable": "decodr"}, r"'decodr', which matches nothing: there are decoder/Dense_0/bias, .* and 5 more"),
     ({"trainable": "("}, r"trainable is '\(', no regular expression"),
     ({"init": "x", "lora": LoRA(rank=2, targets="attention")}, r"lora.targets .* there are decoder/Dense_0/kernel"),
     ({"lora": LoRA(rank=2)}, "--init")],
)  # fmt: skip
def test_patterns_without_a_match_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(presets(EXPERIMENTS["vae"])["smoke"], **changes).check()


def test_adapters_are_trained_beside_what_is_named():
    experiment, state = begun("gpt", init="x", lora=LoRA(rank=2, targets="qkv"), trainable="norm/scale")
    before = leaves(state.params)
    new, _ = after(experiment, state)
    check_frozen(before, leaves(new.params), lambda name: name.endswith(("lora_a", "lora_b", "norm/scale")))


def test_every_family_can_be_adapted(smoke):
    """A step of the adapted model keeps the structure of its state, and has adapters."""
    raw = smoke.data.batch_at(0, 0, smoke.batch_size)
    plain = core.abstract_state(smoke.compute_model, raw, smoke.codec.load()).params
    # `unit_kernel` of layers that keep magnitudes is none.
    if not any(path_name(path).split("/")[-1] == "kernel" for path, _ in jax.tree_util.tree_leaves_with_path(plain)):
        pytest.skip("has no kernels to adapt")
    experiment = replace(smoke, init="x", lora=LoRA(rank=2))
    if isinstance(smoke.model, Student):  # whose parameters `init` gives, adapters and all
        experiment = replace(experiment, model=replace(smoke.model, start="random"))
    state, key, batch = experiment.step_arguments(raw, experiment.codec.load())
    new, _ = jax.eval_shape(experiment.compute_model.train_step, state, key, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
    assert sum(name.endswith("kernel/lora_b") for name in names) >= 1
    assert len(names) - sum("/lora_" in name for name in names) == len(jax.tree.leaves(plain))
