"""The second stage of a cascade: text-conditional super-resolution with noise conditioning augmentation, Imagen
(arXiv:2205.11487, sections 2.3 and 2.4; arXiv:2106.15282).

    python experiments/cascade.py base               # 16 pixels of a text: the first stage
    python experiments/cascade.py emoji              # 16 to 32 pixels
    jaxgen sample runs/cascade-base-0 --prompts prompts.txt --cascade runs/cascade-emoji-0 --level 0.2

The network is told how much noise is on the small picture. What it takes at sampling is --level, from 0 to
model.augment; benchmarks/cascade.py compares them. A first stage is any run that draws such small pictures.

CPU minutes (docs/presets.md): base 7, emoji 7. Not yet run to the end: emoji_t5 (told captions by T5, see
text_to_image.py).
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.data import Captioned, Emoji, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.models.ddpm import DDPM
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.t5 import T5Encoder
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DPMSolverPP
from jaxgen.ops.schedules import Cosine
from jaxgen.optim import Adam

TEXT = TextTower(vocab=1024, window=16, body=tower(96, 2, 3, activation="gelu"))
SMALL = Captioned(data=Mirrored(data=Emoji(size=16, label="none")), window=16)
LARGE = replace(SMALL, data=Mirrored(data=Emoji(size=32, label="none")))
LOOP = {"batch_size": 32, "steps": 2200, "steps_per_call": 20, "save_every": 440, "sample_every": 1100}
SETTINGS = {
    "schedule": Cosine(num_steps=1000), "sampler": DPMSolverPP(steps=25), "kind": "v", "min_snr": 5.0,
    "class_dropout": 0.1, "ema_decay": 0.999,
    "optimizer": Adam(lr=1e-3, warmup=200, decay_steps=2200, clip=1.0),
}  # fmt: skip
EMOJI = Experiment(
    model=SuperResolution(
        # Patches of two pixels: as cheap as 16 pixels, and what is lost is local.
        shape=(32, 32, 3), factor=2, augment=0.5, level=0.1, text=TEXT,
        network=UNet(32, (1, 2, 4), 1, (), head_dim=32, cross_attention=(4,), pooled_context=True, patch=2), **SETTINGS,
    ),
    data=LARGE, **LOOP,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=SuperResolution(
            shape=(16, 16, 3), factor=2, augment=0.5, level=0.1, class_dropout=0.2, guidance=Guidance(scale=2.0),
            text=TextTower(vocab=258, window=12, body=tower(16, 1, 2)),
            network=UNet(8, (1, 2), 1, (), head_dim=8, cross_attention=(4,), pooled_context=True, patch=2),
            schedule=Cosine(num_steps=20), sampler=DPMSolverPP(steps=4), kind="v", min_snr=5.0, ema_decay=0.99,
            evaluate_times=4,
        ),
        data=Captioned(data=Emoji(size=16, label="none"), tokenizer="bytes", window=12), batch_size=16, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    "base": Experiment(
        model=DDPM(
            shape=(16, 16, 3), text=TEXT, guidance=Guidance(scale=3.0),
            network=UNet(32, (1, 2, 4), 1, (4,), head_dim=32, cross_attention=(4,), pooled_context=True), **SETTINGS,
        ),
        data=SMALL, **LOOP,
    ),
    "emoji": EMOJI,
    "emoji_t5": replace(
        EMOJI, model=replace(EMOJI.model, text=T5Encoder(window=16)), trainable="network/.*",
        data=replace(LARGE, tokenizer="t5", vocabulary="t5-small"),
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
