"""StyleGAN2 with adaptive augmentation of what the critic sees (arXiv:1912.04958, arXiv:2006.06676).

    python experiments/stylegan2.py emoji             # 32 px, two hours of one core
    jaxgen sample runs/stylegan2-emoji-0 --run.model.sampler.psi 0.7
    python experiments/stylegan2.py cifar10 --precision bfloat16

`cifar10` is the configuration for that set of arXiv:2006.06676, for which an FID of 2.42 is published; `emoji64` and
`celeba_hq256` follow its rule for others: gamma 0.0002 pixels / batch size, Adam 0.0025. emoji: 72 minutes of CPU for
11,000 of its steps; recall 0.67 and perceptual path length 17.3 by the features of a classifier of emoji (2,000
samples, seed 0). Faces, people and flags can be named by then, things hardly; of sprites half of the things. CPU
minutes (docs/presets.md): digits 2, sprites 28. Not yet run to the end: cifar10, celeba_hq256. For a GPU, not run here:
emoji64.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji, ImageFolder
from jaxgen.experiment import Experiment
from jaxgen.models.stylegan import StyleGAN
from jaxgen.nets.stylegan2 import StyleGAN2Critic, StyleGAN2Generator

# By class, and without mixing and path lengths, as arXiv:2006.06676 has it for its smallest pictures, cifar10.
COLOUR = {
    "latent": 128, "generator": StyleGAN2Generator(128, 2, 512, 64, 0.995), "critic": StyleGAN2Critic(512, 64),
    "mixing": 0.0, "path_length": 0.0, "ema_decay": 0.999, "augment_target": 0.6, "augment_images": 100_000,
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=StyleGAN(
            shape=(8, 8, 1), latent=8,
            generator=StyleGAN2Generator(style=8, depth=2, channel_base=64, channel_max=8, w_decay=0.9),
            critic=StyleGAN2Critic(channel_base=64, channel_max=8), ema_decay=0.99, penalty_every=4, path_every=2,
            augment_p=0.1, augment_target=0.6, augment_images=1000,
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=StyleGAN(
            shape=(8, 8, 1), latent=64, generator=StyleGAN2Generator(64, 4, 256, 32, 0.99),
            critic=StyleGAN2Critic(256, 32), mixing=0.0, path_length=0.0, r1=5.0, ema_decay=0.999, augment_target=0.6,
            augment_images=100_000,
        ),
        data=Digits(), batch_size=64, steps=5000, save_every=1000, sample_every=1000,
    ),
    "emoji": Experiment(
        model=StyleGAN(shape=(32, 32, 3), num_classes=9, r1=0.01, **COLOUR),
        data=Emoji(size=32), batch_size=32, steps=20_000, log_every=200, save_every=1000, sample_every=1000,
        num_samples=72,
    ),
    # By the rule of arXiv:2006.06676 gamma would be 0.0016: its pictures get worse from 10,000 steps on, all of a class
    # alike.
    "sprites": Experiment(
        model=StyleGAN(shape=(16, 16, 3), num_classes=43, r1=0.5, **COLOUR),
        data=ImageFolder(size=16), batch_size=32, steps=25_000, log_every=200, save_every=1000, sample_every=1000,
        num_samples=86,
    ),
    "emoji64": Experiment(
        model=StyleGAN(shape=(64, 64, 3), r1=0.0256, ema_decay=0.998, augment_target=0.6),
        data=Emoji(size=64), batch_size=32, steps=100_000, log_every=500, save_every=5000, sample_every=5000,
    ),
    "cifar10": Experiment(
        model=StyleGAN(
            shape=(32, 32, 3), generator=StyleGAN2Generator(depth=2, channel_base=32_768),
            critic=StyleGAN2Critic(channel_base=32_768, residual=False, group=32), num_classes=10, mixing=0.0,
            path_length=0.0, r1=0.01, ema_decay=0.99991, augment_target=0.6,
        ),
        data=TFDS(name="cifar10"), batch_size=64, steps=1_562_500, steps_per_call=100, log_every=500,
        save_every=12_500, sample_every=12_500,
    ),
    "celeba_hq256": Experiment(
        model=StyleGAN(
            shape=(256, 256, 3), critic=StyleGAN2Critic(group=8), r1=1.0, ema_decay=0.9978, augment_target=0.6
        ),
        data=TFDS(name="celeb_a_hq/256", train="train[1000:]", test="train[:1000]"), batch_size=64,
        steps=390_000, log_every=500, save_every=10_000, sample_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
