"""VQ-VAE (arXiv:1711.00937): images as maps of codes. With several maps, VQ-VAE-2 (arXiv:1906.00446).

    python experiments/vqvae.py emoji                          # 256 codes, maps of 8 x 8
    python experiments/vqvae.py mnist --data.data-dir DIR      # 128 codes, maps of 7 x 7
    python experiments/vqvae_prior.py emoji                    # then: what codes go together

Codes that are not learnt: *_fsq, a grid (arXiv:2309.15505), and *_lfq, signs (arXiv:2310.05737), as many as there are
without. benchmarks/ablations.py quantizer compares the three.

emoji takes 8 minutes of one core (22.8 dB on held-out images), mnist 7 (25.3 dB); all of their codes are used. CPU
minutes (docs/presets.md): digits 0.2, digits_fsq 0.2, digits_lfq 0.2, emoji_gradient 3, emoji_two_levels 3, emoji_fsq
2, emoji_lfq 2, emoji 2. Not yet run to the end: cifar10, imagenet_two_levels. The paper: CIFAR-10 at 4.67 bits/dim, by
a bound that is not computed here.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.vqvae import VQVAE
from jaxgen.nets.vqvae import VQNetwork
from jaxgen.ops.implicit_codes import FSQ, LFQ
from jaxgen.ops.quantize import Codebook, Quantizer
from jaxgen.optim import Adam


def quantized_by(experiment: Experiment, codebook: Quantizer) -> Experiment:
    return replace(experiment, model=replace(experiment.model, codebook=codebook))


PRESETS = {
    "smoke": Experiment(
        model=VQVAE(
            shape=(8, 8, 1), codebook=Codebook(size=16, dim=8), network=VQNetwork(width=16, hidden=8, blocks=1),
            optimizer=Adam(lr=3e-3),
        ),
        data=Digits(), batch_size=32, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=16,
    ),
    "digits": Experiment(
        model=VQVAE(
            shape=(8, 8, 1), codebook=Codebook(size=32, dim=16),
            network=VQNetwork(width=32, hidden=16, halvings=(1,)), optimizer=Adam(lr=2e-3, decay_steps=1500),
        ),
        data=Digits(), batch_size=64, steps=1500, sample_every=500, save_every=500,
    ),
    "emoji": Experiment(
        model=VQVAE(
            shape=(32, 32, 3), codebook=Codebook(size=256, dim=32), network=VQNetwork(width=96, hidden=32),
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=4000),
        ),
        data=Emoji(size=32, label="group"), batch_size=32, steps=4000, steps_per_call=20, log_every=100,
        sample_every=1000, save_every=500, best="test/mse",
    ),
    # The document's sketch, its strips of one channel put right: codes learnt by gradient, none restarted.
    "emoji_gradient": Experiment(
        model=VQVAE(
            shape=(32, 32, 3), codebook=Codebook(size=256, dim=32, decay=0.0, restart=0.0, kmeans=0),
            network=VQNetwork(width=96, hidden=32), optimizer=Adam(lr=1e-3, warmup=100, decay_steps=4000),
        ),
        data=Emoji(size=32, label="group"), batch_size=32, steps=4000, steps_per_call=20, log_every=100,
        sample_every=1000, save_every=500, best="test/mse",
    ),
    # Two maps, 4 x 4 and 8 x 8, as VQ-VAE-2 has 32 x 32 and 64 x 64 at 256 px.
    "emoji_two_levels": Experiment(
        model=VQVAE(
            shape=(32, 32, 3), codebook=Codebook(size=256, dim=32),
            network=VQNetwork(width=96, hidden=32, halvings=(2, 1)),
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=4000),
        ),
        data=Emoji(size=32, label="group"), batch_size=32, steps=4000, steps_per_call=20, log_every=100,
        sample_every=1000, save_every=500, best="test/mse",
    ),
    "mnist": Experiment(
        model=VQVAE(
            shape=(28, 28, 1), codebook=Codebook(size=128, dim=32), network=VQNetwork(width=64, hidden=32),
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=3000),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=3000, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=500,
    ),
    # Section 4.1: 512 codes in maps of 8 x 8 x 10 there, of which one map is kept; 256 features, 250,000 steps of 128.
    "cifar10": Experiment(
        model=VQVAE(
            shape=(32, 32, 3), codebook=Codebook(size=512, dim=64, kmeans=0),
            network=VQNetwork(width=256, hidden=256), optimizer=Adam(lr=2e-4),
        ),
        data=TFDS(name="cifar10"), batch_size=128, steps=250_000, log_every=500, sample_every=10_000,
        save_every=10_000,
    ),
    # VQ-VAE-2's maps of 32 x 32 and 64 x 64, 512 codes of 64 each.
    "imagenet_two_levels": Experiment(
        model=VQVAE(
            shape=(256, 256, 3), codebook=Codebook(size=512, dim=64),
            network=VQNetwork(hidden=64, halvings=(2, 1)), optimizer=Adam(lr=3e-4),
        ),
        data=TFDS(name="imagenet2012", size=256), batch_size=128, steps=2_200_000, log_every=500, sample_every=20_000,
        save_every=20_000,
    ),
}  # fmt: skip
# LFQ's losses weigh a fifth of their defaults, beside errors of a few hundredths.
PRESETS |= {
    "digits_fsq": quantized_by(PRESETS["digits"], FSQ(levels=(8, 4))),
    "digits_lfq": quantized_by(PRESETS["digits"], LFQ(bits=5, commitment=0.05, entropy=0.02)),
    "emoji_fsq": quantized_by(PRESETS["emoji"], FSQ(levels=(8, 8, 4))),
    "emoji_lfq": quantized_by(PRESETS["emoji"], LFQ(bits=8, commitment=0.05, entropy=0.02)),
}

if __name__ == "__main__":
    main(PRESETS, __doc__)
