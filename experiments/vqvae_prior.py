"""What codes of a VQ-VAE go together: a prior over the codes of a run of vqvae.py, which samples images of a class.

    python experiments/vqvae.py emoji                 # the first stage, in runs/vqvae-emoji-0
    python experiments/vqvae_prior.py emoji           # GPT over its 64 codes an image, in runs/vqvae_prior-emoji-0
    jaxgen sample runs/vqvae_prior-emoji-0 --cond 0   # images
    python experiments/vqvae_prior.py emoji_maskgit   # all codes in eight steps instead (arXiv:2202.04200)
    python experiments/vqvae_prior.py emoji_pixelcnn  # gated PixelCNN, the prior of arXiv:1711.00937
    python experiments/vqvae_prior.py mnist --data.data-dir DIR

Of another first stage: --codec.run RUN, with --model.network.vocab and --model.network.window as many codes and places
as it has. mnist takes 40 minutes of one core beside other load; fd_mnist_cnn 0.53. CPU minutes (docs/presets.md):
emoji_two_levels 5, emoji_maskgit 4, emoji_pixelcnn 2, emoji 4.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.models.maskgit import MaskedTransformer, MaskGIT
from jaxgen.models.pixelcnn import PixelCNN
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.pixelcnn import GatedPixelCNN
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.levels import Categorical
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

SMOKE = {"batch_size": 16, "steps": 20, "steps_per_call": 5, "log_every": 10, "save_every": 10, "sample_every": 10}
EMOJI = {
    "data": Emoji(size=32), "batch_size": 32, "steps": 2000, "steps_per_call": 20, "log_every": 100,
    "sample_every": 500, "save_every": 500, "num_samples": 72,
}  # fmt: skip
MNIST = {
    "data": TFDS(name="mnist"), "batch_size": 64, "steps": 3000, "steps_per_call": 20, "log_every": 100,
    "sample_every": 1000, "save_every": 500, "num_samples": 100,
}  # fmt: skip
# A thousand and a half emoji are learnt by heart in a few hundred steps.
EMOJI_ADAM = Adam(lr=1e-3, b2=0.99, warmup=100, decay_steps=2000, weight_decay=0.1, clip=1.0)
MNIST_ADAM = Adam(lr=1e-3, b2=0.99, warmup=100, decay_steps=3000, weight_decay=0.01, clip=1.0)
EMOJI_BODY = {"width": 128, "depth": 4, "heads": 4, "dropout": 0.3}
MNIST_BODY = {"width": 128, "depth": 4, "heads": 4, "dropout": 0.1}

PRESETS = {
    "smoke": Experiment(
        model=GPT(
            network=TokenTransformer(vocab=16, window=4, body=Transformer(width=16, depth=2, heads=2, causal=True)),
            num_classes=10, optimizer=Adam(lr=1e-2),
        ),
        codec=Pretrained(run="runs/vqvae-smoke-0"), data=Digits(), **SMOKE, num_samples=20,
    ),
    "digits": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=32, window=16, body=Transformer(width=64, depth=3, heads=4, causal=True, dropout=0.1)
            ),
            num_classes=10, optimizer=Adam(lr=2e-3, warmup=100, decay_steps=2000, weight_decay=0.1, clip=1.0),
        ),
        codec=Pretrained(run="runs/vqvae-digits-0"), data=Digits(), batch_size=64, steps=2000, sample_every=500,
        save_every=500, num_samples=80, best="test/nats_per_token",
    ),
    "emoji": Experiment(
        model=GPT(
            network=TokenTransformer(vocab=256, window=64, body=Transformer(causal=True, **EMOJI_BODY)),
            num_classes=9, optimizer=EMOJI_ADAM, ema_decay=0.999,
        ),
        codec=Pretrained(run="runs/vqvae-emoji-0"), **EMOJI, best="test/nats_per_token",
    ),
    "emoji_maskgit": Experiment(
        model=MaskGIT(
            network=MaskedTransformer(vocab=256, window=64, body=Transformer(**EMOJI_BODY)), num_classes=9,
            optimizer=EMOJI_ADAM, ema_decay=0.999,
        ),
        codec=Pretrained(run="runs/vqvae-emoji-0"), **EMOJI, best="test/nats_per_token",
    ),
    "emoji_pixelcnn": Experiment(
        model=PixelCNN(
            shape=(8, 8, 1), network=GatedPixelCNN(width=64, layers=6, first_size=5, head=128),
            likelihood=Categorical(levels=256), embed=32, num_classes=9, ema_decay=0.999,
            optimizer=Adam(lr=1e-3, warmup=100, decay_steps=2000, clip=1.0),
        ),
        codec=Pretrained(run="runs/vqvae-emoji-0", form="levels"), **EMOJI, best="test/nats",
    ),
    # Both maps of a VQ-VAE-2 one after the other, the coarse one first: 16 and 64 codes.
    "emoji_two_levels": Experiment(
        model=GPT(
            network=TokenTransformer(vocab=256, window=80, body=Transformer(causal=True, **EMOJI_BODY)),
            num_classes=9, optimizer=EMOJI_ADAM, ema_decay=0.999,
        ),
        codec=Pretrained(run="runs/vqvae-emoji_two_levels-0"), **EMOJI, best="test/nats_per_token",
    ),
    "mnist": Experiment(
        model=GPT(
            network=TokenTransformer(vocab=128, window=49, body=Transformer(causal=True, **MNIST_BODY)),
            num_classes=10, optimizer=MNIST_ADAM, ema_decay=0.999,
        ),
        codec=Pretrained(run="runs/vqvae-mnist-0"), **MNIST,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
