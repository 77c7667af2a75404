"""Masked diffusion of tokens (arXiv:2406.07524): codes of a VQ-VAE and text, filled in from all sides at once.

    python experiments/vqvae.py digits          # the first stage, in runs/vqvae-digits-0
    python experiments/mdlm.py digits           # a prior over its 16 codes an image
    jaxgen sample runs/mdlm-digits-0 --cond 3 --run.model.guidance 2 --run.model.steps 16
    python experiments/mdlm.py shakespeare_char_cpu --data.source tinyshakespeare.txt
    jaxgen sample runs/mdlm-shakespeare_char_cpu-0 --prompt "ROMEO:" --tokens 500

shakespeare_char_cpu has the sizes of the preset of gpt.py and its data: nats_per_token, a bound here, stands beside
GPT's. Half of the tokens of a batch are predicted where GPT predicts all, so that it needs more steps; at GPT's rate of
3e-3 it stays at the frequencies of characters. Of another first stage: --codec.run RUN, with --model.network.vocab and
--model.network.window as many codes and places as it has. shakespeare_char_cpu takes 27 minutes of
one core (docs/studies.md). CPU minutes (docs/presets.md): digits 4. Not yet run to the end: shakespeare_char.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Digits, Text
from jaxgen.experiment import Experiment
from jaxgen.models.maskgit import MaskedTransformer
from jaxgen.models.mdlm import MDLM
from jaxgen.nets.transformer import Transformer
from jaxgen.ops.decoding import Decoding
from jaxgen.optim import Adam
from jaxgen.runs.pretrained import Pretrained

PRESETS = {
    "smoke": Experiment(
        model=MDLM(
            network=MaskedTransformer(vocab=16, window=4, body=Transformer(width=16, depth=2, heads=2)),
            num_classes=10, class_dropout=0.2, guidance=1.5, steps=4, times=2, optimizer=Adam(lr=1e-2),
        ),
        codec=Pretrained(run="runs/vqvae-smoke-0"), data=Digits(), batch_size=16, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=20,
    ),
    "digits": Experiment(
        model=MDLM(
            network=MaskedTransformer(
                vocab=32, window=16, body=Transformer(width=64, depth=3, heads=4, dropout=0.1)
            ),
            num_classes=10, class_dropout=0.1, steps=16, times=2, ema_decay=0.999,
            optimizer=Adam(lr=2e-3, warmup=100, decay_steps=4000, weight_decay=0.1, clip=1.0),
        ),
        codec=Pretrained(run="runs/vqvae-digits-0"), data=Digits(), batch_size=64, steps=4000, sample_every=1000,
        save_every=500, num_samples=80, best="test/nats_per_token",
    ),
    # The sizes of gpt.py's preset, one token more in the window: the first, which is given.
    "shakespeare_char_cpu": Experiment(
        model=MDLM(
            network=MaskedTransformer(vocab=65, window=65, body=Transformer(width=128, depth=4, heads=4, bias=False)),
            given=1, times=2, steps=64, decoding=Decoding(tokens=500, temperature=0.8), ema_decay=0.999,
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=6000, final=0.1),
        ),
        codec=Identity(), data=Text(source="tiny_shakespeare"), batch_size=24, steps=6000, steps_per_call=50,
        log_every=50, sample_every=1000, save_every=500, num_samples=4, best="test/nats_per_token",
    ),
    "shakespeare_char": Experiment(
        model=MDLM(
            network=MaskedTransformer(
                vocab=65, window=257, body=Transformer(width=384, depth=6, heads=6, bias=False, dropout=0.2)
            ),
            given=1, steps=256, block=32, decoding=Decoding(tokens=500, temperature=0.8), ema_decay=0.9999,
            optimizer=Adam(lr=1e-3, b2=0.99, weight_decay=0.1, clip=1.0, warmup=100, decay_steps=20_000, final=0.1),
        ),
        codec=Identity(), data=Text(source="tiny_shakespeare", block=256), batch_size=64, steps=20_000,
        steps_per_call=50, log_every=50, sample_every=1000, save_every=500, num_samples=4, best="test/nats_per_token",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
