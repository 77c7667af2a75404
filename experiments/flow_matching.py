"""Flow matching along straight lines, rectified flow (arXiv:2209.03003, arXiv:2210.02747).

    python experiments/flow_matching.py toy       # two moons, 1.4 minutes on two cores
    python experiments/flow_matching.py digits
    jaxgen evaluate runs/flow_matching-digits-0   # ode_bits_per_dim

CPU minutes (docs/presets.md): toy 0.6, digits 7, mnist 34. Not yet run to the end: cifar10 (35.7 M; arXiv:2210.02747:
FID 6.35, 2.99 bits/dim), imagenet64 (266 M).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.nets.unet import UNet, ddpm32
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Euler, Heun
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=FlowMatching(
            shape=(8, 8, 1), network=UNet(8, (1, 2), 1, (4,), head_dim=8), sampler=Euler(steps=8, clip=0.0),
            logit_std=1.0, ema_decay=0.99, evaluate_times=4, ode_steps=4, ode_probes=2,
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "toy": Experiment(
        model=FlowMatching(
            shape=(2,), network=TimeMLP(width=128, depth=3), sampler=Heun(steps=25, clip=0.0), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, decay_steps=5000),
        ),
        codec=Identity(), data=Toy2D(name="moons"), batch_size=512, steps=5000, steps_per_call=100,
        sample_every=1000, num_samples=2000,
    ),
    "digits": Experiment(
        model=FlowMatching(
            shape=(8, 8, 1), network=UNet(32, (1, 2), 1, (4,), head_dim=32), sampler=Heun(steps=25, clip=0.0),
            logit_std=1.0, num_classes=10, class_dropout=0.1, ema_decay=0.999, ode_steps=50,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500, num_samples=80,
    ),
    "mnist": Experiment(
        model=FlowMatching(
            shape=(28, 28, 1), network=UNet(32, (1, 2), 1, (7,), head_dim=32, patch=2),
            sampler=Heun(steps=25, clip=0.0), logit_std=1.0, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=5000, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=5000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000,
    ),
    "cifar10": Experiment(
        model=FlowMatching(
            shape=(32, 32, 3), network=ddpm32(), sampler=Heun(steps=50, clip=0.0), ode_steps=100,
            optimizer=Adam(lr=2e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=400_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
    "imagenet64": Experiment(
        model=FlowMatching(
            shape=(64, 64, 3), network=UNet(192, (1, 2, 3, 4), 3, (32, 16, 8)), sampler=Heun(steps=50, clip=0.0),
            num_classes=1000, class_dropout=0.1, guidance=Guidance(scale=1.5), logit_std=1.0, ode_steps=100,
            optimizer=Adam(lr=1e-4, warmup=5000, clip=1.0),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=512, steps=1_000_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
