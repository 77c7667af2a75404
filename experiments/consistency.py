"""Consistency models of continuous time, sCM (arXiv:2410.11081): samples in one, two or a few steps.

    python experiments/consistency.py digits              # from data alone (sCT)
    python experiments/flow_matching.py digits            # a teacher, once
    python experiments/consistency.py digits_distilled    # reads runs/flow_matching-digits-0 (sCD)
    jaxgen sample runs/consistency-digits-0 --steps 2

With --codec.run RUN, the distilled presets learn from any diffusion run: network, conditions and data are then those of
that run. emoji distils latents, with the teacher's guidance built in. CPU minutes (docs/presets.md): digits_distilled
11, toy_distilled 3, mnist_distilled 10, toy 0.7, digits 6, emoji 3. Not yet run to the end: cifar10 (the paper: FID
2.85 in one step, 2.06 in two).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Emoji, Mirrored, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.consistency import Consistency
from jaxgen.models.trigflow import TrigFlow
from jaxgen.nets.dit import DiT
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet, ddpm32
from jaxgen.ops.few_steps import Renoised
from jaxgen.ops.guidance import Guidance
from jaxgen.optim import Adam
from jaxgen.runs.distilled import TaughtBy

# At a rate of 1e-3 the map of points drifts from the ODE's the longer it is trained; at 3e-4 it does not.
PRESETS = {
    "smoke": Experiment(
        model=Consistency(
            model=TrigFlow(
                shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8), num_classes=10, class_dropout=0.1
            ),
            warmup=100, normalise=1.0, ema_decay=0.99, evaluate_times=4, optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=Consistency(
            model=TrigFlow(shape=(2,), network=TimeMLP(width=128, depth=3)), warmup=3000,
            optimizer=Adam(lr=3e-4, decay_steps=10_000),
        ),
        codec=Identity(), data=Toy2D(name="moons"), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2000, num_samples=2000,
    ),
    "toy_distilled": Experiment(
        model=Consistency(
            model=TrigFlow(shape=(2,), network=TimeMLP(width=128, depth=3)), warmup=4000,
            optimizer=Adam(lr=2e-4, decay_steps=20_000),
        ),
        codec=TaughtBy(run="runs/flow_matching-toy-0"), data=Toy2D(name="moons"), batch_size=512, steps=20_000,
        steps_per_call=100, save_every=5000, sample_every=5000, num_samples=2000,
    ),
    "digits": Experiment(
        model=Consistency(
            model=TrigFlow(shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), num_classes=10),
            sampler=Renoised(steps=2), warmup=1000, optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2500, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2500, log_every=100, sample_every=1000, save_every=500, num_samples=80,
    ),
    "digits_distilled": Experiment(
        model=Consistency(
            model=TrigFlow(
                shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), num_classes=10, class_dropout=0.1
            ),
            sampler=Renoised(steps=2), warmup=500, optimizer=Adam(lr=3e-4, warmup=200, decay_steps=2000, clip=1.0),
        ),
        codec=TaughtBy(run="runs/flow_matching-digits-0"), data=Digits(), batch_size=128, steps=2000, log_every=100,
        sample_every=500, save_every=500, num_samples=80,
    ),
    "mnist_distilled": Experiment(
        model=Consistency(
            model=TrigFlow(shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2)),
            sampler=Renoised(steps=2), warmup=500, optimizer=Adam(lr=3e-4, warmup=200, decay_steps=2000, clip=1.0),
        ),
        codec=TaughtBy(run="runs/flow_matching-mnist-0"), data=TFDS(name="mnist"), batch_size=64, steps=2000,
        steps_per_call=20, log_every=100, sample_every=1000, save_every=500,
    ),
    # A student of `latent_diffusion.py emoji_small`.
    "emoji": Experiment(
        model=Consistency(
            model=TrigFlow(
                shape=(8, 8, 32), network=DiT(width=128, depth=6, heads=4, patch=2), num_classes=9, class_dropout=0.1
            ),
            guidance=Guidance(scale=2.0), sampler=Renoised(steps=2), warmup=300,
            optimizer=Adam(lr=1e-4, warmup=100, decay_steps=1500, clip=1.0),
        ),
        codec=TaughtBy(run="runs/latent_diffusion-emoji_small-0"), data=Mirrored(data=Emoji(size=64)), batch_size=32,
        steps=1500, steps_per_call=20, log_every=100, sample_every=500, save_every=500, num_samples=72,
    ),
    # Table 5: batch 512, 400,000 steps, dropout 0.2, tangent warm-up of 10,000.
    "cifar10": Experiment(
        model=Consistency(
            model=TrigFlow(shape=(32, 32, 3), network=ddpm32()), sampler=Renoised(steps=2), ema_decay=0.9999,
            optimizer=Adam(lr=1e-4, b2=0.99, warmup=1000),
        ),
        data=TFDS(name="cifar10"), batch_size=512, steps=400_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
