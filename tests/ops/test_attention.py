"""Attention in blocks beside attention of all queries at once: outputs, gradients, derivatives, memory."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.ops import attention_blocks
from jaxgen.ops.attention import FEW, FEW_ON_CPU, attention
from jaxgen.ops.attention_blocks import Dropout, Seen, in_blocks, in_blocks_by_head, whole

BLOCK = attention_blocks.BLOCK


def inputs(queries, keys, heads=2, groups=2, dim=32, batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = [(batch, queries, heads, dim), (batch, keys, groups, dim), (batch, keys, groups, dim)]
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


def mask_of(queries, keys, batch=2, rows=True):
    """Each query sees the first key and half of the others."""
    rng = np.random.default_rng(1)
    mask = rng.random((batch, queries if rows else 1, keys)) < 0.5
    mask[:, :, 0] = True
    return jnp.asarray(mask)


def pulled(way, q, k, v, **seen):
    """The output, and gradients of q, k and v."""
    out, pull = jax.vjp(functools.partial(way, seen=Seen(**seen)), q, k, v)
    return out, *pull(jnp.cos(out))


def close(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=tolerance, rtol=tolerance)


CASES = {
    "causal, heads of 128, a tail": (inputs(300, 300, dim=128), {"causal": True}),
    "causal and masked by row, grouped": (
        inputs(290, 290, heads=4, groups=2, batch=1),
        {"causal": True, "mask": mask_of(290, 290, 1)},
    ),
    "masked alike for all rows, other keys, heads of 64": (
        inputs(257, 70, dim=64, groups=1),
        {"mask": mask_of(257, 70, rows=False)},
    ),
    "fewer keys than queries, causal": (inputs(300, 150), {"causal": True}),
    "all seen, less than a block": (inputs(90, 200), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_blocks_equal_the_whole(case):
    args, seen = CASES[case]
    expected = jax.jit(lambda *a: pulled(whole, *a, **seen))(*args)
    for way in (in_blocks, in_blocks_by_head):
        close(jax.jit(lambda *a, way=way: pulled(way, *a, **seen))(*args), expected, 1e-5)


def test_blocks_equal_the_whole_in_half_precision():
    """Gradients of keys and values, too, are about as near to those in f32: sums over blocks in bf16 would not be."""
    args = inputs(8 * BLOCK, 96, dim=64, batch=1, dtype=jnp.bfloat16)
    by = {way: jax.jit(functools.partial(pulled, way))(*args) for way in (in_blocks, whole)}
    exact = jax.jit(functools.partial(pulled, whole))(*(a.astype(jnp.float32) for a in args))
    for ours, theirs, truth in zip(by[in_blocks], by[whole], exact, strict=True):
        assert ours.dtype == theirs.dtype == jnp.bfloat16
        ours, theirs, truth = (np.asarray(a, np.float32) for a in (ours, theirs, truth))
        assert np.abs(ours - theirs).mean() < 1e-3 * max(1.0, np.abs(truth).mean())
        assert np.square(ours - truth).mean() < 1.3 * np.square(theirs - truth).mean()


def test_scores_of_any_size_are_finite():
    args = [100 * a for a in inputs(300, 300)]
    for array in jax.jit(lambda *a: pulled(in_blocks, *a, causal=True))(*args):
        assert np.isfinite(array).all()


def test_forward_mode_second_derivatives_and_vmap_go_through_blocks():
    args, tangents = inputs(200, 150, batch=1), tuple(jnp.cos(a) for a in inputs(200, 150, batch=1))
    for way in (in_blocks, in_blocks_by_head):

        def loss(way, *a):
            return jnp.sum(jnp.sin(way(*a, seen=Seen(causal=True))))

        def derivatives(way, args, tangents):
            pushed = jax.jvp(functools.partial(loss, way), args, tangents)
            over = jax.jvp(jax.grad(functools.partial(loss, way)), args, tangents)
            return jax.tree.leaves((pushed, over))

        ours, theirs = (jax.jit(functools.partial(derivatives, w))(args, tangents) for w in (way, whole))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * max(1.0, float(jnp.abs(b).max())))
    lanes = [jnp.stack([a, a[:, ::-1]]) for a in args]
    got = jax.jit(jax.vmap(lambda *a: in_blocks(*a, seen=Seen(causal=True))))(*lanes)
    expected = jax.vmap(lambda *a: whole(*a, seen=Seen(causal=True)))(*lanes)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("way", [in_blocks, in_blocks_by_head])
def test_dropout_in_blocks_draws_anew_for_each_and_the_same_in_the_backward_pass(way):
    q, k, _ = inputs(2 * BLOCK, 64, batch=1)
    v = jnp.ones_like(k)
    drop = jax.jit(lambda v, key: way(q, k, v, Seen(), Dropout(0.5, key)))
    out = drop(v, jax.random.key(0))
    np.testing.assert_allclose(out.mean(), 1.0, atol=0.02)  # of 512 rows, each of standard deviation near 0.2
    rows = np.asarray(out[0, :, :, 0])
    assert not np.allclose(rows[:BLOCK], rows[BLOCK:]) and not np.allclose(rows[:, 0], rows[:, 1])
    np.testing.assert_array_equal(out, drop(v, jax.random.key(0)))
    # Linear in v: a gradient by other weights than those of the output would not give it back.
    given = jax.jit(jax.grad(lambda v: jnp.sum(way(q, k, v, Seen(), Dropout(0.5, jax.random.key(0))))))(v)
    np.testing.assert_allclose(jnp.sum(given * v), jnp.sum(out), rtol=1e-4)


def temporaries(length, causal=True):
    args = [jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)] * 3

    def gradients(*args):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(attention(*a, causal=causal))), (0, 1, 2))(*args)

    memory = jax.jit(gradients).lower(*args).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes


@pytest.mark.parametrize("causal", [True, False])
def test_temporaries_grow_with_the_length(causal):
    """Those of kept scores, f32[2, T, T], grow with its square: 32 MiB a copy at 2,048."""
    sizes = [temporaries(length, causal) for length in (1024, 2048, 4096)]
    assert all(b < 2.3 * a for a, b in itertools.pairwise(sizes)), sizes
    assert sizes[1] < 16 * 2**20


def test_the_way_is_chosen_by_shape_and_platform():
    def loops(length, platform):
        args = [jax.ShapeDtypeStruct((1, length, 2, 32), jnp.float32)] * 3
        traced = jax.jit(functools.partial(attention, causal=True)).trace(*args)
        return traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.while")

    assert [loops(FEW - 1, to) for to in ("cpu", "cuda", "tpu")] == [0, 0, 0]
    assert [loops(FEW_ON_CPU - 1, to) > 0 for to in ("cpu", "cuda", "tpu")] == [False, True, True]
    assert all(loops(FEW_ON_CPU, to) > 0 for to in ("cpu", "cuda", "tpu"))


def test_a_mesh_gives_what_one_device_gives():
    """Batch and heads are split by the compiler: nothing of q, k and v travels."""
    args = inputs(FEW, FEW, batch=2)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    where = NamedSharding(mesh, P("data", None, "tensor"))
    program = jax.jit(lambda *a: pulled(in_blocks, *a, causal=True))
    split = [jax.device_put(a, where) for a in args]
    close(program(*split), program(*args), 1e-5)
    text = program.lower(*split).compile().as_text()
    assert text and not any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))
