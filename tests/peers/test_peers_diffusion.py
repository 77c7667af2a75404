"""Blocks of the U-Net and of the diffusion transformer against diffusers', and schedulers against its own."""

import os
import warnings

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other packages' deprecations, on import alone
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

from closed_form import Mixture, run  # noqa: E402

from jaxgen.nets.dit import DiTBlock  # noqa: E402
from jaxgen.nets.unet import AttentionBlock, ResBlock  # noqa: E402
from jaxgen.ops.samplers import DDIM, Ancestral, DPMSolverPP  # noqa: E402
from jaxgen.ops.schedules import Cosine, Grid, Karras, Linear  # noqa: E402

# Torch's arrays do not know of NumPy 2's keyword; what diffusers itself warns of is not ours either.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
torch.set_num_threads(1)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomise(module) -> None:
    """Every parameter random, also what starts at zero or one."""
    for i, p in enumerate(module.parameters()):
        with torch.no_grad():
            p.copy_(torch.tensor(normal(*p.shape, seed=100 + i)) / max(1, p[0].numel()) ** 0.5)
    module.eval()


def linear(module) -> dict:
    """A Linear, or a 1 x 1 convolution, as Flax has it."""
    weight = module.weight.detach().numpy()
    return {"kernel": weight.reshape(weight.shape[:2]).T, "bias": module.bias.detach().numpy()}


def conv(module) -> dict:
    return {"kernel": module.weight.detach().numpy().transpose(2, 3, 1, 0), "bias": module.bias.detach().numpy()}


def norm(module) -> dict:
    return {"scale": module.weight.detach().numpy(), "bias": module.bias.detach().numpy()}


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.transpose(0, 3, 1, 2))


def same(ours, theirs) -> None:
    """To 1e-4 of the largest value."""
    theirs = theirs.detach().numpy()
    theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("resample", [-1, 0, 1])
@pytest.mark.parametrize("features", [16, 32])
def test_residual_block(scale_shift, resample, features):
    theirs = ResnetBlock2D(
        in_channels=16, out_channels=features, temb_channels=12, groups=4, groups_out=features // 4, eps=1e-6,
        time_embedding_norm="scale_shift" if scale_shift else "default", up=resample > 0, down=resample < 0,
    )  # fmt: skip
    randomise(theirs)
    # Groups of four channels, as ours are this narrow.
    ours = ResBlock(features, scale_shift=scale_shift, resample=resample)
    params = {
        "GroupNorm_0": norm(theirs.norm1),
        "GroupNorm_1": norm(theirs.norm2),
        "Dense_0": linear(theirs.time_emb_proj),
        ("DoubleConv_0" if resample > 0 else "Conv_0"): conv(theirs.conv1),
        ("Conv_0" if resample > 0 else "Conv_1"): conv(theirs.conv2),
    }
    if theirs.conv_shortcut is not None:
        params["skip"] = linear(theirs.conv_shortcut)
    x, time = normal(2, 6, 8, 16), normal(2, 12, seed=1)
    same(ours.apply({"params": params}, x, time), theirs(nchw(x), torch.tensor(time)))


def per_head(query, key, value, heads: int) -> dict:
    """Three layers as one, channels by head, then by which of the three."""
    layers = [linear(layer) for layer in (query, key, value)]
    kernels = np.stack([k["kernel"].reshape(len(k["kernel"]), heads, -1) for k in layers], axis=2)
    biases = np.stack([k["bias"].reshape(heads, -1) for k in layers], axis=1)
    return {"kernel": kernels.reshape(len(kernels), -1), "bias": biases.reshape(-1)}


def test_self_attention_block():
    theirs = Attention(
        query_dim=16, heads=2, dim_head=8, bias=True, norm_num_groups=4, eps=1e-6, residual_connection=True
    )
    randomise(theirs)
    params = {
        "GroupNorm_0": norm(theirs.group_norm),
        "qkv": per_head(theirs.to_q, theirs.to_k, theirs.to_v, 2),
        "out": linear(theirs.to_out[0]),
    }
    x = normal(2, 4, 6, 16)
    same(AttentionBlock(head_dim=8).apply({"params": params}, x), theirs(nchw(x)))


def test_cross_attention_block():
    theirs = Attention(
        query_dim=16, cross_attention_dim=10, heads=2, dim_head=8, bias=True, norm_num_groups=4, eps=1e-6,
        residual_connection=True,
    )  # fmt: skip
    randomise(theirs)
    params = {
        "GroupNorm_0": norm(theirs.group_norm),
        "query": linear(theirs.to_q),
        "key": linear(theirs.to_k),
        "value": linear(theirs.to_v),
        "out": linear(theirs.to_out[0]),
    }
    x, context = normal(2, 4, 6, 16), normal(2, 5, 10, seed=1)
    same(AttentionBlock(head_dim=8).apply({"params": params}, x, context), theirs(nchw(x), torch.tensor(context)))


