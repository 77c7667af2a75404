"""DiffWave (arXiv:2009.09761): sound by diffusion, of a mel as a vocoder, or of a class.

    python experiments/diffwave.py toy                                  # letters spelled in tones, without any package
    python experiments/diffwave.py notes                                # notes by their pitch, without any package
    python experiments/diffwave.py digits                               # spoken digits by class; the extra `speech`
    python experiments/diffwave.py spoken                               # a vocoder of eSpeak NG's speech
    python experiments/diffwave.py ljspeech --data.data.folder LJSpeech-1.1
    jaxgen sample runs/diffwave-digits-0 --num 10 --run.model.sampler.steps 20

toy and notes are sized for ten minutes of a core, spoken for twenty. ljspeech and large: BASE and
LARGE of the paper, batches of 16 segments of 62 frames, a million steps. CPU minutes (docs/presets.md): digits 15. Not
yet run to the end: prompts, ljspeech, large.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Notes, Sounds, SpeechFolder, Spoken, SpokenWords, Tones
from jaxgen.experiment import Experiment
from jaxgen.models.diffwave import FIFTY, DiffWave, DiffWaveVocoder
from jaxgen.nets.diffwave import DiffWaveNet
from jaxgen.ops.audio import Mel
from jaxgen.ops.schedules import Linear
from jaxgen.optim import Adam

TINY = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=2000.0)
EIGHT = Mel(rate=8000, n_fft=512, hop=128, window=512, bands=40, high=4000.0)
"""Of sound of 8,000 samples a second."""
TWO_HUNDRED = Linear(num_steps=200, beta_start=1e-4 / 5, beta_end=0.02 / 5)
"""Of LARGE, and of sound without mels: beta from 1e-4 to 0.02 in 200 steps."""
SMALL = DiffWaveNet(width=32, layers=9, cycle=9, hidden=128)


def adam(steps: int) -> Adam:
    return Adam(lr=1e-3, warmup=50, decay_steps=steps, final=0.05, clip=1.0)


SPOKEN = Experiment(
    model=DiffWaveVocoder(network=DiffWaveNet(width=32, layers=10, hidden=128), segment=8192, shape=(16_384,),
                          optimizer=adam(3000)),
    codec=Identity(), data=Sounds(data=Spoken()), batch_size=2, steps=3000, steps_per_call=10, log_every=20,
    save_every=100, sample_every=1000, num_samples=4,
)  # fmt: skip
LJSPEECH = Experiment(
    model=DiffWaveVocoder(
        segment=62 * 256, shape=(16_384,), ema_decay=0.9999, optimizer=Adam(lr=2e-4),
    ),
    codec=Identity(), data=Sounds(data=SpeechFolder()), batch_size=16, steps=1_000_000, steps_per_call=10,
    log_every=100, save_every=5000, sample_every=50_000, num_samples=8,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=DiffWaveVocoder(
            network=DiffWaveNet(width=8, layers=4, cycle=3, hidden=16, rates=(4, 4)), mel=TINY, segment=128,
            shape=(256,), schedule=replace(FIFTY, num_steps=10), optimizer=Adam(lr=1e-2), evaluate_times=4,
        ),
        codec=Identity(), data=Sounds(data=Tones(mel=TINY, num=200), samples=256), batch_size=8, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=4,
    ),
    # Letters spelled in tones, without eSpeak NG.
    "toy": Experiment(
        model=DiffWaveVocoder(network=SMALL, segment=4096, shape=(8192,), optimizer=adam(2000)),
        codec=Identity(), data=Sounds(data=Tones(), samples=8192), batch_size=4, steps=2000, steps_per_call=10,
        log_every=20, save_every=100, sample_every=500, num_samples=4,
    ),
    "notes": Experiment(
        model=DiffWave(
            network=DiffWaveNet(width=32, layers=10, hidden=128), shape=(4096,), num_classes=8, mel=EIGHT,
            schedule=TWO_HUNDRED, optimizer=adam(2000),
        ),
        codec=Identity(), data=Notes(), batch_size=4, steps=2000, steps_per_call=10, log_every=20, save_every=100,
        sample_every=500, num_samples=8,
    ),
    "digits": Experiment(
        model=DiffWave(
            network=DiffWaveNet(width=48, layers=18, cycle=9, hidden=256), shape=(6144,), num_classes=10, mel=EIGHT,
            schedule=TWO_HUNDRED, optimizer=adam(800),
        ),
        codec=Identity(), data=SpokenWords(), batch_size=4, steps=800, steps_per_call=10, log_every=20,
        save_every=100, sample_every=400, num_samples=10,
    ),
    "spoken": SPOKEN,
    # Clips of a reader, from the run of `spoken`.
    "prompts": replace(
        SPOKEN, data=Sounds(data=SpeechFolder()), init="runs/diffwave-spoken-0", steps=600,
        model=replace(SPOKEN.model, optimizer=adam(600)),
    ),
    "ljspeech": LJSPEECH,
    "large": replace(
        LJSPEECH, model=replace(LJSPEECH.model, network=DiffWaveNet(width=128), schedule=TWO_HUNDRED),
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
