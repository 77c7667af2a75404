"""Names of Stable Diffusion's tensors: ours, diffusers' and those of the single file, which CompVis' code wrote."""

import re

import numpy as np

POINTWISE = ("conv_shortcut", "proj_in", "proj_out")
"""Layers of the U-Net that are 1x1 convolutions in files and dense layers here."""
INNER = {"to_out": "to_out.0", "ff_in": "ff.net.0.proj", "ff_out": "ff.net.2"}
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
RES_IN_FILE = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER_IN_FILE = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def unet_to_diffusers(path: str) -> str:
    """diffusers' name of a parameter of `SDUNet`, whose path has its parts between slashes."""
    outer, *inner, leaf = path.split("/")
    outer = re.sub(r"^(down_blocks|up_blocks)_(\d+)_", r"\1.\2.", outer)
    outer = re.sub(r"^(mid_block|time_embedding)_", r"\1.", outer)
    inner = [INNER.get(part, re.sub(r"^transformer_blocks_(\d+)$", r"transformer_blocks.\1", part)) for part in inner]
    outer = re.sub(r"(resnets|attentions|downsamplers|upsamplers)_(\d+)$", r"\1.\2", outer)
    return ".".join([outer, *inner, LEAVES[leaf]])


def unet_to_file(name: str, blocks: int, attention: tuple[bool, ...]) -> str:
    """The name in the single file, without its prefix, of diffusers' name of a tensor of the U-Net.

    blocks, attention: fields of the `SDUNet`.
    """
    for theirs, in_file in OUTER_IN_FILE.items():
        if name.startswith(f"{theirs}."):
            name_in_file = in_file + name[len(theirs) :]
            return _res_to_file(name_in_file) if ".resnets." in name else name_in_file
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", name)
    assert found, name
    side, level, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    each = blocks + 1  # with the down-sampling that follows a level, or the block that meets it on the way up
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * each}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        return f"output_blocks.{level * each + blocks}.{2 if attention[::-1][level] else 1}.{rest}"
    place = f"input_blocks.{1 + level * each + i}" if side == "down" else f"output_blocks.{level * each + i}"
    return _res_to_file(f"{place}.0.{rest}") if kind == "resnets" else f"{place}.1.{rest}"


def _res_to_file(name: str) -> str:
    """The layers of a residual block under their names in the single file; other names as they are."""
    place, layer, leaf = name.rsplit(".", 2)
    return f"{place}.{RES_IN_FILE[layer]}.{leaf}" if layer in RES_IN_FILE else name


def to_ours(array: np.ndarray, ndim: int) -> np.ndarray:
    """A tensor of a file as a parameter of `ndim` axes: kernels are [out, in, rows, columns] or [out, in] there."""
    array = np.asarray(array, np.float32)
    if array.ndim == 4 and ndim == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T if array.ndim == 2 else array


def to_theirs(array: np.ndarray, pointwise: bool) -> np.ndarray:
    """The inverse of `to_ours`. pointwise: whether a dense layer is a 1x1 convolution there."""
    array = np.asarray(array, np.float32)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T[:, :, None, None] if pointwise and array.ndim == 2 else array.T
