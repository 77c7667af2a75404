"""beta-VAE (Higgins et al., ICLR 2017): a heavier KL term, so that latents separate factors of variation.

    python experiments/beta_vae.py digits      # 1 minute on two cores
    python experiments/beta_vae.py factors     # one object whose five factors are known
    python benchmarks/ablations.py beta        # how far latents stand for factors, over beta

CPU minutes (docs/presets.md): digits 0.3, factors 2, mnist 2, emoji 2.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Binarize
from jaxgen.data import TFDS, Digits, Emoji, Factors
from jaxgen.experiment import Experiment
from jaxgen.models.vae import VAE
from jaxgen.nets.conv import ConvDecoder, ConvEncoder
from jaxgen.nets.mlp import MLP
from jaxgen.ops.likelihood import DiscretizedLogistic, Gaussian
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=VAE(
            shape=(8, 8, 1), latent=4, encoder=MLP(hidden=(32,)), decoder=MLP(hidden=(32,)), beta=4.0, kl_warmup=10,
            importance_samples=8,
        ),
        codec=Binarize(), data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=16,
    ),
    # At beta 4 all but three nats of these few pixels are given up; of binarized ones, at beta 2 already.
    "digits": Experiment(
        model=VAE(shape=(8, 8, 1), latent=10, beta=2.0, likelihood=DiscretizedLogistic()), data=Digits(), steps=5000,
        sample_every=1000, save_every=1000,
    ),
    "emoji": Experiment(
        model=VAE(
            shape=(32, 32, 3), encoder=ConvEncoder(channels=(32, 64, 128, 256)),
            decoder=ConvDecoder(channels=(256, 128, 64, 32)), latent=64, beta=4.0,
            likelihood=Gaussian(learned=False, std=0.3), optimizer=Adam(lr=5e-4),
        ),
        data=Emoji(size=32), batch_size=64, steps=3000,
    ),
    # Images of known factors, on which disentanglement can be measured; the networks of the paper's dSprites, narrower.
    "factors": Experiment(
        model=VAE(
            shape=(32, 32, 1), latent=10, beta=4.0, encoder=MLP(hidden=(512, 512)), decoder=MLP(hidden=(512, 512)),
            optimizer=Adam(lr=5e-4),
        ),
        codec=Binarize(), data=Factors(), batch_size=128, steps=6000, sample_every=2000, save_every=2000,
    ),
    "mnist": Experiment(
        model=VAE(shape=(28, 28, 1), latent=20, beta=4.0), codec=Binarize(), data=TFDS(name="mnist"), steps=9380,
        steps_per_call=67, log_every=670, save_every=2345, sample_every=2345,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
