"""PixelCNN (arXiv:1601.06759) and gated PixelCNN (arXiv:1606.05328).

    python experiments/pixelcnn.py digits                                  # 17 grey levels, by class
    python experiments/pixelcnn.py mnist --data.data-dir DIR               # dynamically binarized
    jaxgen sample runs/pixelcnn-digits-0 --cond 7

mnist takes 35 minutes of one core and comes to 84.9 nats. Not yet run to the end: cifar10. For a GPU, not run here:
mnist_large. The papers: binary MNIST 81.30 nats, CIFAR-10 3.14 bits/dim plain, 3.03 gated. CPU minutes
(docs/presets.md): digits 11, digits_plain 5.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Binarize
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.pixelcnn import GatedPixelCNN, PlainPixelCNN
from jaxgen.ops.levels import Categorical
from jaxgen.optim import Adam, RMSprop

PRESETS = {
    "smoke": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=GatedPixelCNN(width=8, layers=3, head=8), num_classes=10, optimizer=Adam(lr=5e-3)
        ),
        codec=Binarize(), data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=20,
    ),
    "digits": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=GatedPixelCNN(width=32, layers=5), likelihood=Categorical(levels=17),
            num_classes=10, ema_decay=0.999, optimizer=Adam(lr=2e-3, warmup=100, decay_steps=2000, clip=1.0),
        ),
        data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500, num_samples=80,
        best="test/nats",
    ),
    # The stack of the source sketches, its masks put right.
    "digits_plain": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=PlainPixelCNN(width=64, layers=5), optimizer=Adam(lr=1e-3, clip=1.0),
        ),
        codec=Binarize(), data=Digits(), batch_size=128, steps=2000, log_every=100, sample_every=500, save_every=500,
    ),
    # 0.18 M multiply-adds a pixel, so 0.85 GFLOP an image in training: 40 minutes of one core for 5,000 steps of 16.
    "mnist": Experiment(
        model=PixelCNN(
            shape=(28, 28, 1), network=GatedPixelCNN(width=32, layers=9, size=3, coordinates=True), ema_decay=0.999,
            optimizer=Adam(lr=2e-3, warmup=200, decay_steps=5000, clip=1.0),
        ),
        codec=Binarize(), data=TFDS(name="mnist"), batch_size=16, steps=5000, steps_per_call=20, log_every=100,
        sample_every=1000, save_every=1000,
    ),
    "mnist_large": Experiment(
        model=PixelCNN(
            shape=(28, 28, 1), network=GatedPixelCNN(width=64, layers=14, size=5, head=256), ema_decay=0.9995,
            optimizer=Adam(lr=1e-3, warmup=1000, decay_steps=60_000, clip=1.0),
        ),
        codec=Binarize(), data=TFDS(name="mnist"), batch_size=128, steps=60_000, log_every=100, sample_every=5000,
        save_every=5000,
    ),
    # The gated paper's size for 32 px, 20 layers of 384 features: 3.03 bits/dim.
    "cifar10": Experiment(
        model=PixelCNN(
            shape=(32, 32, 3), network=GatedPixelCNN(width=384, layers=20, size=5, head=1536),
            likelihood=Categorical(), optimizer=RMSprop(lr=1e-4, decay=0.95, clip=1.0), ema_decay=0.999,
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=200_000, log_every=500, sample_every=10_000,
        save_every=10_000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
