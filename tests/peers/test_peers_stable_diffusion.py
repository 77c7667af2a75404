"""Stable Diffusion 1.x against diffusers and transformers, on random weights of tiny sizes."""

import os
import warnings
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
from peers.inception import import_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other packages' deprecations, on import alone
    with suppress(ImportError):
        import_torchvision()
    pytest.importorskip("transformers")
    pytest.importorskip("diffusers")
    from diffusers import UNet2DConditionModel
from flax.traverse_util import unflatten_dict  # noqa: E402

from jaxgen.nets.unet_sd import SDUNet  # noqa: E402
from jaxgen.weights.stable_diffusion_names import to_ours, unet_to_diffusers  # noqa: E402
from jaxgen.weights.store import flatten_shapes  # noqa: E402

# Torch's arrays do not know of NumPy 2's keyword; what diffusers itself warns of is not ours either.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
torch.set_num_threads(1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomise(module):
    """Every parameter random, also what starts at zero or one."""
    for i, (name, p) in enumerate(module.named_parameters()):
        with torch.no_grad():
            noise = torch.tensor(normal(*p.shape, seed=100 + i))
            p.copy_(1 + 0.3 * noise if "norm" in name and "weight" in name else noise / max(1, p[0].numel()) ** 0.5)
    return module.eval()


def their_unet(**changes):
    return randomise(UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=2, cross_attention_dim=24, attention_head_dim=2,
        norm_num_groups=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **changes,
    ))  # fmt: skip


OURS = SDUNet(widths=(32, 64), attention=(True, False), heads=2, groups=8)


def test_unet():
    """On sizes that halve, and on odd ones."""
    theirs = their_unet()
    state = {name: p.detach().numpy() for name, p in theirs.named_parameters()}
    for height, width in ((8, 12), (7, 5)):
        x, context, t = normal(2, height, width, 4), normal(2, 6, 24, seed=1), np.array([3.0, 981.0], np.float32)
        shapes = flatten_shapes(
            jax.eval_shape(lambda: OURS.init(jax.random.key(0), x, t, 4, context=context))["params"]  # noqa: B023
        )
        assert {unet_to_diffusers(path) for path in shapes} == state.keys()
        flat = {path: to_ours(state[unet_to_diffusers(path)], leaf.ndim) for path, leaf in shapes.items()}
        params = unflatten_dict({tuple(path.split("/")): jnp.asarray(array) for path, array in flat.items()})
        ours = jax.jit(lambda p, x, t, c: OURS.apply({"params": p}, x, t, 4, context=c))(params, x, t, context)
        with torch.no_grad():
            answer = theirs(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(t), torch.tensor(context)).sample
        answer = answer.numpy().transpose(0, 2, 3, 1)
        assert answer.std() > 0.1
        np.testing.assert_allclose(ours, answer, atol=1e-4 * np.abs(answer).max())
