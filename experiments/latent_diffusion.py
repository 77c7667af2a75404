"""Latent diffusion (arXiv:2112.10752): a diffusion model of the latents of a first stage, by class.

    jaxgen weights import-taesd FOLDER runs/taef2-64     # a published first stage, see jaxgen weights
    python experiments/latent_diffusion.py emoji --mesh data=2
    python experiments/latent_diffusion.py sprites --images DIR --mesh data=2
    jaxgen sample runs/latent_diffusion-emoji-0 --cond 0

Each channel of the latents is standardized by what was measured as the run began. Of another first stage: --codec.run
RUN, with --model.shape as its latents have. emoji takes 68 minutes of CPU time: faces, people, tiles and flags can be
told, animals and food not. sprites was run for 3,000 steps, and draws blobs in the colours of their classes.
emoji_small has a quarter of the tokens. CPU minutes (docs/presets.md): emoji_small 5. Not yet run: dit_xl (675 M
parameters, FID 2.27 on ImageNet-256), ldm4 (arXiv:2112.10752, table 10: FID 3.60 with guidance). Their first stages are
runs of autoencoder_kl.py or import-sd.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji, ImageFolder, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.models.ddpm import DDPM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.dit import DiT, dit
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, Euler, Heun
from jaxgen.ops.schedules import Linear
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

TINY = {
    "network": dit("tiny", patch=1), "sampler": Heun(steps=25, clip=0.0), "logit_std": 1.0, "ema_decay": 0.999,
    "class_dropout": 0.1, "guidance": Guidance(scale=2.0),
    "optimizer": Adam(lr=6e-4, warmup=200, decay_steps=4000, clip=1.0),
}  # fmt: skip
TAEF2 = Pretrained(run="runs/taef2-64", form="latents")
MINUTES = {
    "batch_size": 32, "steps": 4000, "steps_per_call": 20, "log_every": 100, "sample_every": 1000, "save_every": 500,
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=FlowMatching(
            shape=(2, 2, 8), network=DiT(width=16, depth=1, heads=2, patch=1), sampler=Euler(steps=4, clip=0.0),
            num_classes=10, class_dropout=0.2, guidance=Guidance(scale=2.0), ema_decay=0.99, evaluate_times=4,
        ),
        codec=Pretrained(run="runs/vqvae-smoke-0", form="latents"), data=Digits(), batch_size=16, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=20,
    ),
    "emoji": Experiment(
        model=FlowMatching(shape=(8, 8, 32), num_classes=9, **TINY), codec=TAEF2, data=Mirrored(data=Emoji(size=64)),
        num_samples=72, **MINUTES,
    ),
    # A quarter of the tokens and a fifth of the parameters: the teacher, and the measure, of models of few steps.
    "emoji_small": Experiment(
        model=FlowMatching(
            shape=(8, 8, 32), num_classes=9, **{**TINY, "network": DiT(width=128, depth=6, heads=4, patch=2)}
        ),
        codec=TAEF2, data=Mirrored(data=Emoji(size=64)), num_samples=72, **MINUTES,
    ),
    "sprites": Experiment(
        model=FlowMatching(shape=(8, 8, 32), num_classes=43, **TINY), codec=TAEF2,
        data=Mirrored(data=ImageFolder(size=64)), num_samples=86, **MINUTES,
    ),
    # Table 9 of arXiv:2212.09748, on latents of Stable Diffusion's autoencoder.
    "dit_xl": Experiment(
        model=DDPM(
            shape=(32, 32, 4), network=dit("XL"), schedule=Linear(num_steps=1000), objective="hybrid",
            sampler=DDIM(steps=250, clip=0.0), num_classes=1000, class_dropout=0.1, guidance=Guidance(scale=1.5),
            ema_decay=0.9999, optimizer=Adam(lr=1e-4),
        ),
        codec=Pretrained(run="runs/autoencoder_kl-f8-0", form="latents"), data=TFDS(name="imagenet_resized/256x256"),
        batch_size=256, steps=7_000_000, steps_per_call=100, log_every=500, sample_every=50_000, save_every=10_000,
        precision="bfloat16", remat=True,
    ),
    # LDM-4 of table 13 of arXiv:2112.10752.
    "ldm4": Experiment(
        model=DDPM(
            shape=(64, 64, 3), network=UNet(192, (1, 2, 3, 5), 2, (32, 16, 8), head_dim=32),
            schedule=Linear(num_steps=1000), sampler=DDIM(steps=250, clip=0.0), num_classes=1000, class_dropout=0.1,
            guidance=Guidance(scale=1.5), ema_decay=0.9999, optimizer=Adam(lr=1e-4),
        ),
        codec=Pretrained(run="runs/autoencoder_kl-f4-0", form="latents"), data=TFDS(name="imagenet_resized/256x256"),
        batch_size=1200, steps=178_000, steps_per_call=100, log_every=500, sample_every=10_000, save_every=5000,
        precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
