"""Autoencoder with a mixture of Gaussians fitted to its latents (arXiv:1903.12436).

    python experiments/autoencoder.py digits      # 1 minute on two cores

CPU minutes (docs/presets.md): digits 0.6, emoji 1.6, mnist 3.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.autoencoder import Autoencoder
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=Autoencoder(
            shape=(8, 8, 1), latent=4, encoder=MLP(hidden=(32,)), decoder=MLP(hidden=(32,)), components=3, memory=256
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=Autoencoder(
            shape=(8, 8, 1), latent=8, encoder=MLP(hidden=(256, 256)), decoder=MLP(hidden=(256, 256)), memory=1437
        ),
        data=Digits(), batch_size=128, steps=5000, sample_every=1000, save_every=1000,
    ),
    "emoji": Experiment(
        model=Autoencoder(
            shape=(32, 32, 3), latent=64, encoder=ConvEncoder(channels=(32, 64, 128)),
            decoder=ConvDecoder(channels=(128, 64, 32)), memory=1690, optimizer=Adam(lr=1e-3, decay_steps=3000),
        ),
        data=Emoji(size=32), batch_size=64, steps=3000, sample_every=1000, save_every=1000,
    ),
    "mnist": Experiment(
        model=Autoencoder(
            shape=(28, 28, 1), latent=16, encoder=ConvEncoder(channels=(32, 64, 128)),
            decoder=ConvDecoder(channels=(128, 64, 32)), optimizer=Adam(lr=1e-3, decay_steps=5000),
        ),
        data=TFDS(name="mnist"), batch_size=100, steps=5000, save_every=1000, sample_every=1000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
