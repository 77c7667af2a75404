"""Shortcut models (arXiv:2410.12557): one network for samplers of 1, 2, 4 ... 128 steps.

    python experiments/shortcut.py toy
    python experiments/shortcut.py digits
    jaxgen sample runs/shortcut-digits-0 --run.model.sampler.steps 4

CPU minutes (docs/presets.md): digits 15, toy 0.8, mnist 11. imagenet has the paper's setting for DiT-B/2: FID 40.3 in
one step, 28.3 in four, 15.5 in 128 (table 1).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.shortcut import Shortcut
from jaxgen.nets.dit import DiT, dit
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet
from jaxgen.ops.samplers import Leaps
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

PRESETS = {
    "smoke": Experiment(
        model=Shortcut(
            shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8), sampler=Leaps(steps=2), finest=8,
            num_classes=10, class_dropout=0.2, target_guidance=1.5, ema_decay=0.99, evaluate_times=4,
            optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=Shortcut(
            shape=(2,), network=TimeMLP(width=128, depth=3), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, decay_steps=10_000),
        ),
        codec=Identity(), data=Toy2D(name="moons"), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2000, num_samples=2000,
    ),
    "digits": Experiment(
        model=Shortcut(
            shape=(8, 8, 1), network=DiT(width=128, depth=4, heads=4, patch=2), num_classes=10, class_dropout=0.1,
            target_guidance=1.5, ema_decay=0.999, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=4000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=4000, log_every=100, sample_every=1000, save_every=500, num_samples=80,
    ),
    # The longest step learns from averages of averages, as many times over as there are halvings: with long averages
    # and seven halvings it is far behind after 3,000 steps.
    "mnist": Experiment(
        model=Shortcut(
            shape=(28, 28, 1), network=DiT(width=128, depth=4, heads=4, patch=4), num_classes=10, class_dropout=0.1,
            target_guidance=1.5, finest=32, logit_std=1.0, ema_decay=0.99,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=3000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=500, num_samples=80,
    ),
    # Table 3 of the paper, on latents of Stable Diffusion's autoencoder.
    "imagenet": Experiment(
        model=Shortcut(
            shape=(32, 32, 4), network=dit("B"), num_classes=1000, class_dropout=0.1, target_guidance=1.5,
            ema_decay=0.999, optimizer=Adam(lr=1e-4, weight_decay=0.1),
        ),
        codec=Pretrained(run="runs/autoencoder_kl-f8-0", form="latents"), data=TFDS(name="imagenet_resized/256x256"),
        batch_size=256, steps=800_000, steps_per_call=100, log_every=500, sample_every=50_000, save_every=10_000,
        precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
