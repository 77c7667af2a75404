"""HiFi-GAN (arXiv:2010.05646): waveforms of mels, by critics of periods and scales. Speech needs the extra `speech`.

    python experiments/hifigan.py toy                                   # letters spelled in tones, without any package
    python experiments/hifigan.py spoken                                # speech of eSpeak NG, made from embedded texts
    python experiments/hifigan.py ljspeech --data.data.folder LJSpeech-1.1
    jaxgen weights export-hifigan runs/hifigan-spoken-0 FOLDER

spoken: a generator of 0.4 M parameters and narrow critics, sized for an hour of two cores. ljspeech, v2, v3: the
published settings of V1, V2 and V3, batches of 16 segments of 8,192 samples, 2.5 M steps. CPU minutes
(docs/presets.md): toy 5. Not yet run: spoken, ljspeech, v2, v3.
"""

from dataclasses import replace

from jaxgen.cli.train import main
from jaxgen.codecs import Identity
from jaxgen.data import Sounds, SpeechFolder, Spoken, Tones
from jaxgen.experiment import Experiment
from jaxgen.models.hifigan import HiFiGAN
from jaxgen.nets.hifigan import V1, V2, V3, Generator, WaveCritic
from jaxgen.ops.audio import Mel
from jaxgen.optim import Adam

TINY = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=2000.0)
NARROW = WaveCritic(
    period_widths=(8, 16, 32, 64), scale_widths=(16, 32, 64, 64), scale_sizes=(15, 41, 41, 5),
    scale_strides=(1, 4, 4, 1), scale_groups=(1, 1, 1, 1),
)  # fmt: skip
LJSPEECH = Experiment(
    model=HiFiGAN(generator=V1), codec=Identity(), data=Sounds(data=SpeechFolder(), peak=0.95), batch_size=16,
    steps=2_500_000, steps_per_call=10, log_every=100, save_every=5000, sample_every=50_000, num_samples=8,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=HiFiGAN(
            generator=Generator(
                bands=8, channels=8, rates=(4, 4), up_sizes=(8, 8), sizes=(3, 5), dilations=((1,), (3,)), twice=False,
            ),
            critic=WaveCritic(
                periods=(3,), period_widths=(4,), scales=2, scale_widths=(4, 8), scale_sizes=(5, 9),
                scale_strides=(1, 4), scale_groups=(1, 2),
            ),
            mel=TINY, segment=256,
            optimizer=Adam(lr=2e-3, b1=0.8, b2=0.99), critic_optimizer=Adam(lr=2e-3, b1=0.8, b2=0.99),
        ),
        codec=Identity(), data=Sounds(data=Tones(mel=TINY, num=200), samples=512), batch_size=8, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=4,
    ),
    # Letters spelled in tones, without eSpeak NG.
    "toy": Experiment(
        model=HiFiGAN(
            generator=replace(V3, channels=32), segment=4096,
            critic=WaveCritic(
                periods=(2, 3, 5), period_widths=(4, 8, 16), scales=2, scale_widths=(8, 16, 16),
                scale_sizes=(15, 21, 5), scale_strides=(1, 4, 1), scale_groups=(1, 1, 1),
            ),
            optimizer=Adam(lr=1e-3, b1=0.8, b2=0.99, warmup=50, decay_steps=5000, final=0.1),
            critic_optimizer=Adam(lr=1e-3, b1=0.8, b2=0.99, warmup=50, decay_steps=5000, final=0.1),
        ),
        codec=Identity(), data=Sounds(data=Tones(), samples=8192), batch_size=4, steps=5000, steps_per_call=5,
        log_every=20, save_every=100, sample_every=500, num_samples=4,
    ),
    "spoken": Experiment(
        model=HiFiGAN(
            generator=replace(V3, channels=128), critic=NARROW,
            optimizer=Adam(lr=5e-4, b1=0.8, b2=0.99, warmup=100, decay_steps=6000, final=0.1),
            critic_optimizer=Adam(lr=5e-4, b1=0.8, b2=0.99, warmup=100, decay_steps=6000, final=0.1),
        ),
        codec=Identity(), data=Sounds(data=Spoken()), batch_size=4, steps=6000, steps_per_call=1, log_every=20,
        save_every=100, sample_every=500, num_samples=8,
    ),
    "ljspeech": LJSPEECH,
    "v2": replace(LJSPEECH, model=HiFiGAN(generator=V2)),
    "v3": replace(LJSPEECH, model=HiFiGAN(generator=V3)),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
