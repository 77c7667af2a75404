"""Integer discrete flow (arXiv:1905.07376): a permutation of images by whose latents they are compressed without loss.

    python experiments/integer_flow.py digits                              # 17 grey levels
    python experiments/integer_flow.py mnist --data.data-dir DIR           # DIR as tensorflow-datasets prepared it
    jaxgen compress runs/integer_flow-digits-0 in.png out.jxg

Made for compression: samples of mnist are specks. CPU minutes (docs/presets.md): digits 1.5, mnist 11. Not yet run to
the end: cifar10. The paper: CIFAR-10 3.32 bits/dim.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.integer_flow import IntegerFlow
from jaxgen.nets.conditioners import CouplingResNet
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=IntegerFlow(
            shape=(8, 8, 1), network=CouplingResNet(8, 1), prior=CouplingResNet(8, 1), code_levels=17, depth=4,
            components=2, optimizer=Adam(lr=1e-2),
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    # 1,437 images: without weight decay, test images take ever more bits from step 500 on.
    "digits": Experiment(
        model=IntegerFlow(
            shape=(8, 8, 1), network=CouplingResNet(24, 1), prior=CouplingResNet(32, 2), code_levels=17, scales=6,
            depth=2, ema_decay=0.998,
            optimizer=Adam(lr=2e-3, warmup=100, decay_steps=1500, clip=1.0, weight_decay=0.1),
        ),
        data=Digits(), batch_size=64, steps=1500, log_every=100, sample_every=500, save_every=250, best="test/nats",
    ),
    # 0.06 G multiply-adds an image, so 0.36 GFLOP in training.
    "mnist": Experiment(
        model=IntegerFlow(
            network=CouplingResNet(32, 1), prior=CouplingResNet(32, 2), ema_decay=0.999,
            optimizer=Adam(lr=2e-3, warmup=200, decay_steps=2500, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=2500, steps_per_call=20, log_every=100, sample_every=500,
        save_every=500,
    ),
    # The paper has 3 levels of 8 couplings, by DenseNets of 512 channels.
    "cifar10": Experiment(
        model=IntegerFlow(
            shape=(32, 32, 3), network=CouplingResNet(256, 8), prior=CouplingResNet(256, 8), scales=6, depth=8,
            ema_decay=0.9995, optimizer=Adam(lr=1e-3, warmup=2000, clip=1.0),
        ),
        data=TFDS(name="cifar10"), batch_size=256, steps=400_000, log_every=500, sample_every=10_000,
        save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
