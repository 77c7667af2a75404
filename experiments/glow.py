"""Glow (arXiv:1807.03039): ActNorm, invertible 1x1 convolution, affine coupling, over scales; its memory does not grow
with depth.

    python experiments/glow.py digits
    python experiments/glow.py mnist --data.data-dir DIR    # DIR as tensorflow-datasets prepared it
    jaxgen evaluate runs/glow-mnist-0    # bits_per_dim
    jaxgen sample runs/glow-mnist-0 --num 64

mnist takes 50 minutes of one core and comes to 1.12 bits/dim; the marginal distribution of its pixels is made Gaussian
first. CPU minutes (docs/presets.md): digits 13, moons 1.3, digits_variational 8, emoji 10. Not yet run to the end:
cifar10. Samples of emoji are clouds of colour: what little it spends goes to the white ground. For a GPU, not run here:
mnist_paper. mnist_paper is of the size that 1.05 bits/dim is reported for (arXiv:1810.01367, table 2), cifar10 that of
3.35 (L = 3, K = 32, 512 channels).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Dequantize, Identity
from jaxgen.data import TFDS, Digits, Emoji, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.flow import Flow
from jaxgen.nets.conditioners import CouplingMLP, CouplingResNet, GlowNet
from jaxgen.nets.flows import CouplingStep, LinearStep, MultiScale, Repeat
from jaxgen.nets.marginal import Marginal
from jaxgen.optim import Adam


def scales(width: int, levels: int, depth: int) -> MultiScale:
    return MultiScale(LinearStep(GlowNet(width)), levels, depth)


PRESETS = {
    "smoke": Experiment(
        model=Flow(shape=(8, 8, 1), bits=4, flow=scales(8, 2, 2), optimizer=Adam(lr=1e-2)),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=16,
    ),
    "moons": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(LinearStep(CouplingMLP((64, 64))), 16, reversible=True),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "digits": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, flow=scales(64, 2, 8), num_classes=10, temperature=0.8, importance_samples=16,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, clip=1.0),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=128, steps=3000, log_every=100,
        sample_every=1000, save_every=250, num_samples=80, best="test/nll",
    ),
    # The noise within levels learned too, by couplings on a checkerboard.
    "digits_variational": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, flow=scales(64, 2, 8), temperature=0.8, importance_samples=16,
            dequantizer=Repeat(CouplingStep(CouplingResNet(16, 1), mask="checker"), 2),
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, clip=1.0),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=128, steps=3000, log_every=100,
        sample_every=1000, save_every=250, best="test/nll",
    ),
    "emoji": Experiment(
        model=Flow(
            shape=(32, 32, 3), bits=5, flow=Marginal(scales(64, 3, 8), bits=5), temperature=0.7,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=3000, clip=1.0), ema_decay=0.999,
        ),
        codec=Dequantize(bits=5, noise=False), data=Emoji(size=32), batch_size=32, steps=3000, steps_per_call=10,
        log_every=50, sample_every=1000, save_every=500,
    ),
    "mnist": Experiment(
        model=Flow(
            flow=Marginal(scales(64, 2, 8)), temperature=0.8, ema_decay=0.999,
            optimizer=Adam(lr=2e-3, warmup=200, decay_steps=7000, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=64, steps=7000, steps_per_call=20,
        log_every=100, sample_every=1000, save_every=1000,
    ),
    "mnist_paper": Experiment(
        model=Flow(
            flow=Marginal(scales(512, 2, 32)), temperature=0.8, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=5000, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=256, steps=100_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000,
    ),
    "cifar10": Experiment(
        model=Flow(
            shape=(32, 32, 3), flow=scales(512, 3, 32), temperature=0.7, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=5000, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="cifar10"), batch_size=512, steps=175_000, steps_per_call=100,
        log_every=500, sample_every=5000, save_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
