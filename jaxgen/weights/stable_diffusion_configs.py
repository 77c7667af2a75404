"""The configurations in diffusers' folder of Stable Diffusion 1.x: read, checked, and written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.nets.autoencoder_kl import SD_SCALE, KLCoder
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.ops.named_samplers import SAMPLERS, Name
from jaxgen.ops.schedules import ScaledLinear
from jaxgen.runtime import reading
from jaxgen.runtime.progress import say

MOST_CONFIG = 1 << 20  # bytes of a configuration
# What 1.x has where a setting has a say in what is computed; a file that says otherwise is of another model.
UNET = {
    "use_linear_projection": False, "addition_embed_type": None, "class_embed_type": None, "num_class_embeds": None,
    "encoder_hid_dim": None, "encoder_hid_dim_type": None, "time_cond_proj_dim": None, "num_attention_heads": None,
    "dual_cross_attention": False, "only_cross_attention": False, "cross_attention_norm": None,
    "attention_type": "default", "act_fn": "silu", "timestep_post_act": None, "time_embedding_type": "positional",
    "time_embedding_act_fn": None, "resnet_time_scale_shift": "default", "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0, "dropout": 0.0, "center_input_sample": False, "flip_sin_to_cos": True,
    "freq_shift": 0, "downsample_padding": 1, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "mid_block_scale_factor": 1, "norm_eps": 1e-5,
}  # fmt: skip
VAE = {
    "act_fn": "silu", "shift_factor": None, "latents_mean": None, "latents_std": None, "use_quant_conv": True,
    "use_post_quant_conv": True, "mid_block_add_attention": True,
}  # fmt: skip
SCHEDULER = {
    "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "prediction_type": "epsilon", "trained_betas": None,
    "rescale_betas_zero_snr": False, "thresholding": False,
}  # fmt: skip
CLASSES: dict[str, Name] = {
    "PNDMScheduler": "pndm", "DDIMScheduler": "ddim", "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-ancestral", "HeunDiscreteScheduler": "heun",
    "DPMSolverMultistepScheduler": "dpm++",
}  # fmt: skip
"""Names of our samplers by diffusers' classes; a folder with another class is sampled by PNDM."""
SPACINGS = {"leading": "leading", "linspace": "ends"}
KARRAS = ("euler", "heun", "dpm++")
"""Samplers that have `use_karras_sigmas`; the others have `set_alpha_to_one`, or neither."""
DOWN, UP = {True: "CrossAttnDownBlock2D", False: "DownBlock2D"}, {True: "CrossAttnUpBlock2D", False: "UpBlock2D"}

Settings = dict[str, Any]


def read(file: Path) -> Settings:
    """The settings of a file. Raises UserError for one that holds none."""
    value = reading.read_json(file, MOST_CONFIG)
    if not isinstance(value, dict):
        raise UserError(f"{file} holds no settings: restore it")
    return value


def _check(settings: Settings, plain: Settings, file: Path) -> None:
    """Raises UserError where a setting is another than Stable Diffusion 1.x has."""
    for name, expected in plain.items():
        if (given := settings.get(name, expected)) != expected:
            raise UserError(
                f"{file} has {name} {given!r:.60}, Stable Diffusion 1.x has {expected!r}: other models, such as SD 2 "
                "and SDXL, are not read"
            )


def _size(settings: Settings, name: str, default: int, file: Path) -> int:
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65_536:
        raise UserError(f"{file} has {name} {value!r:.60}: a number from 1 to 65,536 is expected, as in SD 1.x")
    return value


def _widths(settings: Settings, file: Path) -> tuple[int, ...]:
    given = settings.get("block_out_channels")
    if not isinstance(given, list) or not given or not all(isinstance(w, int) and 1 <= w <= 65_536 for w in given):
        raise UserError(f"{file} has block_out_channels {given!r:.60}: a list of numbers is expected, restore it")
    return tuple(given)


def unet(settings: Settings, file: Path) -> tuple[SDUNet, int]:
    """The U-Net, and the side of the latents that it was trained on."""
    _check(settings, UNET, file)
    widths = _widths(settings, file)
    attention = tuple(name == DOWN[True] for name in settings.get("down_block_types") or (DOWN[True],) * 3)
    for name, blocks in (("down_block_types", DOWN), ("up_block_types", UP)):
        expected = [blocks[attends] for attends in (attention if blocks is DOWN else attention[::-1])]
        if (given := settings.get(name, expected)) != expected or len(given) != len(widths):
            raise UserError(
                f"{file} has {name} {given!r:.90}: {len(widths)} blocks as in Stable Diffusion are expected"
            )
    network = SDUNet(
        widths=widths, attention=attention, blocks=_size(settings, "layers_per_block", 2, file),
        heads=_size(settings, "attention_head_dim", 8, file), groups=_size(settings, "norm_num_groups", 32, file),
        depth=_size(settings, "transformer_layers_per_block", 1, file),
    )  # fmt: skip
    return network, _size(settings, "sample_size", 64, file)


def vae(settings: Settings, file: Path) -> tuple[int, float]:
    """Groups of normalization, and the scale of latents."""
    _check(settings, VAE, file)
    scale = settings.get("scaling_factor", SD_SCALE)
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 < scale < 1e6:
        raise UserError(f"{file} has scaling_factor {scale!r:.60}: a number above 0 is expected, restore it")
    return _size(settings, "norm_num_groups", 32, file), float(scale)


