"""StyleGAN (arXiv:1812.04948): adaptive instance normalization by styles, at its final size from the start.

    python experiments/stylegan.py digits
    jaxgen sample runs/stylegan-digits-0 --run.model.sampler.psi 0.7
    python experiments/stylegan.py celeba_hq256 --precision bfloat16

Non-saturating loss with R1, gamma 10, on every step, Adam with betas 0 and 0.99, mixing 0.9 (appendix C of the paper);
without growing, as its successor found to be no loss. `digits` takes StyleGAN2's lazy penalty and augmentation too, as
1,400 pictures are few. Its gamma, too, is far above its rule: with 0.01, it drew one form of each class, as conditional
GANs of few examples do (arXiv:2201.06578). CPU minutes (docs/presets.md): digits 2. Not yet run to the end: cifar10,
celeba_hq256.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.stylegan import StyleGAN
from jaxgen.nets.stylegan import StyleGANGenerator
from jaxgen.nets.stylegan2 import StyleGAN2Critic
from jaxgen.optim import Adam

PAPER = {
    "r1": 10.0, "penalty_every": 1, "path_length": 0.0,
    "optimizer": Adam(lr=0.002, b1=0.0, b2=0.99), "critic_optimizer": Adam(lr=0.002, b1=0.0, b2=0.99),
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=StyleGAN(
            shape=(8, 8, 1), latent=8,
            generator=StyleGANGenerator(style=8, depth=2, channel_base=64, channel_max=8, w_decay=0.9),
            critic=StyleGAN2Critic(channel_base=64, channel_max=8, residual=False), ema_decay=0.99, **PAPER,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=StyleGAN(
            shape=(8, 8, 1), latent=64, generator=StyleGANGenerator(64, 4, 256, 32, 0.99),
            critic=StyleGAN2Critic(256, 32, residual=False), num_classes=10, mixing=0.0, path_length=0.0, r1=5.0,
            ema_decay=0.999, augment_target=0.6, augment_images=100_000,
        ),
        data=Digits(), batch_size=64, steps=5000, save_every=1000, sample_every=1000, num_samples=80,
    ),
    "cifar10": Experiment(
        model=StyleGAN(
            shape=(32, 32, 3), generator=StyleGANGenerator(w_decay=0.995),
            critic=StyleGAN2Critic(residual=False), ema_decay=0.999, **{**PAPER, "r1": 0.01},
        ),
        data=TFDS(name="cifar10"), batch_size=64, steps=400_000, steps_per_call=100, log_every=500, save_every=5000,
        sample_every=5000,
    ),
    # Widths and rates of the paper's table of faces, whose FID of 5.06 is at 1024 px.
    "celeba_hq256": Experiment(
        model=StyleGAN(
            shape=(256, 256, 3), generator=StyleGANGenerator(channel_base=32_768, w_decay=0.995),
            critic=StyleGAN2Critic(channel_base=32_768, residual=False), ema_decay=0.9978, **PAPER,
        ),
        data=TFDS(name="celeb_a_hq/256", train="train[1000:]", test="train[:1000]"), batch_size=64,
        steps=390_000, log_every=500, save_every=10_000, sample_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
