"""diffusers' `UNet2DModel` that computes what a jaxgen.nets.unet.UNet does, and its own pipelines to sample from it.

Its fields say everything but one: it has the same number of groups in every normalization, ours as many as suit the
width. So the groups of each layer are set after it is built, which costs it nothing; networks whose widths are all
multiples of 128 have 32 everywhere and need no change.
"""

import contextlib
import math
import os
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxgen.errors import UserError
from jaxgen.models.ddpm import DDPM
from jaxgen.nets.unet import UNet
from jaxgen.ops.samplers import DDIM, Ancestral
from jaxgen.ops.schedules import Cosine, Linear
from peers.ddpm import TorchDDPM
from peers.inception import import_torchvision
from peers.layers import copy

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here is fetched
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    with contextlib.suppress(ImportError):
        import_torchvision()  # asked for by transformers, which is asked for where it is installed
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
    from diffusers.utils import logging
logging.set_verbosity_error()  # it warns of every cast of a network


def check(model: Any) -> None:
    """Raises UserError for a model that the pipelines have no words for."""
    if not TorchDDPM.has(model) or model.num_classes or type(model.schedule) not in (Cosine, Linear):
        raise UserError(
            "diffusers' pipelines sample from a plain U-Net that answers eps, without classes, on a linear or cosine "
            f"schedule; this {type(model).__name__} is of another kind: choose a preset without classes"
        )
    height, width, _ = model.shape
    net = model.network
    attended = {net.width * mult for level, mult in enumerate(net.mults) if height >> level in net.attention}
    attended.add(net.width * net.mults[-1])
    if height != width or any(channels % net.head_dim for channels in attended):
        raise UserError(
            f"diffusers needs square images and heads that divide {sorted(attended)} channels; these are {height} x "
            f"{width} with heads of {net.head_dim}: choose another preset"
        )


# --- the network --------------------------------------------------------------------------------------------------


def unet2d(model: DDPM, params: Any) -> UNet2DModel:
    """The network of `model` in f32 on the CPU with the Flax parameters `params`; it is told t as 0 .. T - 1."""
    net, shape = model.network, model.shape
    attends = [shape[0] >> level in net.attention for level in range(len(net.mults))]
    module = UNet2DModel(
        sample_size=shape[0],
        in_channels=shape[2],
        out_channels=shape[2],
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        block_out_channels=tuple(net.width * mult for mult in net.mults),
        layers_per_block=net.blocks,
        downsample_padding=0,  # pads after alone, as SAME does
        attention_head_dim=net.head_dim,
        norm_num_groups=math.gcd(*(groups(net.width * mult) for mult in net.mults)),
        norm_eps=1e-6,
        dropout=net.dropout,
    )
    for layer in module.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = groups(layer.num_channels)
    module.time_proj.scale = 1000 / model.schedule.num_steps
    _fill_all(module, net, params)
    return module.eval()


