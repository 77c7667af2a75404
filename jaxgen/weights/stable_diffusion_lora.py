"""The kernels of Stable Diffusion 1.x by the names of modules in files of LoRA."""

import numpy as np

from jaxgen.nets.clip import TextTower
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.weights.clip_names import OURS_IN_BLOCK
from jaxgen.weights.lora import Slot
from jaxgen.weights.stable_diffusion import unet_shapes
from jaxgen.weights.stable_diffusion_names import POINTWISE, unet_to_diffusers

LAYER = "text_encoder.text_model.encoder.layers"


def lora_slots(unet: SDUNet, text: TextTower | None) -> dict[str, Slot]:
    """Slots of the U-Net, `network` in a state's parameters, and of the text encoder, `text`."""
    slots = {}
    for path in unet_shapes(unet, 4, 8):  # no path depends on the numbers of channels
        if path.endswith("/kernel"):
            name = unet_to_diffusers(path).removesuffix(".weight")
            slots[f"unet.{name}"] = Slot(f"network/{path}", pointwise=path.split("/")[-2] in POINTWISE)
    if text is None:
        return slots
    for theirs, ours in OURS_IN_BLOCK.items():
        path = f"text/body/blocks/{ours}"
        for i in range(text.body.depth if ours.endswith("kernel") else 0):
            module = theirs.removesuffix(".weight")
            if "qkv" not in module:
                slots[f"{LAYER}.{i}.{module}"] = Slot(path, i)
                continue
            # Our channels are (head, which of q, k and v, channel); theirs (head, channel) of each.
            of_each = np.arange(3 * text.body.width).reshape(text.body.heads, 3, -1).swapaxes(0, 1).reshape(3, -1)
            for part, columns in zip("qkv", of_each):
                slots[f"{LAYER}.{i}.{module.replace('qkv', f'{part}_proj')}"] = Slot(path, i, columns)
    return slots
