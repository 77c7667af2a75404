"""Names of CLIP's tensors: Hugging Face's, open_clip's and ours."""

import numpy as np

OUTER = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm": "visual.ln_pre", "vision_model.post_layernorm": "visual.ln_post",
    "visual_projection.weight": "visual.proj",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm": "ln_final", "text_projection.weight": "text_projection",
    "vision_model.encoder.layers": "visual.transformer.resblocks", "text_model.encoder.layers": "transformer.resblocks",
}  # fmt: skip
"""Hugging Face's names, or their beginnings, and open_clip's."""
INNER = {"layer_norm1": "ln_1", "self_attn.out_proj": "attn.out_proj", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
         "mlp.fc2": "mlp.c_proj"}  # fmt: skip
"""The same of the layers of a block."""
OURS = {
    "logit_scale": "logit_scale", "logit_bias": "logit_bias",
    "visual_projection.weight": "image_projection/kernel", "text_projection.weight": "text_projection/kernel",
    "vision_model.embeddings.class_embedding": "image/class_token",
    "vision_model.embeddings.patch_embedding.weight": "image/patches/kernel",
    "vision_model.embeddings.position_embedding.weight": "image/positions",
    "vision_model.pre_layrnorm.weight": "image/norm_in/scale",
    "vision_model.pre_layrnorm.bias": "image/norm_in/bias",
    "vision_model.post_layernorm.weight": "image/body/norm/scale",
    "vision_model.post_layernorm.bias": "image/body/norm/bias",
    "text_model.embeddings.token_embedding.weight": "text/tokens",
    "text_model.embeddings.position_embedding.weight": "text/positions",
    "text_model.final_layer_norm.weight": "text/body/norm/scale",
    "text_model.final_layer_norm.bias": "text/body/norm/bias",
}  # fmt: skip
"""Our paths of Hugging Face's names, but for those of blocks."""
BLOCKS = {
    "vision_model.encoder.layers": "image/body/blocks",
    "text_model.encoder.layers": "text/body/blocks",
}
OURS_IN_BLOCK = {
    "layer_norm1.weight": "norm_self/scale", "layer_norm1.bias": "norm_self/bias",
    "self_attn.qkv.weight": "self_attention/qkv/kernel", "self_attn.qkv.bias": "self_attention/qkv/bias",
    "self_attn.out_proj.weight": "self_attention/out/kernel", "self_attn.out_proj.bias": "self_attention/out/bias",
    "layer_norm2.weight": "norm_mlp/scale", "layer_norm2.bias": "norm_mlp/bias",
    "mlp.fc1.weight": "token_mlp/up/kernel", "mlp.fc1.bias": "token_mlp/up/bias",
    "mlp.fc2.weight": "token_mlp/down/kernel", "mlp.fc2.bias": "token_mlp/down/bias",
}  # fmt: skip
TRANSPOSED = ("visual.proj", "text_projection")


def to_huggingface(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """open_clip's tensors under Hugging Face's names."""
    out = {}
    for name, array in tensors.items():
        name = name.removeprefix("text.")  # of CustomTextCLIP
        array = array.T if name in TRANSPOSED else array
        for theirs, ours in ((ours, theirs) for theirs, ours in OUTER.items()):
            if name == theirs or name.startswith(f"{theirs}."):
                name = ours + name[len(theirs) :]
                break
        for ours, theirs in INNER.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        if name.endswith(("attn.in_proj_weight", "attn.in_proj_bias")):
            block, kind = name.split(".attn.in_proj_")
            for part, a in zip("qkv", np.split(array, 3)):
                out[f"{block}.self_attn.{part}_proj.{kind}"] = a
        else:
            out[name] = array
    return out


def from_huggingface(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hugging Face's tensors under open_clip's names."""
    out = {}
    for name, array in tensors.items():
        if "self_attn.k_proj" in name or "self_attn.v_proj" in name:
            continue
        if ".self_attn.q_proj." in name:
            array = np.concatenate([tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("self_attn.q_proj.", "attn.in_proj_")
        for theirs, open_clip in OUTER.items():
            if name == theirs or name.startswith(f"{theirs}."):
                name = open_clip + name[len(theirs) :]
                break
        for theirs, open_clip in INNER.items():
            name = name.replace(f".{theirs}.", f".{open_clip}.")
        out[name] = array.T if name in TRANSPOSED else array
    return out
