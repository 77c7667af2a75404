"""Tacotron 2 (arXiv:1712.05884): text in, a voice out.

    python experiments/tacotron2.py letters     # speech made by eSpeak NG, with the extra `speech`
    python experiments/tacotron2.py spoken      # from that run
    python experiments/tacotron2.py prompts --data.folder DIR
    python experiments/tacotron2.py ljspeech --data.folder LJSpeech-1.1
    jaxgen speak runs/tacotron2-spoken-0 "A text that nobody has read." out.wav

letters takes 39 minutes of CPU time (2.6 M parameters, 3,000 steps of 24 clips) and spoken, from that run, 19 more. Of
100 held-out texts all end by themselves and attention never goes back nor skips, after either; the recogniser takes 76
% of the words of letters for others, 18 % of those of spoken, 8 % of true mels' by the Griffin-Lim algorithm and 7 % of
the true sound's. Given true frames, letters is understood nearly as these are: it follows frames, not its text, and
goes astray on its own ones. prompts takes 9 minutes from spoken: all of 37 held-out texts end in time, and 90 % of
their words are not understood, of the true sound 1 %. CPU minutes (docs/presets.md): toy 0.7. Not yet run to the end:
ljspeech.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import SpeechFolder, Spoken, Tones
from jaxgen.experiment import Experiment
from jaxgen.models.tacotron2 import Tacotron2
from jaxgen.nets.tacotron2 import Tacotron2Net
from jaxgen.optim import Adam

SMALL = Tacotron2Net(
    reduction=4, encoder=192, prenet=(128, 128), attention_rnn=256, attention=96, location_filters=16, location_size=17,
    decoder_rnn=256, postnet=128, postnet_layers=4, mean=-5.0, deviation=2.5, dropout=0.1, rnn_dropout=0.1,
)  # fmt: skip
"""2 M parameters, for two CPU cores."""

ADAM = Adam(eps=1e-6, warmup=50, final=0.05, weight_decay=1e-6, clip=1.0)
LETTERS = Tacotron2(
    network=SMALL, max_frames=480, stop_weight=4.0, guided=5.0, guided_width=0.2,
    optimizer=replace(ADAM, lr=2e-3, warmup=100, decay_steps=3000),
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=Tacotron2(
            network=Tacotron2Net(
                reduction=4, encoder=16, encoder_layers=1, prenet=(16, 16), attention_rnn=16, attention=8,
                location_filters=4, location_size=5, decoder_rnn=16, postnet=8, postnet_layers=2, mean=-5.0,
                deviation=2.5,
            ),
            max_frames=32, guided=1.0, optimizer=Adam(lr=1e-2, clip=1.0),
        ),
        codec=Identity(), data=Tones(num=300, longest=8, beat=3, frames=32), batch_size=8, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    # Letters spelled in tones, without eSpeak NG.
    "toy": Experiment(
        model=Tacotron2(
            network=SMALL.clone(
                encoder=64, prenet=(64, 64), attention_rnn=64, attention=32, decoder_rnn=64, postnet=64
            ),
            max_frames=128, stop_weight=4.0, guided=5.0, guided_width=0.2,
            optimizer=Adam(lr=3e-3, eps=1e-6, warmup=50, decay_steps=600, final=0.05, clip=1.0),
        ),
        codec=Identity(), data=Tones(frames=128), batch_size=16, steps=600, steps_per_call=5, log_every=20,
        save_every=100, sample_every=200, num_samples=16,
    ),
    # Letters, and true frames alone: attention is learnt and ends are, but spoken sounds are hardly.
    "letters": Experiment(
        model=LETTERS, codec=Identity(), data=Spoken(frames=128), batch_size=24, steps=3000, steps_per_call=1,
        log_every=20, save_every=100, sample_every=200, num_samples=16,
    ),
    # From there with phonemes, and its own frames.
    "spoken": Experiment(
        model=replace(LETTERS, own=0.8, optimizer=replace(ADAM, lr=2e-3, decay_steps=1200)),
        codec=Identity(), data=Spoken(frames=128, dictionary="cmu"), batch_size=24, steps=1000, steps_per_call=1,
        log_every=20, save_every=100, sample_every=200, num_samples=16, init="runs/tacotron2-letters-0",
    ),
    # Short clips of one reader in LJSpeech's layout, from there.
    "prompts": Experiment(
        model=replace(LETTERS, max_frames=640, own=0.7, optimizer=replace(ADAM, lr=1e-3, decay_steps=600)),
        codec=Identity(), data=SpeechFolder(frames=128, longest=6.0, dictionary="cmu"), batch_size=16, steps=600,
        steps_per_call=1, log_every=20, save_every=100, sample_every=250, num_samples=16,
        init="runs/tacotron2-spoken-0",
    ),
    "ljspeech": Experiment(
        model=Tacotron2(), codec=Identity(), data=SpeechFolder(frames=256), batch_size=64, steps=100_000,
        steps_per_call=1, log_every=100, save_every=1000, sample_every=1000, num_samples=16,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
