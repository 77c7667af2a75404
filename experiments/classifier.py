"""A small convolutional classifier: the features and classes that other models are scored by, see `jaxgen evaluate`.

    python experiments/classifier.py mnist --data.data-dir DIR    # DIR holds mnist as tensorflow-datasets prepared it
    python experiments/classifier.py digits
    python experiments/classifier.py sprites --data.folder DIR
    python experiments/classifier.py moving_digits    # of clips: which digit, and into which quadrant it sets out

digits names 98 % of held-out pictures. CPU minutes (docs/presets.md): digits 0.2, emoji 11, moving_digits 1.0, mnist
1.6, sprites 0.4, emoji16 0.3.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji, ImageFolder, MovingDigits
from jaxgen.experiment import Experiment
from jaxgen.models.classifier import Classifier
from jaxgen.nets.conv import ConvEncoder
from jaxgen.nets.video import ClipEncoder
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=Classifier(shape=(8, 8, 1), trunk=ConvEncoder(channels=(8, 16)), num_features=16, ascent_steps=4),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "digits": Experiment(
        model=Classifier(
            shape=(8, 8, 1), trunk=ConvEncoder(channels=(32, 64)), num_features=64, shift=1, ema_decay=0.99,
            optimizer=Adam(lr=2e-3, warmup=100, decay_steps=2000, weight_decay=1e-2),
        ),
        data=Digits(), batch_size=128, steps=2000, num_samples=80,
    ),
    "emoji": Experiment(
        model=Classifier(
            shape=(32, 32, 3), trunk=ConvEncoder(channels=(32, 64, 128)), num_classes=9, ema_decay=0.99,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, weight_decay=1e-2),
        ),
        data=Emoji(size=32), batch_size=64, steps=3000, num_samples=72,
    ),
    "emoji16": Experiment(
        model=Classifier(
            shape=(16, 16, 3), trunk=ConvEncoder(channels=(32, 64, 128)), num_classes=9, ema_decay=0.99,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, weight_decay=1e-2),
        ),
        data=Emoji(size=16), batch_size=64, steps=3000, num_samples=72,
    ),
    "sprites": Experiment(
        model=Classifier(
            shape=(16, 16, 3), trunk=ConvEncoder(channels=(32, 64, 128)), num_classes=43, ema_decay=0.99,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000, weight_decay=1e-2),
        ),
        data=ImageFolder(size=16), batch_size=64, steps=3000, num_samples=86,
    ),
    "moving_digits": Experiment(
        model=Classifier(
            shape=(16, 16, 16, 1), trunk=ClipEncoder(channels=(16, 32)), num_classes=40, num_features=64, shift=1,
            ema_decay=0.99, ascent_steps=32, optimizer=Adam(lr=2e-3, warmup=100, decay_steps=2000, weight_decay=1e-2),
        ),
        data=MovingDigits(label="motion"), batch_size=64, steps=2000, num_samples=40, sample_every=2000,
    ),
    # Eight passes over the 60,000 training images.
    "mnist": Experiment(
        model=Classifier(
            trunk=ConvEncoder(channels=(32, 64, 128)), ema_decay=0.99,
            optimizer=Adam(lr=2e-3, warmup=200, decay_steps=3700, weight_decay=1e-2),
        ),
        data=TFDS(name="mnist"), batch_size=128, steps=3700, num_samples=80, save_every=3700, sample_every=3700,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
