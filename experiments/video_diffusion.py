"""Diffusion over short clips (arXiv:2204.03458), which also continues clips whose first frames are given.

    python experiments/video_diffusion.py moving_digits    # 16 frames of a digit that bounces
    jaxgen sample runs/video_diffusion-moving_digits-0     # samples.gif
    jaxgen evaluate runs/video_diffusion-moving_digits-0   # PSNR of clips continued after four frames, and of copies

moving_digits sees six frames at once as the channels of a U-Net, and goes on from the last four (arXiv:2205.09853);
about 35 minutes of one core. space_time and space_time_dit have layers over time between those of a U-Net and of a DiT,
at 0.3 s of one core a step; after their 1,500 steps the first draws soft digits that move, those of the DiT break into
dots, and neither continues a clip much better than its last frame does. With --model.given 0, clips are learnt whole
and continued by reconstruction guidance. A network of clips may start from one of images of the same widths: `--init
RUN`.

For a GPU, not run here: two_digits_large (64 x 64, 71 M parameters). CPU minutes (docs/presets.md): space_time 8,
space_time_dit 4.
"""

from jaxgen.cli.train import main
from jaxgen.data import MovingDigits
from jaxgen.experiment import Experiment
from jaxgen.models.video import VideoDiffusion
from jaxgen.nets.unet import UNet
from jaxgen.nets.video import StackedFrames, VideoDiT, VideoUNet
from jaxgen.ops.samplers import Heun
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=VideoDiffusion(
            shape=(4, 12, 12, 1), network=VideoUNet(8, (1, 2), 1, (), head_dim=8), sampler=Heun(steps=4, clip=0.0),
            given=2, num_classes=10, class_dropout=0.2, ema_decay=0.99, evaluate_times=4,
        ),
        data=MovingDigits(size=12, frames=4, num=200), batch_size=8, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=20,
    ),
    "moving_digits": Experiment(
        model=VideoDiffusion(
            network=StackedFrames(network=UNet(48, (1, 2, 2), 1, (4,), head_dim=48, scale_shift=True)), block=6,
            sampler=Heun(steps=12, clip=0.0), given=4, log_sigma_mean=-0.4, log_sigma_std=1.4, num_classes=10,
            class_dropout=0.2, whole=0.3, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=8000, clip=1.0),
        ),
        data=MovingDigits(), batch_size=32, steps=6000, log_every=50, sample_every=1000, save_every=500, num_samples=40,
    ),
    "space_time": Experiment(
        model=VideoDiffusion(
            network=VideoUNet(32, (1, 2), 1, (8, 4), head_dim=32, patch=2, scale_shift=True, time_kernel=9),
            sampler=Heun(steps=18, clip=0.0), given=4, log_sigma_mean=-0.4, log_sigma_std=1.4, num_classes=10,
            class_dropout=0.2, ema_decay=0.999, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=1500, clip=1.0),
        ),
        data=MovingDigits(), batch_size=8, steps=1500, log_every=50, sample_every=1000, save_every=500,
        num_samples=40,
    ),
    "space_time_dit": Experiment(
        model=VideoDiffusion(
            network=VideoDiT(width=128, depth=4, heads=4, patch=4), sampler=Heun(steps=12, clip=0.0), given=4,
            log_sigma_mean=-0.4, log_sigma_std=1.4, num_classes=10, class_dropout=0.2, ema_decay=0.998,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=1500, clip=1.0),
        ),
        data=MovingDigits(), batch_size=8, steps=1500, log_every=50, sample_every=1000, save_every=500,
        num_samples=40,
    ),
    # Factorized space-time attention without convolutions over time, four resolutions, attention at all but the first,
    # as the paper's networks of 64 x 64 clips.
    "two_digits_large": Experiment(
        model=VideoDiffusion(
            shape=(16, 64, 64, 1), network=VideoUNet(64, (1, 2, 4, 8), 2, (32, 16, 8), head_dim=64, time_kernel=0),
            sampler=Heun(steps=32, clip=0.0), given=5, log_sigma_mean=-0.4, log_sigma_std=1.4,
            optimizer=Adam(lr=3e-4, warmup=5000, clip=1.0),
        ),
        data=MovingDigits(size=64, digits=2, label="none"), batch_size=64, steps=200_000, log_every=500,
        sample_every=10_000, save_every=5000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
