"""GPT: text, one token after another, by nanoGPT's recipe.

    python experiments/gpt.py docs      # Python's own help, embedded
    python experiments/gpt.py shakespeare_char_cpu --data.source tinyshakespeare.txt
    python experiments/gpt.py gpt2 --data.source FOLDER --data.gpt2 FOLDER --mesh data=8 --model.accumulate 5
    jaxgen sample runs/gpt-docs-0 --prompt "The for statement"

shakespeare_char_cpu and shakespeare_char have nanoGPT's sizes and steps for a CPU and a GPU, which reach 1.88 and
1.4697 nats a character there; without --data.source they read tensorflow-datasets' tiny_shakespeare. gpt2 reaches 2.85
nats a token on OpenWebText there, in 600,000 steps of 0.5 M tokens. shakespeare_char_cpu takes 7 minutes of one core
and reaches 1.78 on all of the last tenth; at nanoGPT's rate of 1e-3 (--model.optimizer.lr 1e-3) it reaches 1.91. Not
yet run: docs, docs_bpe, sketch, shakespeare_char, gpt2, gpt2_medium, gpt2_large, gpt2_xl.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Text
from jaxgen.experiment import Experiment
from jaxgen.models.gpt import GPT
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.decoding import Decoding
from jaxgen.optim import Adam


def gpt2(width: int, depth: int, heads: int) -> Experiment:
    """A size of GPT-2, on text in files that the user names, by GPT-2's own tokens, from a folder `gpt2` where none is
    named; 480 windows of 1,024 a step, as nanoGPT has, 12 at a time."""
    return Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=50_257, window=1024, body=Transformer(width=width, depth=depth, heads=heads, causal=True)
            ),
            decoding=Decoding(top_k=200, temperature=0.8, end=50_256),
            optimizer=Adam(
                lr=6e-4, b2=0.95, weight_decay=0.1, clip=1.0, warmup=2000, decay_steps=600_000, final=0.1
            ),
            accumulate=40,
        ),
        codec=Identity(), data=Text(source="", tokenizer="bpe", gpt2="gpt2", block=1024, stride=1024), batch_size=480,
        steps=600_000, steps_per_call=10, log_every=10, sample_every=1000, save_every=1000, num_samples=8,
        precision="bfloat16",
    )  # fmt: skip


PRESETS = {
    "smoke": Experiment(
        model=GPT(
            network=TokenTransformer(
                window=16, body=Transformer(width=32, depth=2, heads=2, causal=True, dropout=0.1)
            ),
            optimizer=Adam(lr=1e-2, b2=0.99, weight_decay=0.1, clip=1.0, warmup=2, decay_steps=1000, final=0.1),
        ),
        codec=Identity(), data=Text(tokenizer="bytes", block=16), batch_size=16, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=20,
    ),
    "docs": Experiment(
        model=GPT(
            network=TokenTransformer(
                window=128, body=Transformer(width=192, depth=4, heads=6, causal=True, bias=False)
            ),
            decoding=Decoding(temperature=0.8, tokens=500),
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=5000, final=0.1),
        ),
        codec=Identity(), data=Text(tokenizer="bytes", block=128), batch_size=16, steps=5000, steps_per_call=50,
        log_every=50, sample_every=1000, save_every=500, num_samples=4, best="test/nats_per_token",
    ),
    # Rotary positions, RMSNorm, SwiGLU and grouped heads, over byte pairs.
    "docs_bpe": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=1024, window=128,
                body=Transformer(
                    width=192, depth=4, heads=6, groups=2, hidden=512, causal=True, bias=False, rms=True, swiglu=True,
                    rotary=True, dropout=0.2,
                ),
            ),
            decoding=Decoding(temperature=0.8, tokens=250, top_p=0.95),
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=3000, final=0.1),
        ),
        codec=Identity(), data=Text(tokenizer="bpe", block=128), batch_size=16, steps=3000, steps_per_call=50,
        log_every=50, sample_every=1000, save_every=500, num_samples=4, best="test/nats_per_token",
    ),
    # The source sketch's model, 163 M parameters, its mistakes put right: post-norm, dropout in training only.
    "sketch": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=50_257, window=1024, tied=False,
                body=Transformer(width=768, depth=12, heads=12, causal=True, pre_norm=False, dropout=0.1, scaled=False),
            ),
            optimizer=Adam(lr=6e-4, b2=0.95, weight_decay=0.01, clip=1.0, warmup=2000),
        ),
        codec=Identity(), data=Text(source="", tokenizer="bpe", vocab_size=50_257, block=1024, stride=1024),
        batch_size=12, steps=100_000, steps_per_call=20, log_every=100, sample_every=5000, save_every=1000,
        num_samples=8,
    ),
    # nanoGPT's but for its rate, a third of this: so few steps are better used.
    "shakespeare_char_cpu": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=65, window=64, body=Transformer(width=128, depth=4, heads=4, causal=True, bias=False)
            ),
            decoding=Decoding(temperature=0.8, tokens=500),
            optimizer=Adam(lr=3e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=2000, final=0.1),
        ),
        codec=Identity(), data=Text(source="tiny_shakespeare"), batch_size=12, steps=2000, steps_per_call=50,
        log_every=50, sample_every=500, save_every=250, num_samples=4, best="test/nats_per_token",
    ),
    "shakespeare_char": Experiment(
        model=GPT(
            network=TokenTransformer(
                vocab=65, window=256,
                body=Transformer(width=384, depth=6, heads=6, causal=True, bias=False, dropout=0.2),
            ),
            decoding=Decoding(temperature=0.8, tokens=500),
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=5000, final=0.1),
        ),
        codec=Identity(), data=Text(source="tiny_shakespeare", block=256), batch_size=64, steps=5000,
        steps_per_call=50, log_every=50, sample_every=1000, save_every=250, num_samples=4, best="test/nats_per_token",
    ),
    "gpt2": gpt2(768, 12, 12),
    "gpt2_medium": gpt2(1024, 24, 16),
    "gpt2_large": gpt2(1280, 36, 20),
    "gpt2_xl": gpt2(1600, 48, 25),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
