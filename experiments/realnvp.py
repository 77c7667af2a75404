"""RealNVP (arXiv:1605.08803): affine couplings on checkerboards and channels, multi-scale; ActNorm for batch norm.

    python experiments/realnvp.py moons
    python experiments/realnvp.py mnist --mesh data=2 --data.data-dir DIR    # DIR as tensorflow-datasets prepared it
    jaxgen evaluate runs/realnvp-mnist-0    # bits_per_dim

CPU minutes (docs/presets.md): moons 1.4, mnist 16. Not yet run to the end: cifar10. For a GPU, not run here:
mnist_paper. mnist is sized for half an hour on two cores; its pixels' marginal distribution is made Gaussian first, as
logits diverge; mnist_paper is of the size that 1.06 bits/dim is reported for (arXiv:1810.01367, table 2), cifar10 that
of 3.49. A step here is two couplings that change roles, for three or four of the paper's.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Dequantize, Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.flow import Flow
from jaxgen.nets.conditioners import CouplingMLP, CouplingResNet
from jaxgen.nets.flows import CouplingStep, MultiScale, Repeat
from jaxgen.nets.marginal import Marginal
from jaxgen.optim import Adam


def scales(width: int, blocks: int, levels: int, depth: int = 2) -> MultiScale:
    """`depth` pairs of couplings on checkerboards, then on channels, at each level."""
    net = CouplingResNet(width, blocks)
    return MultiScale(
        CouplingStep(net), levels, depth, before=CouplingStep(net, mask="checker"), before_depth=depth, prior=False
    )


PRESETS = {
    "smoke": Experiment(
        model=Flow(shape=(8, 8, 1), bits=4, flow=scales(4, 1, 1, 1), optimizer=Adam(lr=1e-2)),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=16,
    ),
    "moons": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(CouplingStep(CouplingMLP((64, 64))), 8),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "digits": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, flow=scales(32, 2, 1), importance_samples=16,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, clip=1.0),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=128, steps=3000, log_every=100,
        sample_every=1000, save_every=250, best="test/nll",
    ),
    "mnist": Experiment(
        model=Flow(
            flow=Marginal(scales(32, 1, 2)),
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=1500, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=64, steps=1500, steps_per_call=20,
        log_every=100, sample_every=1000, save_every=1000,
    ),
    "mnist_paper": Experiment(
        model=Flow(
            flow=Marginal(scales(64, 8, 2)), optimizer=Adam(lr=1e-3, warmup=1000, clip=1.0), ema_decay=0.999,
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=64, steps=200_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000,
    ),
    "cifar10": Experiment(
        model=Flow(
            shape=(32, 32, 3), flow=scales(64, 8, 1), logit_alpha=0.05, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=1000, weight_decay=5e-5, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="cifar10"), batch_size=64, steps=500_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
