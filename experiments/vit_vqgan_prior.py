"""ViT-VQGAN (arXiv:2110.04627), second stage: a GPT over the codes of a run of vit_vqgan.py draws images of a class.

    python experiments/vit_vqgan.py emoji                     # the first stage, in runs/vit_vqgan-emoji-0
    python experiments/vit_vqgan_prior.py emoji
    jaxgen sample runs/vit_vqgan_prior-emoji-0 --cond 0

emoji takes 23 minutes of one core, after 19 of the first stage. Not yet run: imagenet, imagenet_maskgit.
The paper: FID 4.17 on ImageNet-256 (1.7 billion parameters); MaskGIT 6.18 with its own first stage.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Emoji
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.models.maskgit import MaskedTransformer, MaskGIT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

EMOJI = {
    "codec": Pretrained(run="runs/vit_vqgan-emoji-0"), "data": Emoji(size=64), "batch_size": 32, "steps": 3000,
    "steps_per_call": 20, "log_every": 100, "sample_every": 500, "save_every": 500, "num_samples": 72,
    "best": "test/nats_per_token",
}  # fmt: skip
ADAM = Adam(lr=1e-3, b2=0.99, warmup=100, decay_steps=3000, weight_decay=0.1, clip=1.0)
BODY = {"width": 128, "depth": 4, "heads": 4, "dropout": 0.3}

PRESETS = {
    "smoke": Experiment(
        model=MaskGIT(
            network=MaskedTransformer(vocab=16, window=16, body=Transformer(width=16, depth=2, heads=2)),
            num_classes=9, steps=4, optimizer=Adam(lr=1e-2),
        ),
        codec=Pretrained(run="runs/vit_vqgan-smoke-0"), data=Emoji(size=16), batch_size=16, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=18,
    ),
    "emoji": Experiment(
        model=GPT(
            network=TokenTransformer(vocab=512, window=64, body=Transformer(causal=True, **BODY)), num_classes=9,
            optimizer=ADAM, ema_decay=0.999,
        ),
        **EMOJI,
    ),
    # Base of table 2: 24 layers of 1,024; the large one of 36 x 1,280 is FID 4.17's.
    "imagenet": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=8192, window=1024, body=Transformer(width=1024, depth=24, heads=16, causal=True, dropout=0.1)
            ),
            num_classes=1000, class_dropout=0.1, ema_decay=0.999,
            optimizer=Adam(lr=4.5e-4, b1=0.9, b2=0.96, warmup=5000, decay_steps=450_000, weight_decay=4.5e-2, clip=1.0),
        ),
        codec=Pretrained(run="runs/vit_vqgan-imagenet-0"), data=TFDS(name="imagenet2012", size=256), batch_size=1024,
        steps=450_000, log_every=500, save_every=10_000, sample_every=10_000, precision="bfloat16", remat=True,
    ),
    "imagenet_maskgit": Experiment(
        model=MaskGIT(
            network=MaskedTransformer(
                vocab=8192, window=1024, body=Transformer(width=768, depth=24, heads=8, dropout=0.1)
            ),
            num_classes=1000, steps=12, ema_decay=0.999,
            optimizer=Adam(lr=1e-4, b1=0.9, b2=0.96, warmup=5000, weight_decay=4.5e-2, clip=1.0),
        ),
        codec=Pretrained(run="runs/vit_vqgan-imagenet-0"), data=TFDS(name="imagenet2012", size=256), batch_size=256,
        steps=1_500_000, log_every=500, save_every=10_000, sample_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