def groups(channels: int) -> int:
    """Those of jaxgen.nets.unet.norm."""
    return math.gcd(32, max(1, channels // 4))


def _fill_all(module: UNet2DModel, net: UNet, params: Any) -> None:
    fill(module.conv_in, params["Conv_0"])
    fill(module.time_embedding.linear_1, params["Dense_0"])
    fill(module.time_embedding.linear_2, params["Dense_1"])
    # Flax numbers its blocks in the order of use: the way down, then the way up; the middle has names.
    residual = iter(range(len(params)))
    attention = iter(range(len(params)))
    for block in (*module.down_blocks, *module.up_blocks):
        for resnet in block.resnets:
            fill_residual(resnet, params[f"ResBlock_{next(residual)}"])
        for layer in getattr(block, "attentions", ()):
            fill_attention(layer, params[f"AttentionBlock_{next(attention)}"])
    last = len(net.mults) - 1
    for level in range(last):
        fill(module.down_blocks[level].downsamplers[0].conv, params[f"down{level}"])
        fill(module.up_blocks[level].upsamplers[0].conv, params[f"up{last - level}"])
    for resnet, name in zip(module.mid_block.resnets, ("middle_in", "middle_out")):
        fill_residual(resnet, params[name])
    fill_attention(module.mid_block.attentions[0], params["middle_attention"])
    fill(module.conv_norm_out, params["out_norm"])
    fill(module.conv_out, params["out"])


def fill(layer: nn.Module, params: Any) -> None:
    """A convolution, linear layer or normalization from Flax's; a dense layer may be their convolution of one pixel."""
    if isinstance(layer, nn.GroupNorm):
        copy(layer.weight, params["scale"])
    else:
        kernel = np.asarray(params["kernel"])
        copy(layer.weight, np.moveaxis(kernel, (-1, -2), (0, 1)).reshape(layer.weight.shape))
    copy(layer.bias, params["bias"])


def fill_residual(block: nn.Module, params: Any) -> None:
    names = {
        "norm1": "GroupNorm_0", "conv1": "Conv_0", "time_emb_proj": "Dense_0", "norm2": "GroupNorm_1",
        "conv2": "Conv_1", "conv_shortcut": "skip",
    }  # fmt: skip
    for theirs, ours in names.items():
        if ours in params:
            fill(getattr(block, theirs), params[ours])


def fill_attention(block: nn.Module, params: Any) -> None:
    """Ours has one layer for all three, channels by head, then by which of the three."""
    fill(block.group_norm, params["GroupNorm_0"])
    kernel, bias = (np.asarray(params["qkv"][name]) for name in ("kernel", "bias"))
    channels = len(kernel)
    for i, layer in enumerate((block.to_q, block.to_k, block.to_v)):
        part = {
            "kernel": kernel.reshape(channels, block.heads, 3, -1)[:, :, i].reshape(channels, channels),
            "bias": bias.reshape(block.heads, 3, -1)[:, i].reshape(channels),
        }
        fill(layer, part)
    fill(block.to_out[0], params["out"])


# --- the pipelines ------------------------------------------------------------------------------------------------


class Pipeline:
    """diffusers' pipeline for one of our samplers over a network of theirs."""

    def __init__(self, model: DDPM, module: UNet2DModel):
        """model: with the sampler to be like, Ancestral of all steps or DDIM."""
        schedule, sampler = model.schedule, model.sampler
        settings = {"num_train_timesteps": schedule.num_steps, "clip_sample": bool(sampler.clip)}
        settings["clip_sample_range"] = sampler.clip or 1.0
        match schedule:
            case Linear(beta_start=start, beta_end=end):
                scale = 1000 / schedule.num_steps
                settings |= {"beta_schedule": "linear", "beta_start": start * scale, "beta_end": end * scale}
            case Cosine():
                settings["beta_schedule"] = "squaredcos_cap_v2"
        self.options = {"num_inference_steps": sampler.evaluations(schedule), "output_type": "pt"}
        match sampler:
            case Ancestral(large=large):
                kind = "fixed_large" if large else "fixed_small"
                self.pipeline = DDPMPipeline(module, DDPMScheduler(variance_type=kind, **settings))
            case DDIM(eta=eta):
                self.pipeline = DDIMPipeline(module, DDIMScheduler(**settings))
                self.options["eta"] = eta
        self.pipeline.set_progress_bar_config(disable=True)

    def __call__(self, num: int) -> np.ndarray:
        """`num` samples f32[num, H, W, C] in [0, 1], on the host."""
        images = self.pipeline(batch_size=num, **self.options).images
        return images.float().cpu().permute(0, 2, 3, 1).numpy()


def device(platform: str) -> torch.device:
    """Where PyTorch computes when jax does on `platform`. Raises UserError when it cannot on the same."""
    if platform == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"jax computes on {platform}, this PyTorch cannot: install one that can, or set JAX_PLATFORMS")
    return torch.device("cuda")
