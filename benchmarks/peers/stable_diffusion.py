"""A Stable Diffusion 1.x of tiny sizes and random weights, made of diffusers' and transformers' parts."""

import os
import warnings
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from peers.inception import import_torchvision

os.environ["HF_HUB_OFFLINE"] = "1"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other packages' deprecations, on import alone
    with suppress(ImportError):
        import_torchvision()
    import diffusers as _diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging as transformers_logging

from jaxgen.data.clip_tokenizer import ClipBPE

diffusers: Any = _diffusers  # it imports its names lazily, of which a type checker knows nothing
diffusers.utils.logging.set_verbosity_error()
transformers_logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers_logging.disable_progress_bar()
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading"}),
    "dpm++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True, "timestep_spacing": "leading"}),
}
"""By our samplers' names."""
WINDOW, WIDTH = 77, 64
TEXTS = ["a red dragon in the snow", "a blue horse", "blurred, ugly", "the sea at night, oil on canvas"] * 4


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def randomise(module):
    """Every parameter random, also what starts at zero or one."""
    for i, (name, p) in enumerate(module.named_parameters()):
        noise = torch.tensor(normal(*p.shape, seed=100 + i))
        with torch.no_grad():
            p.copy_(1 + 0.3 * noise if "norm" in name and "weight" in name else noise / max(1, p[0].numel()) ** 0.5)
    return module.eval()


def unet(told=1, **changes):
    """8 heads and 32 groups, as a single file's have. told: scales attention to texts, most of which is padding, so
    that they make more of a difference."""
    settings = {
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 2, "cross_attention_dim": WIDTH,
        "attention_head_dim": 8, "norm_num_groups": 32, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    made = randomise(diffusers.UNet2DConditionModel(**{**settings, **changes}))
    with torch.no_grad():
        for name, p in made.named_parameters():
            p *= told if ".attn2.to_" in name else 1
    return made


def vae():
    """Pictures are twice as large as latents."""
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    made = diffusers.AutoencoderKL(block_out_channels=(32, 32), latent_channels=4, sample_size=16, **blocks)
    with torch.no_grad():
        randomise(made).decoder.conv_out.weight *= 0.2  # pictures within black and white
    return made


def vocabulary():
    return ClipBPE.train(TEXTS, 560)


def text_encoder(tokenizer):
    config = CLIPTextConfig(
        vocab_size=tokenizer.size, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
        num_attention_heads=1, max_position_embeddings=WINDOW, bos_token_id=tokenizer.start,
        eos_token_id=tokenizer.end, pad_token_id=tokenizer.end,
    )  # fmt: skip
    return randomise(CLIPTextModel(config))


def write_tokenizer(folder):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = vocabulary()
    for file, text in tokenizer.write(folder).items():
        file.write_text(text)
    return tokenizer


def scheduler(name):
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind)(**SCHEDULE, **settings)


def loaded(folder):
    """The pipeline in a folder."""
    made = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    made.set_progress_bar_config(disable=True)
    return made


def pipeline(folder, **changes):
    """The pipeline, with changes to its U-Net; `folder` / sd gets what its save_pretrained writes."""
    tokenizer = write_tokenizer(folder / "vocabulary")
    theirs = CLIPTokenizer.from_pretrained(folder / "vocabulary", model_max_length=WINDOW, pad_token="<|endoftext|>")
    made = diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=text_encoder(tokenizer), tokenizer=theirs, unet=unet(**changes),
        scheduler=scheduler("pndm"), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder / "sd")
    made.set_progress_bar_config(disable=True)
    return made