def scheduler(settings: Settings, file: Path) -> tuple[ScaledLinear, Name]:
    """The schedule, and the name of the sampler, for which its times are."""
    _check(settings, SCHEDULER, file)
    plain = ScaledLinear()
    ends = []
    for name, default in (("beta_start", plain.beta_start), ("beta_end", plain.beta_end)):
        value = settings.get(name, default)
        if not isinstance(value, float) or not 0 < value < 1:
            raise UserError(f"{file} has {name} {value!r:.60}: a number between 0 and 1 is expected, restore it")
        ends.append(value)
    offset = settings.get("steps_offset", 1)
    if not isinstance(offset, int) or not 0 <= offset < plain.num_steps:
        raise UserError(f"{file} has steps_offset {offset!r:.60}: a number from 0 to 999 is expected, restore it")
    sampler = CLASSES.get(str(settings.get("_class_name")), "pndm")
    times = SAMPLERS[sampler][1] | _times(settings, sampler, file)
    return replace(plain, beta_start=ends[0], beta_end=ends[1], offset=offset, **times), sampler


def _times(settings: Settings, sampler: Name, file: Path) -> dict[str, Any]:
    """The fields of a schedule that a file sets. Says what of it samples in another way here."""
    found: dict[str, Any] = {}
    given = settings.get("timestep_spacing")
    if given in SPACINGS:
        found["spacing"] = SPACINGS[given]
    elif given is not None:
        found["spacing"] = "ends"
        say(f"{file} has timestep_spacing {given!r:.60}, which is not known: times are evenly spaced, with both ends")
    if sampler in KARRAS and (karras := settings.get("use_karras_sigmas")) is not None:
        found["spacing"] = "karras" if karras else found.get("spacing", "ends")
    if sampler == "dpm++" and found.get("spacing") == "ends":
        say(f"{file} has times evenly spaced but for the last: the last, 0, is among those here")
    if sampler not in KARRAS and (to_one := settings.get("set_alpha_to_one")) is not None:
        found["end"] = "data" if to_one else "first"
    if settings.get("clip_sample"):
        say(f"{file} has clip_sample: latents have no bounds and are not clipped")
    return found


# --- writing --------------------------------------------------------------------------------------------------

VERSION = "0.20.0"
"""Of diffusers, since which these settings mean what they do."""


def of_unet(network: SDUNet, channels: int, context: int, side: int) -> Settings:
    """config.json of the U-Net. context: channels of the embedded tokens."""
    return {
        "_class_name": "UNet2DConditionModel", "_diffusers_version": VERSION, "sample_size": side,
        "in_channels": channels, "out_channels": channels, "block_out_channels": list(network.widths),
        "down_block_types": [DOWN[attends] for attends in network.attention],
        "up_block_types": [UP[attends] for attends in network.attention[::-1]], "layers_per_block": network.blocks,
        "attention_head_dim": network.heads, "cross_attention_dim": context, "norm_num_groups": network.groups,
        "transformer_layers_per_block": network.depth,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-5, "act_fn": "silu", "flip_sin_to_cos": True,
        "freq_shift": 0, "downsample_padding": 1, "mid_block_scale_factor": 1, "center_input_sample": False,
    }  # fmt: skip


def of_vae(network: KLCoder, side: int, scale: float) -> Settings:
    """config.json of the first stage. side: of the latents."""
    levels = len(network.widths)
    return {
        "_class_name": "AutoencoderKL", "_diffusers_version": VERSION, "sample_size": side * network.factor,
        "in_channels": network.channels, "out_channels": network.channels, "latent_channels": network.latent,
        "block_out_channels": list(network.widths), "layers_per_block": network.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": network.groups, "act_fn": "silu", "scaling_factor": scale,
    }  # fmt: skip


def of_scheduler(schedule: ScaledLinear, sampler: str) -> Settings:
    name = next(theirs for theirs, ours in CLASSES.items() if ours == sampler)
    own: Settings = {"pndm": {"skip_prk_steps": True}, "ddim": {"clip_sample": False}}.get(sampler, {})
    if sampler in KARRAS:
        own |= {"use_karras_sigmas": schedule.spacing == "karras"}
    elif sampler != "euler-ancestral":
        own |= {"set_alpha_to_one": schedule.end == "data"}
    spacing = next((theirs for theirs, ours in SPACINGS.items() if ours == schedule.spacing), "leading")
    return {
        "_class_name": name, "_diffusers_version": VERSION, "beta_schedule": "scaled_linear",
        "beta_start": schedule.beta_start, "beta_end": schedule.beta_end, "num_train_timesteps": schedule.num_steps,
        "prediction_type": "epsilon", "timestep_spacing": spacing, "steps_offset": schedule.offset,
        **own,
    }  # fmt: skip


def of_tokenizer(window: int) -> Settings:
    """tokenizer_config.json: texts are padded with the token that ends them."""
    start, end = "<|startoftext|>", "<|endoftext|>"
    return {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": window, "bos_token": start, "eos_token": end,
        "unk_token": end, "pad_token": end, "add_prefix_space": False, "do_lower_case": True,
    }  # fmt: skip


def index(sampler: str) -> Settings:
    """model_index.json, which says what each folder holds."""
    scheduler = next(theirs for theirs, ours in CLASSES.items() if ours == sampler)
    return {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": VERSION,
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "scheduler": ["diffusers", scheduler],
        "feature_extractor": [None, None], "safety_checker": [None, None], "image_encoder": [None, None],
        "requires_safety_checker": False,
    }  # fmt: skip
