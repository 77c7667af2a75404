"""MeanFlow (arXiv:2505.13447): samples in one evaluation of the network, trained from scratch.

    python experiments/meanflow.py toy
    python experiments/meanflow.py digits
    jaxgen sample runs/meanflow-digits-0 --run.model.sampler.steps 2
    jaxgen weights import-taesd FOLDER runs/taef2-64     # the first stage of emoji
    python experiments/meanflow.py emoji

CPU minutes (docs/presets.md): digits 20, toy 3, mnist 10, emoji 6. imagenet has the paper's setting for DiT-B/4 with
its table 1: FID 11.4 with guidance in one step.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Emoji, Mirrored, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.mean_flow import MeanFlow
from jaxgen.nets.dit import DiT, dit
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

PRESETS = {
    "smoke": Experiment(
        model=MeanFlow(
            shape=(8, 8, 1), network=DiT(width=16, depth=1, heads=2, patch=2), num_classes=10, class_dropout=0.2,
            target_guidance=2.0, mix=0.5, ema_decay=0.99, evaluate_times=4, optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=MeanFlow(
            shape=(2,), network=TimeMLP(width=128, depth=3), spans=0.75, logit_std=0.0, power=0.0, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, decay_steps=10_000),
        ),
        codec=Identity(), data=Toy2D(name="moons"), batch_size=1024, steps=10_000, steps_per_call=100,
        sample_every=2000, num_samples=2000,
    ),
    "digits": Experiment(
        model=MeanFlow(
            shape=(8, 8, 1), network=DiT(width=128, depth=4, heads=4, patch=2), num_classes=10, class_dropout=0.1,
            target_guidance=2.0, mix=0.5, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, b2=0.95, warmup=200, decay_steps=4000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=4000, log_every=100, sample_every=1000, save_every=500, num_samples=80,
    ),
    "mnist": Experiment(
        model=MeanFlow(
            shape=(28, 28, 1), network=DiT(width=128, depth=4, heads=4, patch=4), num_classes=10, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, b2=0.95, warmup=200, decay_steps=3000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=500, num_samples=80,
    ),
    "emoji": Experiment(
        model=MeanFlow(
            shape=(8, 8, 32), network=DiT(width=128, depth=6, heads=4, patch=2), num_classes=9, class_dropout=0.1,
            target_guidance=2.0, mix=0.5, ema_decay=0.999,
            optimizer=Adam(lr=6e-4, b2=0.95, warmup=200, decay_steps=4000, clip=1.0),
        ),
        codec=Pretrained(run="runs/taef2-64", form="latents"), data=Mirrored(data=Emoji(size=64)), batch_size=32,
        steps=4000, steps_per_call=20, log_every=100, sample_every=1000, save_every=500, num_samples=72,
    ),
    # Table 4 of the paper, with DiT-B/4 on latents of Stable Diffusion's autoencoder.
    "imagenet": Experiment(
        model=MeanFlow(
            shape=(32, 32, 4), network=dit("B", 4), num_classes=1000, class_dropout=0.1, target_guidance=3.0,
            ema_decay=0.9999, optimizer=Adam(lr=1e-4, b2=0.95),
        ),
        codec=Pretrained(run="runs/autoencoder_kl-f8-0", form="latents"), data=TFDS(name="imagenet_resized/256x256"),
        batch_size=256, steps=400_000, steps_per_call=100, log_every=500, sample_every=50_000, save_every=10_000,
        precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
