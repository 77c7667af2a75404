"""Low-rank adaptation: W + s A B of every kind of kernel, equal to the plain formula; what it adapts stays as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.nets import lora
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.conv import Conv
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.lora import LoRA, adapted
from jaxgen.nets.transformer import Transformer


def key(seed: int = 0) -> jax.Array:
    return jax.random.key(seed)


class Small(nn.Module):
    """A convolution, batch statistics, and two scanned layers of each kind."""

    width: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.BatchNorm(use_running_average=False)(Conv(self.width, name="first")(x))

        def body(layer, x):
            return layer(x), None

        stack = nn.scan(body, length=2, variable_axes={"params": 0}, split_rngs={"params": True})
        x, _ = stack(Conv(self.width, name="convs"), x)
        x, _ = stack(nn.Dense(self.width, name="denses"), x)
        return self.head(x)

    @nn.compact
    def head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4, name="last")(x)


def randomised(tree, seed: int = 0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), jnp.float32), tree)


def test_each_kind_of_kernel_is_changed_by_the_papers_formula():
    x = jax.random.normal(key(), (2, 5, 6, 3))
    variables = adapted(Small(), LoRA(rank=2, alpha=3.0)).init(key(), x)
    params = variables["params"]
    params = {**params, "lora": randomised(params["lora"])}
    own, merged = params["base"], lora.merged(params)
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, own)
    for name, stacked in (("first", 0), ("convs", 1), ("denses", 1), ("last", 0)):
        adapter = jax.tree.map(np.asarray, params["lora"][name]["kernel"])
        kernel, got = np.asarray(own[name]["kernel"], np.float64), np.asarray(merged[name]["kernel"])
        want = kernel.copy()
        for layer in range(2) if stacked else (slice(None),):
            parts = [adapter[part] for part in ("lora_a", "lora_b", "lora_scale")]
            a, b, scale = [part[layer] for part in parts] if stacked else parts
            for where in np.ndindex(kernel.shape[stacked:-1]):
                for out in range(kernel.shape[-1]):
                    place = (layer, *where, out) if stacked else (*where, out)
                    want[place] += scale * sum(float(a[(*where, r)]) * float(b[r, out]) for r in range(2))
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_array_equal(merged[name]["bias"], own[name]["bias"])


def test_at_step_0_it_is_the_network_that_it_adapts():
    x = jax.random.normal(key(), (2, 5, 6, 3))
    plain, network = Small(), adapted(Small(), LoRA(rank=2))
    own, variables = plain.init(key(), x), network.init(key(), x)
    jax.tree.map(np.testing.assert_array_equal, variables["params"]["base"], own["params"])
    assert any(np.any(leaf) for leaf in jax.tree.leaves(variables["params"]["lora"]))  # A, though not B
    want, stats = apply_mutable(plain, own, x, mutable=["batch_stats"])
    got, same = apply_mutable(network, variables, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(got, want)
    jax.tree.map(np.testing.assert_array_equal, same, stats)


def test_a_dense_layer_computes_x_w_plus_s_x_a_b():
    x = jax.random.normal(key(), (7, 5))
    network = adapted(nn.Dense(4), LoRA(rank=3, alpha=6.0))
    params = {**network.init(key(), x)["params"]}
    adapter = params["lora"]["kernel"]
    adapter["lora_b"] = jax.random.normal(key(1), (3, 4))
    got = apply(network, {"params": params}, x)
    apart = x @ params["base"]["kernel"] + 2.0 * (x @ adapter["lora_a"]) @ adapter["lora_b"]
    np.testing.assert_allclose(got, apart, atol=1e-5)


def test_scales_are_pefts():
    """alpha / r, and alpha / sqrt(r) of rsLoRA."""
    assert LoRA(rank=8, alpha=16.0).scale == 2.0
    assert LoRA(rank=16, alpha=16.0, rslora=True).scale == 4.0
    assert LoRA(rank=8).scale == 1.0


def test_targets_choose_kernels_and_methods_stay():
    body = Transformer(width=8, depth=2, heads=2, causal=True)
    plain = TokenTransformer(vocab=5, window=4, body=body)
    network = adapted(plain, LoRA(rank=1, targets="^network/.*attention/qkv"), "network")
    assert isinstance(network, TokenTransformer) and network.body == body
    assert network == adapted(plain, LoRA(rank=1, targets="^network/.*attention/qkv"), "network")
    assert len({network, adapted(plain, LoRA(rank=2)), plain}) == 3
    check_fields(network)
    tokens = jnp.zeros((1, 4), jnp.int32)
    params = network.init(key(), tokens)["params"]
    (path,) = [p for p, _ in jax.tree_util.tree_leaves_with_path(params["lora"]) if "lora_a" in str(p[-1])]
    assert jax.tree_util.keystr(path, simple=True, separator="/") == "body/blocks/self_attention/qkv/kernel/lora_a"
    k, v = apply(network, {"params": params}, tokens, jnp.arange(4)[None], method="keep")
    assert k.shape == v.shape == (2, 2, 4, 4)
    changed = dataclasses.replace(network, vocab=6)
    assert changed.lora == network.lora and type(changed) is type(network)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(UserError, match=r"lora: targets is '\(', no regular expression"):
        check_fields(LoRA(targets="("), "lora")