def test_dit_block():
    """Their block makes the time and class embedding itself: ours is given the same."""
    theirs = BasicTransformerBlock(
        dim=16, num_attention_heads=2, attention_head_dim=8, activation_fn="gelu-approximate", num_embeds_ada_norm=10,
        attention_bias=True, norm_type="ada_norm_zero", norm_elementwise_affine=False, norm_eps=1e-6,
    )  # fmt: skip
    randomise(theirs)
    params = {
        "modulation": linear(theirs.norm1.linear),
        "self_attention": {
            "qkv": per_head(theirs.attn1.to_q, theirs.attn1.to_k, theirs.attn1.to_v, 2),
            "out": linear(theirs.attn1.to_out[0]),
        },
        "token_mlp": {"up": linear(theirs.ff.net[0].proj), "down": linear(theirs.ff.net[2])},
    }
    tokens, t, label = normal(3, 6, 16), torch.tensor([0, 300, 999]), torch.tensor([0, 4, 9])
    embedding = theirs.norm1.emb(t, label).detach().numpy()
    ours = DiTBlock(heads=2).apply({"params": params}, tokens, embedding)
    same(ours, theirs(torch.tensor(tokens), timestep=t, class_labels=label))


# --- schedulers, on a mixture whose noise is known, in float64 ---

DATA = Mixture()


def their_run(scheduler, x, schedule=None):
    """Their scheduler's loop over points x with the exact answer."""
    x = torch.tensor(x)
    for t in scheduler.timesteps:
        if schedule is None:  # sigma space: the answer is x_0
            sigma = float(scheduler.sigmas[scheduler.step_index or 0])
            # Theirs scales the input and takes the raw network's answer; undo both, as x_0 is exact.
            scheduler.scale_model_input(x, t)
            x0 = DATA.x0(x.numpy(), 1.0, sigma)
            skip = 0.5**2 / (sigma**2 + 0.5**2)
            out = sigma * 0.5 / np.sqrt(sigma**2 + 0.5**2)
            answer = (x0 - skip * x.numpy()) / out
        else:
            alpha, sigma = schedule.levels(int(t))
            answer = (x.numpy() - alpha * DATA.x0(x.numpy(), alpha, sigma)) / sigma
        x = scheduler.step(torch.tensor(answer), t, x).prev_sample
    return x.numpy()


LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def test_ddim_is_theirs():
    """On their times, which are not ours: evenly from 0 in whole steps."""
    scheduler = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(50)
    schedule = Linear()
    times = np.array(scheduler.timesteps)
    alpha, sigma = schedule.levels(times)
    table = DDIM(50).table(_At(schedule, times, alpha, sigma))
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(run(table, schedule, DATA.x0, x), their_run(scheduler, x, schedule), atol=1e-4)


class _At:
    """A schedule that visits given times."""

    def __init__(self, schedule, times, alpha, sigma):
        self.start = schedule.start
        self._grid = Grid(times, np.append(alpha, 1.0), np.append(sigma, 0.0))

    def grid(self, steps):
        return self._grid


def test_dpm_solver_is_theirs():
    scheduler = diffusers.DPMSolverMultistepScheduler(**LINEAR, final_sigmas_type="zero", timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    schedule = Linear()
    times = np.array(scheduler.timesteps)
    table = DPMSolverPP(20).table(_At(schedule, times, *schedule.levels(times)))
    x = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(run(table, schedule, DATA.x0, x), their_run(scheduler, x, schedule), atol=1e-4)


def test_dpm_solver_is_theirs_in_sigma_space():
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(20)
    schedule = Karras()
    np.testing.assert_allclose(np.array(scheduler.sigmas)[:-1], schedule.times(20), rtol=1e-4)
    x = 80 * np.linspace(-2, 2, 9)
    table = DPMSolverPP(20).table(schedule)
    np.testing.assert_allclose(run(table, schedule, DATA.x0, x), their_run(scheduler, x), atol=1e-3)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_ancestral_is_theirs(kind):
    """The posterior's mean and either variance, at each time of a cosine schedule."""
    theirs = diffusers.DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", variance_type=kind, clip_sample=False
    )
    table = Ancestral(large=kind == "fixed_large").table(Cosine(100))
    x, x0 = 0.3, -0.4
    for row, t in enumerate(table.t[:-1]):
        alpha, sigma = Cosine(100).levels(t)
        eps = torch.tensor([[(x - alpha * x0) / sigma]], dtype=torch.float64)
        torch.manual_seed(0)
        theirs.set_timesteps(100)
        with torch.no_grad():
            got = theirs.step(eps, int(t), torch.tensor([[x]], dtype=torch.float64))
        torch.manual_seed(0)
        noise = torch.randn(1, 1, dtype=torch.float64).item()
        expected = table.a[row] * x0 + table.b[row] * x + table.c[row] * noise
        np.testing.assert_allclose(got.prev_sample.item(), expected, atol=2e-5, err_msg=str(t))
