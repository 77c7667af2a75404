"""Text to image: flow matching or diffusion of latents, told a caption by a text transformer that is trained along.

    jaxgen weights import-taesd ../shared/data/taef2 runs/taef2-64     # a published first stage, see jaxgen weights
    python experiments/text_to_image.py emoji --mesh data=2
    python experiments/text_to_image.py sprites --images DIR --mesh data=2     # captions lie beside the pictures
    jaxgen sample runs/text_to_image-emoji-0 --prompt "red apple"

A fraction of captions is dropped, so that guidance can lead away from no caption, or from a negative one. Not yet
run to the end: emoji, sprites.
"""

from jaxgen.cli.train import main
from jaxgen.data import Captioned, Emoji, ImageFolder, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.dit import DiT, dit
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Euler, Heun
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

TINY = {
    "text": TextTower(vocab=1024, window=16, body=tower(192, 2, 3, activation="gelu")),
    "sampler": Heun(steps=25, clip=0.0), "logit_std": 1.0, "ema_decay": 0.999, "class_dropout": 0.1,
    "guidance": Guidance(scale=3.0), "optimizer": Adam(lr=6e-4, warmup=200, decay_steps=6000, clip=1.0),
}  # fmt: skip
TAEF2 = Pretrained(run="runs/taef2-64", form="latents")
HOUR = {
    "batch_size": 32, "steps": 6000, "steps_per_call": 20, "log_every": 100, "sample_every": 2000, "save_every": 500,
    "num_samples": 64,
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=FlowMatching(
            shape=(16, 16, 3), network=DiT(width=16, depth=1, heads=2, patch=4), sampler=Euler(steps=4, clip=0.0),
            text=TextTower(vocab=258, window=12, body=tower(16, 1, 2)), class_dropout=0.2,
            guidance=Guidance(scale=2.0), ema_decay=0.99, evaluate_times=4,
        ),
        data=Captioned(data=Emoji(size=16), tokenizer="bytes", window=12), batch_size=16, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    "emoji": Experiment(
        model=FlowMatching(shape=(8, 8, 32), network=dit("tiny", patch=1), **TINY), codec=TAEF2,
        data=Captioned(data=Mirrored(data=Emoji(size=64)), window=16), **HOUR,
    ),
    # Of pixels: first stages of photographs blur drawings of 32 pixels.
    "sprites": Experiment(
        model=FlowMatching(
            shape=(32, 32, 3), network=UNet(48, (1, 2, 4), 1, (8,), 48, 0.0, (16, 8), pooled_context=True, patch=2),
            **TINY | {"sampler": Heun(steps=25, clip=1.0)},
        ),
        data=Captioned(data=Mirrored(data=ImageFolder(size=32)), window=16), **HOUR,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
