"""A flow away from the identity, for tests of flows."""

import jax


def start(flow, shape, num=5, seed=0, context=None, scale=0.3):
    """x: f32[num, *shape] and parameters off their start, at which couplings are the identity."""
    key_x, key_init, key_move = jax.random.split(jax.random.key(seed), 3)
    x = 0.5 + 1.3 * jax.random.normal(key_x, (num, *shape))
    params = flow.init(key_init, x, context).get("params", {})
    leaves, tree = jax.tree.flatten(params)
    keys = [jax.random.fold_in(key_move, i) for i in range(len(leaves))]
    moved = [a + scale * jax.random.normal(key, a.shape) for a, key in zip(leaves, keys)]
    return x, {"params": jax.tree.unflatten(tree, moved)}
