"""The diffusion prior of DALL-E 2 (arXiv:2204.06125): from a text to CLIP's embedding of a picture of it.

    python experiments/clip.py emoji            # runs/clip-emoji-0, whose embeddings are learnt
    python experiments/clip_prior.py emoji      # samples are shown as the emoji nearest to them
    python experiments/clip_decoder.py emoji    # draws pictures of embeddings
    jaxgen sample runs/clip_prior-emoji-0 --prompt "red apple" --cascade runs/clip_decoder-emoji-0

`jaxgen evaluate` gives the cosine of samples and of the text's own embedding with that of the picture. CPU minutes
(docs/presets.md): emoji 26. Not yet run to the end: dalle2 (the published setting, whose pairs are not public; its CLIP
by `jaxgen weights import-clip`).
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Emoji, ImageFolder, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.inference.embedded import Embedded
from jaxgen.models.clip_prior import CLIPPrior
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.prior import PriorTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Cosine
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=CLIPPrior(
            shape=(16,), network=PriorTransformer(body=Transformer(width=16, depth=1, heads=2, causal=True)),
            text=TextTower(vocab=258, window=12, body=tower(16, 1, 2)), schedule=Cosine(num_steps=20),
            sampler=DDIM(steps=4, clip=0.0), class_dropout=0.2, guidance=Guidance(scale=2.0), ema_decay=0.99,
            optimizer=Adam(lr=3e-3), evaluate_times=4,
        ),
        codec=Identity(),
        data=Embedded(data=Emoji(size=16, label="none"), tokenizer="bytes", window=12, clip="runs/clip-smoke-0"),
        batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    "emoji": Experiment(
        model=CLIPPrior(
            shape=(128,),
            network=PriorTransformer(body=Transformer(width=192, depth=4, heads=6, causal=True, dropout=0.1)),
            text=TextTower(vocab=1024, window=16, body=tower(128, 2, 4, causal=True).clone(dropout=0.1)),
            schedule=Cosine(num_steps=1000), sampler=DDIM(steps=50, clip=0.0), class_dropout=0.1,
            guidance=Guidance(scale=2.0), ema_decay=0.999,
            optimizer=Adam(lr=5e-4, warmup=100, decay_steps=3000, clip=1.0, weight_decay=0.06),
        ),
        codec=Identity(),
        data=Embedded(data=Mirrored(data=Emoji(size=32, label="none")), window=16, clip="runs/clip-emoji-0"),
        batch_size=64, steps=3000, save_every=500, sample_every=1000, best="test/x0_mse",
    ),
    # Table 3 of the paper, but for attention heads, of which it names none: a prior of 1 G parameters.
    "dalle2": Experiment(
        model=CLIPPrior(
            shape=(768,),
            network=PriorTransformer(body=Transformer(width=2048, depth=24, heads=32, causal=True)),
            text=TextTower(vocab=49_408, window=77, body=tower(768, 12, 12, causal=True)),
            schedule=Cosine(num_steps=1000), sampler=DDIM(steps=64, clip=0.0), class_dropout=0.1,
            guidance=Guidance(scale=2.0), ema_decay=0.9999,
            optimizer=Adam(lr=1.1e-4, b2=0.96, eps=1e-6, weight_decay=6e-2),
        ),
        codec=Identity(),
        data=Embedded(data=ImageFolder(size=224, label="none"), window=77, clip="runs/clip-vit-l-14"),
        batch_size=4096, steps=600_000, save_every=5000, sample_every=10_000, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
