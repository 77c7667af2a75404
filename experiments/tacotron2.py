"""Tacotron 2 (arXiv:1712.05884): text in, a voice out.

    python experiments/tacotron2.py spoken      # speech made by eSpeak NG, with the extra `speech`
    python experiments/tacotron2.py prompts --data.folder DIR
    python experiments/tacotron2.py ljspeech --data.folder LJSpeech-1.1
    jaxgen speak runs/tacotron2-spoken-0 "A text that nobody has read." out.wav

spoken takes 39 minutes of CPU time (2.6 M parameters, 3,000 steps of 24 clips). Of 100 held-out texts all end by
themselves, after 0.88 to 1.15 of the reference's frames, and attention never goes back nor skips; the recogniser takes
76 % of their words for others, 8 % of true mels' by the Griffin-Lim algorithm and 7 % of the true sound's: spectra are
still too smooth. prompts, 500 steps of it from that run: all of 37 end, one of them too early or late, and 87 % of
words are not understood, of the true sound 1 %. Not yet
run to the end: toy, ljspeech.
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

SPOKEN = Tacotron2(
    network=SMALL, max_frames=480, stop_weight=4.0, guided=5.0, guided_width=0.2,
    optimizer=Adam(lr=2e-3, eps=1e-6, warmup=100, decay_steps=3000, final=0.05, weight_decay=1e-6, clip=1.0),
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
    "spoken": Experiment(
        model=SPOKEN, codec=Identity(), data=Spoken(frames=128), batch_size=24, steps=3000, steps_per_call=1,
        log_every=20, save_every=100, sample_every=200, num_samples=16,
    ),
    # Short clips of one reader in LJSpeech's layout, from the run of `spoken`.
    "prompts": Experiment(
        model=replace(
            SPOKEN, max_frames=640,
            optimizer=Adam(lr=5e-4, eps=1e-6, warmup=50, decay_steps=1500, final=0.05, weight_decay=1e-6, clip=1.0),
        ),
        codec=Identity(), data=SpeechFolder(frames=128, longest=6.0), batch_size=16, steps=1500, steps_per_call=1,
        log_every=20, save_every=100, sample_every=250, num_samples=16, init="runs/tacotron2-spoken-0",
    ),
    "ljspeech": Experiment(
        model=Tacotron2(), codec=Identity(), data=SpeechFolder(frames=256), batch_size=64, steps=100_000,
        steps_per_call=1, log_every=100, save_every=1000, sample_every=1000, num_samples=16,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
