"""Distillation of any diffusion run: progressive (arXiv:2202.00512), and LCM (arXiv:2310.04378).

    python experiments/flow_matching.py digits       # a teacher, once
    python experiments/distill.py digits             # halves its steps, 16 to 1
    python experiments/distill.py mnist_lcm # consistency at 50 levels
    python experiments/distill.py digits --codec.run runs/ddpm-digits-0 --out runs/distill-ddpm

Of another run named with --codec.run, network, conditions and data are the student's too: ddpm, improved_ddpm, edm,
score_matching, flow_matching and their latent and text-conditional kin. --model.guidance.scale W distils guidance.
Checkpoints at the ends of progressive phases are students of 8, 4, 2 and 1 steps. consistency.py distils in continuous
time. CPU minutes (docs/presets.md): digits 10, toy 0.9, toy_lcm 1.8, mnist 10, mnist_lcm 9.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.consistency import LCM
from jaxgen.models.edm import EDM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.progressive import Progressive
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet
from jaxgen.ops.few_steps import Halved, Renoised
from jaxgen.ops.guidance import Guidance
from jaxgen.optim import Adam
from jaxgen.runs.distilled import TaughtBy

TOY = FlowMatching(shape=(2,), network=TimeMLP(width=128, depth=3))
DIGITS = FlowMatching(
    shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), logit_std=1.0, num_classes=10, class_dropout=0.1
)  # fmt: skip
MNIST = FlowMatching(shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2), logit_std=1.0)

PRESETS = {
    "smoke": Experiment(
        model=Progressive(
            model=EDM(
                shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8), num_classes=10, class_dropout=0.2
            ),
            guidance=Guidance(scale=1.5), sampler=Halved(steps=1, of=4), phase=500, ema_decay=0.9, evaluate_times=4,
            optimizer=Adam(lr=2e-4),
        ),
        codec=TaughtBy(run="runs/edm-smoke-0"), data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=20,
    ),
    "toy": Experiment(
        model=Progressive(
            model=TOY, sampler=Halved(steps=1, of=32, clip=0.0), phase=2000, ema_decay=0.99,
            optimizer=Adam(lr=5e-4, decay_steps=2000),
        ),
        codec=TaughtBy(run="runs/flow_matching-toy-0"), data=Toy2D(name="moons"), batch_size=512, steps=10_000,
        steps_per_call=100, save_every=2000, sample_every=2000, num_samples=2000, keep=5,
    ),
    "toy_lcm": Experiment(
        model=LCM(model=TOY, sampler=Renoised(steps=1), optimizer=Adam(lr=5e-4, decay_steps=15_000)),
        codec=TaughtBy(run="runs/flow_matching-toy-0"), data=Toy2D(name="moons"), batch_size=512, steps=15_000,
        steps_per_call=100, sample_every=1000, num_samples=2000,
    ),
    "digits": Experiment(
        model=Progressive(
            model=DIGITS, sampler=Halved(steps=1, of=16, clip=0.0), phase=500, ema_decay=0.99,
            optimizer=Adam(lr=5e-4, decay_steps=500, clip=1.0),
        ),
        codec=TaughtBy(run="runs/flow_matching-digits-0"), data=Digits(), batch_size=128, steps=2000, log_every=100,
        save_every=500, sample_every=500, num_samples=80, keep=4,
    ),
    "mnist": Experiment(
        model=Progressive(
            model=MNIST, sampler=Halved(steps=1, of=16, clip=0.0), phase=600, ema_decay=0.99,
            optimizer=Adam(lr=5e-4, decay_steps=600, clip=1.0),
        ),
        codec=TaughtBy(run="runs/flow_matching-mnist-0"), data=TFDS(name="mnist"), batch_size=64, steps=2400,
        steps_per_call=20, log_every=100, save_every=1000, sample_every=1000, keep=4,
    ),
    "mnist_lcm": Experiment(
        model=LCM(model=MNIST, optimizer=Adam(lr=5e-4, warmup=100, decay_steps=2000, clip=1.0)),
        codec=TaughtBy(run="runs/flow_matching-mnist-0"), data=TFDS(name="mnist"), batch_size=64, steps=2000,
        steps_per_call=20, log_every=100, save_every=1000, sample_every=1000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
