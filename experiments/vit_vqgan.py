"""ViT-VQGAN (arXiv:2110.04627), first stage: images as codes and back by vision transformers, with a critic of patches.

    python experiments/vit_vqgan.py emoji             # 64 px, maps of 8 x 8 codes
    python experiments/vit_vqgan_prior.py emoji       # then: the second stage, images of a class
    python experiments/vit_vqgan.py imagenet --model.perceptual-weight 0.1 --model.perceptual VGG16 HEADS

A perceptual loss needs weights that `jaxgen weights convert vgg16` and `lpips_vgg` wrote; without, there is none. emoji
takes 19 minutes of one core: 21.5 dB on held-out images. CPU minutes (docs/presets.md): emoji_conv 4. Not yet run:
imagenet. The paper: FID of reconstructions 1.28 on ImageNet-256, ViT-VQGAN base.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.vqgan import VQGAN
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.vit import ViTCoder
from jaxgen.nets.vqvae import VQNetwork
from jaxgen.ops.gan import NonSaturating
from jaxgen.ops.likelihood import LogitLaplace
from jaxgen.ops.quantize import Codebook
from jaxgen.optim import Adam

TINY = Transformer(width=16, depth=1, heads=2)
SMALL = Transformer(width=128, depth=3, heads=4)
BASE = Transformer(width=768, depth=12, heads=12)

PRESETS = {
    "smoke": Experiment(
        model=VQGAN(
            shape=(16, 16, 3), codebook=Codebook(size=16, dim=4, cosine=True, decay=0.0),
            generator=ViTCoder(patch=4, encoder=TINY, decoder=TINY), critic=PatchCritic(channels=(4, 8)), gan_start=5,
            optimizer=Adam(lr=2e-3), ema_decay=0.99, objective=NonSaturating(), likelihood=LogitLaplace(),
            likelihood_weight=0.1,
        ),
        data=Emoji(size=16), batch_size=8, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "emoji": Experiment(
        model=VQGAN(
            shape=(64, 64, 3), codebook=Codebook(size=512, dim=16, cosine=True, decay=0.0),
            generator=ViTCoder(patch=8, encoder=SMALL, decoder=SMALL), critic=PatchCritic(channels=(24, 48, 96)),
            gan_start=1500, optimizer=Adam(lr=1e-3, b1=0.9, b2=0.99, warmup=200, decay_steps=3000, final=0.1),
            critic_optimizer=Adam(lr=2e-4, b1=0.5), ema_decay=0.999,
        ),
        data=Emoji(size=64), batch_size=16, steps=3000, steps_per_call=10, log_every=50, save_every=500,
        sample_every=1000,
    ),
    # The convolutional network of VQ-VAE in the same game: VQGAN without its attention.
    "emoji_conv": Experiment(
        model=VQGAN(
            shape=(64, 64, 3), codebook=Codebook(size=512, dim=16), generator=VQNetwork(width=64, halvings=(3,)),
            critic=PatchCritic(channels=(24, 48, 96)), gan_start=1500,
            optimizer=Adam(lr=1e-3, b1=0.9, b2=0.99, warmup=200, decay_steps=3000, final=0.1),
            critic_optimizer=Adam(lr=2e-4, b1=0.5), ema_decay=0.999,
        ),
        data=Emoji(size=64), batch_size=16, steps=3000, steps_per_call=10, log_every=50, save_every=500,
        sample_every=1000,
    ),
    # Base of table 2 and section 4.1 there; its critic is StyleGAN's, this one of patches.
    "imagenet": Experiment(
        model=VQGAN(
            shape=(256, 256, 3), generator=ViTCoder(patch=8, encoder=BASE, decoder=BASE), objective=NonSaturating(),
            likelihood=LogitLaplace(), likelihood_weight=0.1, gan_start=10_000,
            optimizer=Adam(lr=4.5e-4, b1=0.9, b2=0.99, warmup=50_000, decay_steps=500_000, weight_decay=1e-4),
            critic_optimizer=Adam(lr=4.5e-4, b1=0.9, b2=0.99), ema_decay=0.999,
        ),
        data=TFDS(name="imagenet2012", size=256), batch_size=256, steps=500_000, log_every=500, save_every=10_000,
        sample_every=10_000, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
