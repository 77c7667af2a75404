"""Masked autoregressive flow (arXiv:1705.07057); IAF (arXiv:1606.04934) is the field `inverse` of its step.

    python experiments/maf.py moons
    python experiments/maf.py digits
    python experiments/maf.py mnist --data.data-dir DIR    # DIR as tensorflow-datasets prepared it
    jaxgen evaluate runs/maf-mnist-0         # bits_per_dim
    python benchmarks/maf_sampling.py runs/maf-digits-0    # passes of the sampler against D

mnist's pixels have a Gaussian marginal distribution first. iaf_moons is the same map the other way round: samples in
one pass, its density and the gradient of that by repetition. CPU minutes (docs/presets.md): moons 0.9, iaf_moons 2,
mnist 5. Not yet run to the end: cifar10. For a GPU, not run here: mnist_paper. The last two have the paper's two layers
of 1024 and 2048 and ten steps.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Dequantize, Identity
from jaxgen.data import TFDS, Digits, Toy2D
from jaxgen.experiment import Experiment
from jaxgen.models.flow import Flow
from jaxgen.nets.flows import Flat, Repeat
from jaxgen.nets.made import MADE, MAFStep
from jaxgen.nets.marginal import Marginal
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, logit_alpha=0.05, flow=Flat(Repeat(MAFStep(MADE((32,))), 2)),
            optimizer=Adam(lr=1e-2),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10,
        save_every=10, sample_every=10, num_samples=16,
    ),
    "moons": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(MAFStep(MADE((64, 64), smooth=True)), 10),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "iaf_moons": Experiment(
        model=Flow(
            shape=(2,), bits=0, flow=Repeat(MAFStep(MADE((64, 64), smooth=True), inverse=True), 10),
            optimizer=Adam(lr=1e-3, decay_steps=10_000, clip=5.0),
        ),
        codec=Identity(), data=Toy2D(name="moons", num=100_000), batch_size=512, steps=10_000, steps_per_call=100,
        sample_every=2500, save_every=2500, num_samples=2000,
    ),
    "digits": Experiment(
        model=Flow(
            shape=(8, 8, 1), bits=4, logit_alpha=0.05, flow=Flat(Repeat(MAFStep(MADE((128, 128))), 5)),
            num_classes=10, importance_samples=16,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=1000, weight_decay=1e-2, clip=1.0),
        ),
        codec=Dequantize(bits=4, noise=False), data=Digits(), batch_size=128, steps=1000, log_every=100,
        sample_every=500, save_every=100, num_samples=80, best="test/nll",
    ),
    "mnist": Experiment(
        model=Flow(
            flow=Marginal(Flat(Repeat(MAFStep(MADE((512, 512))), 5))),
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=5000, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=128, steps=5000, steps_per_call=20,
        log_every=100, sample_every=2500, save_every=1000,
    ),
    "mnist_paper": Experiment(
        model=Flow(
            logit_alpha=1e-6, flow=Flat(Repeat(MAFStep(MADE((1024, 1024))), 10)),
            optimizer=Adam(lr=1e-4, warmup=500, weight_decay=1e-6, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="mnist"), batch_size=100, steps=100_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000, best="test/nll",
    ),
    "cifar10": Experiment(
        model=Flow(
            shape=(32, 32, 3), logit_alpha=0.05, flow=Flat(Repeat(MAFStep(MADE((2048, 2048))), 10)),
            optimizer=Adam(lr=1e-4, warmup=500, weight_decay=1e-6, clip=1.0),
        ),
        codec=Dequantize(noise=False), data=TFDS(name="cifar10"), batch_size=100, steps=100_000, steps_per_call=100,
        log_every=500, sample_every=10_000, save_every=10_000, best="test/nll",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
