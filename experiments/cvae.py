"""Conditional VAE (Sohn et al., NeurIPS 2015): p(x | z, y), so that a class can be asked for.

    python experiments/cvae.py digits      # 1 minute on two cores
    jaxgen sample runs/cvae-digits-0 --cond 7

CPU minutes (docs/presets.md): digits 0.1, mnist 3, emoji 2.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Binarize
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.vae import VAE
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.ops.likelihood import DiscretizedLogistic, Gaussian
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=VAE(
            shape=(8, 8, 1), latent=4, encoder=MLP(hidden=(32,)), decoder=MLP(hidden=(32,)), num_classes=10,
            importance_samples=8,
        ),
        codec=Binarize(), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=20,
    ),
    "digits": Experiment(
        model=VAE(shape=(8, 8, 1), latent=8, num_classes=10, likelihood=DiscretizedLogistic()), data=Digits(),
        steps=5000, num_samples=80,
    ),
    # A learnt deviation is so small that the codes do not fill the prior, and samples are grey.
    "emoji": Experiment(
        model=VAE(
            shape=(32, 32, 3), encoder=ConvEncoder(channels=(32, 64, 128, 256)),
            decoder=ConvDecoder(channels=(256, 128, 64, 32)), latent=128, num_classes=9,
            likelihood=Gaussian(learned=False, std=0.5), optimizer=Adam(lr=5e-4),
        ),
        data=Emoji(size=32), batch_size=64, steps=3000, num_samples=72,
    ),
    "mnist": Experiment(
        model=VAE(
            shape=(28, 28, 1), latent=20, num_classes=10, encoder=MLP(hidden=(400, 400)),
            decoder=MLP(hidden=(400, 400)),
        ),
        codec=Binarize(), data=TFDS(name="mnist"), steps=9380, steps_per_call=67, log_every=670, save_every=2345,
        sample_every=2345, num_samples=80,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
