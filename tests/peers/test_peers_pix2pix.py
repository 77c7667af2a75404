"""pix2pix's networks against PyTorch's layers with the same parameters."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402

from jaxgen.nets.pix2pix import PatchCritic, UNetGenerator  # noqa: E402

torch.set_num_threads(1)


def normal(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x))


def image(x) -> torch.Tensor:
    return tensor(x).movedim(-1, 1)


def instance_norm(h: torch.Tensor, p) -> torch.Tensor:
    return F.instance_norm(h, weight=tensor(p["scale"]), bias=tensor(p["bias"]), eps=1e-5)


def batch_norm(h: torch.Tensor, p) -> torch.Tensor:
    return F.batch_norm(h, None, None, tensor(p["scale"]), tensor(p["bias"]), training=True, eps=1e-5)


def bias(p) -> torch.Tensor | None:
    return tensor(p["bias"]) if "bias" in p else None


def shaken(params):
    """Parameters larger than they start, so that activations are of the order of one, and biases other than zero."""
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [5 * np.asarray(p) + 0.1 * normal(p.shape, i) for i, p in enumerate(leaves)])


def test_generator_is_the_unet_of_convolutions_and_transposed_convolutions():
    widths, source = (4, 6, 8, 8), normal((2, 32, 48, 3), 0)
    net = UNetGenerator(channels=widths)
    params = shaken(net.init(jax.random.key(0), source, 2)["params"])
    depth = len(widths)
    norms = iter(range(2 * depth))

    def conv(h, i):
        p = params[f"Conv2D_{i}"]
        return F.conv2d(h, tensor(p["kernel"]).permute(3, 2, 0, 1), bias(p), stride=2, padding=1)

    def up(h, i):
        p = params[f"Conv2D_{depth + i}"]
        return F.conv_transpose2d(h, tensor(p["kernel"]).permute(2, 3, 0, 1), bias(p), stride=2, padding=1)

    def norm(h):
        return instance_norm(h, params[f"Norm_{next(norms)}"]["GroupNorm_0"])

    h, skips = conv(image(source), 0), []
    for i in range(1, depth):
        skips.append(h)
        h = conv(F.leaky_relu(h, 0.2), i)
        h = norm(h) if i < depth - 1 else h
    for i in range(depth - 1):
        h = torch.cat([norm(up(F.relu(h), i)), skips.pop()], dim=1)
    expected = torch.tanh(up(F.relu(h), depth - 1)).movedim(1, -1).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(net.apply({"params": params}, source, 2), expected, atol=2e-5)


def test_critic_is_the_stack_of_padded_convolutions():
    """In training, by the statistics of the batch; odd sizes too."""
    source, x = normal((3, 45, 38, 1), 0), normal((3, 45, 38, 3), 1)
    net = PatchCritic(channels=(4, 6, 8))
    variables = net.init(jax.random.key(0), source, x)
    params = shaken(variables["params"])
    h = torch.cat([image(source), image(x)], dim=1)
    for i, stride in enumerate((2, 2, 1, 1)):
        p = params[f"Conv_{i}"]
        h = F.conv2d(h, tensor(p["kernel"]).permute(3, 2, 0, 1), bias(p), stride=stride, padding=1)
        if i in (1, 2):
            h = batch_norm(h, params[f"Norm_{i - 1}"]["BatchNorm_0"])
        if i < 3:
            h = F.leaky_relu(h, 0.2)
    stats = {"batch_stats": variables["batch_stats"]}
    logits, _ = net.apply({"params": params, **stats}, source, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(logits, h[:, 0].numpy(), atol=1e-4)
