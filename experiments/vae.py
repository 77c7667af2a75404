"""Variational autoencoder (arXiv:1312.6114).

    python experiments/vae.py mnist --data.data-dir DIR    # DIR holds mnist as tensorflow-datasets prepared it

Dynamically binarized MNIST, 784-400-20, Adam 1e-3, batch 128, 20 epochs. CPU minutes (docs/presets.md): digits 0.2,
emoji 2. Not yet run to the end: cifar10.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Binarize, Pixels
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.vae import VAE
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.ops.likelihood import DiscretizedLogistic, Gaussian
from jaxgen.optim import Adam

# The stack of the source sketches: halvings from 32 px to 2 px.
CONV = {
    "encoder": ConvEncoder(channels=(32, 64, 128, 256)),
    "decoder": ConvDecoder(channels=(256, 128, 64, 32)),
    "latent": 128,
}

PRESETS = {
    "smoke": Experiment(
        model=VAE(
            shape=(8, 8, 1), latent=4, encoder=MLP(hidden=(32,)), decoder=MLP(hidden=(32,)), importance_samples=8
        ),
        codec=Binarize(), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=16,
    ),
    "digits": Experiment(
        model=VAE(shape=(8, 8, 1), latent=8, likelihood=DiscretizedLogistic(), optimizer=Adam(lr=1e-3)),
        data=Digits(), batch_size=128, steps=5000, sample_every=1000, save_every=1000,
    ),
    # A learnt deviation is so small that the codes do not fill the prior, and samples are grey.
    "emoji": Experiment(
        model=VAE(shape=(32, 32, 3), **CONV, likelihood=Gaussian(learned=False, std=0.5), optimizer=Adam(lr=5e-4)),
        data=Emoji(size=32), batch_size=64, steps=3000, sample_every=1000, save_every=1000,
    ),
    # 469 steps see the 60,000 training images once: 9,380 are 20 epochs.
    "mnist": Experiment(
        model=VAE(shape=(28, 28, 1), latent=20, encoder=MLP(hidden=(400,)), decoder=MLP(hidden=(400,))),
        codec=Binarize(), data=TFDS(name="mnist"), batch_size=128, steps=9380, steps_per_call=67, log_every=670,
        save_every=2345, sample_every=2345,
    ),
    "cifar10": Experiment(
        model=VAE(shape=(32, 32, 3), **CONV, likelihood=DiscretizedLogistic(), kl_warmup=5000),
        codec=Pixels(), data=TFDS(name="cifar10"), batch_size=128, steps=100_000, log_every=500, save_every=5000,
        sample_every=5000,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
