"""The radiance field of the library against the same one in PyTorch, with the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from peers.nerf import TorchNeRF  # noqa: E402

from jaxgen import core  # noqa: E402
from jaxgen.data import AnalyticScene  # noqa: E402
from jaxgen.models.nerf import NeRF  # noqa: E402
from jaxgen.nets.nerf import NeRFMLP  # noqa: E402

torch.set_num_threads(1)
NET = NeRFMLP(depth=4, width=12, skip=2, position_frequencies=3, direction_frequencies=2)


@pytest.mark.parametrize("fine", [0, 10])
def test_pictures_and_gradients_are_pytorchs(fine):
    """Both passes, along rays that miss the box too."""
    model = NeRF(network=NET, coarse=9, fine=fine, bound=1.0)
    raw = AnalyticScene(size=12, train_views=2, samples=1).batch_at(0, 0, 40)
    x, rays = raw["x"].astype(np.float32) / 255, raw["cond"]
    state = core.init(model, jax.random.key(0), {"x": x, "cond": rays})
    params = jax.tree.map(lambda a: 1.5 * a + 0.02, state.params)
    assert TorchNeRF.has(model)
    peer = TorchNeRF(model)
    peer.from_flax(jax.device_get(params))

    def loss(params):
        passes = model.passes(params, rays, jnp.ones((1, 3)))
        return sum(jnp.mean((p.seen.rgb - x) ** 2) for p in passes), passes[-1].seen.rgb

    (value, rgb), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    theirs = peer.passes(torch.tensor(rays), False)
    np.testing.assert_allclose(rgb, theirs[-1].detach(), atol=2e-5)
    total = sum(((t - torch.tensor(x)) ** 2).mean() for t in theirs)
    np.testing.assert_allclose(value, total.item(), rtol=1e-4)
    total.backward()
    for name, network in peer.networks.items():
        for i, layer in enumerate(network.layers):
            expected = grads[name][f"Dense_{i}"]["kernel"].T
            largest = float(jnp.max(jnp.abs(expected)))
            np.testing.assert_allclose(layer.weight.grad, expected, atol=1e-4 * largest + 1e-7)
    assert not TorchNeRF.has(NeRF(network=NET, fine=4, shared=True))
