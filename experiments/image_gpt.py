"""Image GPT, "Generative Pretraining from Pixels" (Chen et al., ICML 2020): a GPT over pixels, each of one of a few
colours, which k-means finds among those of the training data as a run begins.

    python experiments/image_gpt.py digits                        # 17 grey levels, all there are, by class
    python experiments/image_gpt.py mnist --data.data-dir DIR     # 12 grey levels
    python experiments/image_gpt.py sprites --data.folder DIR     # 16 px, 128 colours
    jaxgen sample runs/image_gpt-digits-0 --cond 7 --image digit.png --mask lower.png

bits_per_dim are exact where every level has a token, as in digits; elsewhere they are of the nearest colours alone.
igpt_s is the paper's smallest model: 2.09 nats a pixel on ImageNet's test set. CPU minutes (docs/presets.md): mnist 20,
sprites 17. Not yet run to the end: igpt_s.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Colours
from jaxgen.data import TFDS, Digits, ImageFolder
from jaxgen.experiment import Experiment
from jaxgen.models.image_gpt import ImageGPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.optim import Adam

SMALL = Transformer(width=96, depth=4, heads=4, causal=True, dropout=0.2)
MINUTES_ADAM = Adam(lr=1e-3, b2=0.95, warmup=100, decay_steps=3000, weight_decay=0.1, clip=1.0)
MINUTES = {
    "batch_size": 16, "steps": 3000, "steps_per_call": 20, "log_every": 100, "sample_every": 1000, "save_every": 500,
    "best": "test/bits_per_dim",
}  # fmt: skip


def of_colours(shape: tuple[int, int, int], colours: int, body: Transformer, tied: bool = True, **fields) -> dict:
    """A model of pictures of `shape` and the codec of their colours."""
    network = TokenTransformer(vocab=colours, window=shape[0] * shape[1], body=body, tied=tied)
    return {"model": ImageGPT(shape=shape, network=network, **fields), "codec": Colours(shape=shape, size=colours)}


PRESETS = {
    "smoke": Experiment(
        **of_colours(
            (8, 8, 1), 5, Transformer(width=16, depth=2, heads=2, causal=True), num_classes=10, optimizer=Adam(lr=1e-2)
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10,
        num_samples=20,
    ),
    "digits": Experiment(
        **of_colours(
            (8, 8, 1), 17, Transformer(width=64, depth=4, heads=4, causal=True, dropout=0.2), num_classes=10,
            ema_decay=0.999,
            optimizer=Adam(lr=2e-3, b2=0.95, warmup=100, decay_steps=2000, weight_decay=0.1, clip=1.0),
        ),
        data=Digits(), batch_size=64, steps=2000, log_every=100, sample_every=500, save_every=500, num_samples=80,
        best="test/bits_per_dim",
    ),
    "mnist": Experiment(
        **of_colours(
            (28, 28, 1), 12, Transformer(width=64, depth=3, heads=2, causal=True), num_classes=10, ema_decay=0.999,
            optimizer=Adam(lr=2e-3, b2=0.95, warmup=100, decay_steps=2500, weight_decay=0.01, clip=1.0),
        ),
        data=TFDS(name="mnist"), batch_size=16, steps=2500, steps_per_call=20, log_every=100, sample_every=500,
        save_every=500, num_samples=100,
    ),
    "sprites": Experiment(
        **of_colours((16, 16, 3), 128, SMALL, num_classes=43, ema_decay=0.999, optimizer=MINUTES_ADAM),
        data=ImageFolder(size=16), **MINUTES, num_samples=86,
    ),
    # As published: no biases, root-mean-square norms, an output layer of its own. The paper also crops at random.
    "igpt_s": Experiment(
        **of_colours(
            (32, 32, 3), 512,
            Transformer(
                width=512, depth=24, heads=8, causal=True, bias=False, rms=True, activation="quick_gelu", scaled=False,
            ),
            tied=False, optimizer=Adam(lr=3e-3, b2=0.95, warmup=10_000, decay_steps=1_000_000),
        ),
        data=TFDS(name="imagenet_resized/32x32", label_key="", test="validation"), batch_size=128, steps=1_000_000,
        steps_per_call=100, log_every=500, sample_every=10_000, save_every=10_000, num_samples=64, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
