"""The autoencoder of latent diffusion (arXiv:2112.10752): images as small maps of latents and back, a first stage.

    python experiments/autoencoder_kl.py emoji              # 32 px, latents 8 x 8 x 4
    python experiments/autoencoder_kl.py sprites --data.folder DIR
    python experiments/autoencoder_kl.py f8 --model.perceptual VGG16 HEADS
    python experiments/latent_diffusion.py emoji --codec.run runs/autoencoder_kl-emoji-0 \\
        --model.shape 8 8 4 --data.data.size 32

f8 and f4 have LPIPS by weights that `jaxgen weights convert vgg16` and `lpips_vgg` wrote. Their settings are those of
the published KL-f8, whose network is Stable Diffusion's, and KL-f4: after 246,803 and 176,991 steps PSNR is 24.19 and
27.53 dB, FID of reconstructions 0.90 and 0.27, on ImageNet's validation set. CPU minutes (docs/presets.md): emoji 5.
Not yet run: sprites, f8, f4.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Emoji, ImageFolder
from jaxgen.experiment import Experiment
from jaxgen.models.autoencoder_kl import AutoencoderKL
from jaxgen.nets.autoencoder_kl import KLCoder
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.ops.gan import NonSaturating
from jaxgen.optim import Adam

SMALL = AutoencoderKL(
    shape=(32, 32, 3), generator=KLCoder(widths=(16, 32, 64), blocks=1, groups=8),
    critic=PatchCritic(channels=(24, 48, 96)), gan_start=2000, ema_decay=0.999,
    optimizer=Adam(lr=1e-3, b1=0.9, b2=0.99, warmup=200, decay_steps=3000, final=0.1),
    critic_optimizer=Adam(lr=2e-4, b1=0.5),
)  # fmt: skip
EMOJI = Experiment(
    model=SMALL, data=Emoji(size=32), batch_size=16, steps=3000, steps_per_call=10, log_every=50, save_every=500,
    sample_every=1000,
)  # fmt: skip

F8 = Experiment(
    model=AutoencoderKL(
        shape=(256, 256, 3), perceptual_weight=1.0, gan_start=50_001, optimizer=Adam(lr=1.08e-4, b1=0.5, b2=0.9),
        critic_optimizer=Adam(lr=1.08e-4, b1=0.5, b2=0.9),
    ),
    data=TFDS(name="imagenet2012", size=256), batch_size=24, steps=247_000, log_every=500, save_every=10_000,
    sample_every=10_000,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=AutoencoderKL(
            shape=(16, 16, 3), generator=KLCoder(widths=(8, 8), blocks=1, groups=4),
            critic=PatchCritic(channels=(4, 8)), gan_start=5, objective=NonSaturating(), optimizer=Adam(lr=2e-3),
            ema_decay=0.99,
        ),
        data=Emoji(size=16), batch_size=8, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "emoji": EMOJI,
    "sprites": replace(EMOJI, data=ImageFolder(size=32)),
    "f8": F8,
    "f4": replace(F8, model=replace(F8.model, generator=KLCoder(widths=(128, 256, 512), latent=3)), steps=177_000),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
