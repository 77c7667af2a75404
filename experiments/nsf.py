"""Neural spline flow (arXiv:1906.04032): rational-quadratic splines as couplings, and autoregressive ones.

    python experiments/nsf.py moons
    python experiments/nsf.py mnist --mesh data=2 --data.data-dir DIR    # DIR as tensorflow-datasets prepared it
    jaxgen evaluate runs/nsf-mnist-0    # bits_per_dim

CPU minutes (docs/presets.md): digits 16, moons 0.9, moons_autoregressive 1.4, mnist 11. Not yet run to the end:
cifar10. mnist's pixels have a Gaussian marginal distribution first; cifar10 has the depth and bins for which 3.38
bits/dim is reported, with Glow's convolutions for residual blocks.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Dequantize, Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.flow import Flow
from jaxgen.nets.conditioners import CouplingMLP, GlowNet
from jaxgen.nets.flows import LinearStep, MultiScale, Repeat
from jaxgen.nets.made import MADE, MAFStep
from jaxgen.nets.marginal import Marginal
from jaxgen.ops.bijectors import Spline
from jaxgen.optim import Adam


def scales(width: int, levels: int, depth: int) -> MultiScale:
    return MultiScale(LinearStep(GlowNet(width), Spline(bins=4, reach=3.0)), levels, depth)


PRESETS = {
    "smoke": Experiment(
        model=Flow(shape=(8, 8, 1), bits=4, flow=scales(8, 1, 2), optimizer=Adam(lr=1e-2)),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=16,
    ),
    "moons": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(LinearStep(CouplingMLP((64, 64)), Spline(bins=16, reach=4.0)), 4),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "moons_autoregressive": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(MAFStep(MADE((64, 64), smooth=True), Spline(bins=16, reach=4.0)), 4),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "digits": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, flow=scales(64, 2, 6), importance_samples=16,
            optimizer=Adam(lr=5e-4, warmup=100, decay_steps=3000, clip=1.0),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=128, steps=3000, log_every=100,
        sample_every=1000, save_every=250, best="test/nll",
    ),
    "mnist": Experiment(
        model=Flow(flow=Marginal(scales(64, 2, 6)), optimizer=Adam(lr=5e-4, warmup=200, decay_steps=2500, clip=1.0)),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=64, steps=2500, steps_per_call=20,
        log_every=100, sample_every=1000, save_every=1000,
    ),
    "cifar10": Experiment(
        model=Flow(
            shape=(32, 32, 3), flow=scales(256, 4, 10), ema_decay=0.999,
            optimizer=Adam(lr=5e-4, warmup=1000, decay_steps=200_000, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="cifar10"), batch_size=512, steps=200_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
