"""PixelCNN++ (arXiv:1701.05517): a mixture of discretized logistics over whole pixels, a U-Net in each stream.

    python experiments/pixelcnn_pp.py digits      # 17 grey levels, by class
    python experiments/pixelcnn_pp.py sprites --data.folder DIR     # 16 px, by the class of the folder

CPU minutes (docs/presets.md): digits 7, sprites 27, mnist 13. Not yet run to the end: cifar10. The paper: CIFAR-10 2.92
bits/dim.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, ImageFolder
from jaxgen.experiment import Experiment
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.pixelcnn_pp import PixelCNNPP
from jaxgen.ops.levels import LogisticMixture
from jaxgen.optim import Adam

COLOUR = {
    "network": PixelCNNPP(width=32, blocks=2, dropout=0.2), "likelihood": LogisticMixture(components=5),
    "ema_decay": 0.999,
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=PixelCNNPP(width=8, blocks=1, levels=2, dropout=0.0),
            likelihood=LogisticMixture(components=2, levels=17), optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=PixelCNNPP(width=32, blocks=2, levels=2, dropout=0.2), num_classes=10,
            likelihood=LogisticMixture(components=5, levels=17), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=1000, clip=1.0),
        ),
        data=Digits(), batch_size=64, steps=1000, log_every=50, sample_every=500, save_every=100, num_samples=80,
        best="test/nats",
    ),
    "sprites": Experiment(
        model=PixelCNN(
            shape=(16, 16, 3), num_classes=43, **COLOUR,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=2000, clip=1.0),
        ),
        data=ImageFolder(size=16), batch_size=32, steps=2000, steps_per_call=10, log_every=50, sample_every=500,
        save_every=250, num_samples=86, best="test/nats",
    ),
    "mnist": Experiment(
        model=PixelCNN(
            shape=(28, 28, 1), network=PixelCNNPP(width=32, blocks=2, dropout=0.0),
            likelihood=LogisticMixture(components=5), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=200, decay_steps=1500, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=16, steps=1500, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=500,
    ),
    # Section 3 of the paper: 160 features, 5 blocks at each of 3 resolutions both ways, dropout 1/2, 10 components.
    "cifar10": Experiment(
        model=PixelCNN(
            shape=(32, 32, 3), network=PixelCNNPP(), likelihood=LogisticMixture(), ema_decay=0.9995,
            optimizer=Adam(lr=1e-3, b1=0.95, b2=0.9995, warmup=1000, decay_steps=300_000, final=0.2, clip=1.0),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=300_000, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
