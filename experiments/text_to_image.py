"""Text to image: flow matching or diffusion of latents, told a caption by a text transformer that is trained along.

    jaxgen weights import-taesd FOLDER runs/taef2-64     # a published first stage, see jaxgen weights
    python experiments/text_to_image.py emoji --mesh data=2
    python experiments/text_to_image.py sprites --images DIR --mesh data=2     # captions lie beside the pictures
    jaxgen sample runs/text_to_image-emoji-0 --prompt "red apple"

A fraction of captions is dropped, so that guidance can lead away from no caption, or from a negative one. sprites goes
on from the run of emoji. ldm_kl8 and sd15 take captioned pictures by --images DIR, CLIP's vocabulary by
--data.vocabulary FOLDER, and a first stage of autoencoder_kl.py or `jaxgen weights import-vae`. emoji draws what half
of its held-out captions say, sprites fewer. Not yet run: emoji_t5, ldm_kl8, sd15.
"""

from jaxgen.cli.train import main
from jaxgen.data import Captioned, Emoji, ImageFolder, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.models.ddpm import DDPM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.dit import DiT, dit
from jaxgen.nets.mmdit import MMDiT
from jaxgen.nets.t5 import T5Encoder
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.pndm import PNDM
from jaxgen.ops.samplers import DDIM, Euler, Heun
from jaxgen.ops.schedules import ScaledLinear
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
BIG = {
    "steps_per_call": 100, "log_every": 500, "save_every": 5000, "sample_every": 10_000, "precision": "bfloat16",
    "remat": True,
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
    # The same with a stream of its own for the words, as in Stable Diffusion 3 (arXiv:2403.03206).
    "emoji_mmdit": Experiment(
        model=FlowMatching(shape=(8, 8, 32), network=MMDiT(width=128, depth=6, heads=4, patch=2), **TINY), codec=TAEF2,
        data=Captioned(data=Mirrored(data=Emoji(size=64)), window=16), **HOUR,
    ),
    # Told captions by T5's encoder, as Imagen is (arXiv:2205.11487), which is not trained: `jaxgen weights import-t5`
    # says which flags name its weights and its vocabulary.
    "emoji_t5": Experiment(
        model=FlowMatching(shape=(8, 8, 32), network=dit("tiny", patch=1), **TINY | {"text": T5Encoder(window=16)}),
        codec=TAEF2, trainable="network/.*",
        data=Captioned(data=Mirrored(data=Emoji(size=64)), window=16, tokenizer="t5", vocabulary="t5-small"), **HOUR,
    ),
    # Goes on from the run of emoji, in their tokens: from nothing, 2,000 steps draw blobs.
    "sprites": Experiment(
        model=FlowMatching(
            shape=(8, 8, 32), network=dit("tiny", patch=1),
            **TINY | {"ema_decay": 0.998, "optimizer": Adam(lr=5e-4, warmup=100, decay_steps=2000, clip=1.0)},
        ),
        codec=TAEF2, init="runs/text_to_image-emoji-0",
        data=Captioned(data=Mirrored(data=ImageFolder(size=64)), window=16, vocabulary="runs/text_to_image-emoji-0"),
        **HOUR | {"steps": 2000, "sample_every": 1000},
    ),
    # The text-to-image model of table 15 of arXiv:2112.10752: FID 12.63 on MS-COCO with guidance 1.5. Attention among
    # its words is 512 channels wide, here 1,280, which makes 1.56 G parameters of 1.45 G.
    "ldm_kl8": Experiment(
        model=DDPM(
            shape=(32, 32, 4), network=SDUNet(), schedule=ScaledLinear(),
            text=TextTower(vocab=49408, window=77, body=tower(1280, 32, 20, activation="gelu")),
            sampler=DDIM(steps=250, clip=0.0), class_dropout=0.1, guidance=Guidance(scale=1.5), ema_decay=0.9999,
            optimizer=Adam(lr=1e-4),
        ),
        codec=Pretrained(run="runs/autoencoder_kl-f8-0", form="latents"),
        data=Captioned(data=ImageFolder(size=256), window=77), batch_size=680, steps=390_000, **BIG,
    ),
    # Stable Diffusion 1.5 as its model card has it: 860 M parameters beside CLIP ViT-L/14's text transformer, which is
    # not trained. --init FILE starts from its weights.
    "sd15": Experiment(
        model=DDPM(
            shape=(64, 64, 4), network=SDUNet(), schedule=ScaledLinear(),
            text=TextTower(vocab=49408, window=77, body=tower(768, 12, 12, causal=True)), empty=(49406, 49407),
            sampler=PNDM(steps=50, clip=0.0), class_dropout=0.1, guidance=Guidance(scale=7.5), ema_decay=0.9999,
            optimizer=Adam(lr=1e-4, warmup=10_000, weight_decay=1e-2),
        ),
        codec=Pretrained(run="runs/sd-vae", form="latents", standardize=False), trainable="network/.*",
        data=Captioned(data=ImageFolder(size=512), window=77), batch_size=2048, steps=595_000, **BIG,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
