"""WaveNet (arXiv:1609.03499): sound sample by sample, of a mel as a vocoder, or of a class.

    python experiments/wavenet.py toy                                   # letters spelled in tones, without any package
    python experiments/wavenet.py notes                                 # notes by their pitch, without any package
    python experiments/wavenet.py digits                                # spoken digits by class; the extra `speech`
    python experiments/wavenet.py spoken                                # a vocoder of eSpeak NG's speech
    python experiments/wavenet.py ljspeech --data.data.folder LJSpeech-1.1
    jaxgen sample runs/wavenet-digits-0 --num 10 --run.model.temperature 0.9

toy and notes are sized for ten minutes of a core, spoken for twenty. mixture is toy by a mixture of logistics in the
place of the softmax over mu-law levels. ljspeech: 30 layers, softmax over 256 levels. CPU minutes (docs/presets.md):
mixture 3, toy 3, digits 7. Not yet run to the end: prompts, ljspeech.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Notes, Sounds, SpeechFolder, Spoken, SpokenWords, Tones
from jaxgen.experiment import Experiment
from jaxgen.models.wavenet import WaveNet, WaveNetVocoder
from jaxgen.nets.wavenet import WaveNetNet
from jaxgen.ops.audio import Mel
from jaxgen.ops.wave_outputs import Logistics, MuLaw
from jaxgen.optim import Adam

TINY = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=2000.0)
EIGHT = Mel(rate=8000, n_fft=512, hop=128, window=512, bands=40, high=4000.0)
"""Of sound of 8,000 samples a second."""
SMALL = WaveNetNet(width=32, skip=64, layers=9, cycle=9)
"""A field of 512 samples."""


def adam(steps: int) -> Adam:
    return Adam(lr=2e-3, warmup=50, decay_steps=steps, final=0.05, clip=1.0)


TOY = Experiment(
    model=WaveNetVocoder(network=SMALL, segment=4096, optimizer=adam(1500)),
    codec=Identity(), data=Sounds(data=Tones(), samples=8192), batch_size=4, steps=1500, steps_per_call=10,
    log_every=20, save_every=100, sample_every=500, num_samples=4,
)  # fmt: skip
SPOKEN = Experiment(
    model=WaveNetVocoder(network=WaveNetNet(width=32, skip=64, layers=10), segment=8192, optimizer=adam(3000)),
    codec=Identity(), data=Sounds(data=Spoken()), batch_size=2, steps=3000, steps_per_call=10, log_every=20,
    save_every=100, sample_every=1000, num_samples=4,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=WaveNetVocoder(
            network=WaveNetNet(width=8, skip=8, layers=4, cycle=3, rates=(4, 4)), output=MuLaw(32), mel=TINY,
            segment=128, optimizer=Adam(lr=1e-2),
        ),
        codec=Identity(), data=Sounds(data=Tones(mel=TINY, num=200), samples=256), batch_size=8, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=4,
    ),
    # Letters spelled in tones, without eSpeak NG.
    "toy": TOY,
    "mixture": replace(TOY, model=replace(TOY.model, output=Logistics(5))),
    "notes": Experiment(
        model=WaveNet(network=SMALL, shape=(4096,), num_classes=8, mel=EIGHT, optimizer=adam(2000)),
        codec=Identity(), data=Notes(), batch_size=4, steps=2000, steps_per_call=10, log_every=20, save_every=100,
        sample_every=500, num_samples=8,
    ),
    "digits": Experiment(
        model=WaveNet(
            network=WaveNetNet(width=48, skip=96, layers=18, cycle=9), shape=(6144,), num_classes=10, mel=EIGHT,
            optimizer=adam(800),
        ),
        codec=Identity(), data=SpokenWords(), batch_size=4, steps=800, steps_per_call=10, log_every=20,
        save_every=100, sample_every=400, num_samples=10,
    ),
    "spoken": SPOKEN,
    # Clips of a reader, from the run of `spoken`.
    "prompts": replace(
        SPOKEN, data=Sounds(data=SpeechFolder()), init="runs/wavenet-spoken-0", steps=600,
        model=replace(SPOKEN.model, optimizer=adam(600)),
    ),
    "ljspeech": Experiment(
        model=WaveNetVocoder(
            network=WaveNetNet(width=64, skip=256), segment=16_384, ema_decay=0.9999,
            optimizer=Adam(lr=1e-3, half_life=200_000, clip=1.0),
        ),
        codec=Identity(), data=Sounds(data=SpeechFolder()), batch_size=8, steps=1_000_000, steps_per_call=10,
        log_every=100, save_every=5000, sample_every=50_000, num_samples=4,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
