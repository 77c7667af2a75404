"""The decoder of DALL-E 2 (arXiv:2204.06125, section 2.1): diffusion of pictures of a CLIP embedding.

    python experiments/clip.py emoji                 # runs/clip-emoji-0, whose embeddings are drawn from
    python experiments/clip_decoder.py emoji         # 16 pixels
    jaxgen sample runs/clip_prior-emoji-0 --prompt "red apple" --cascade runs/clip_decoder-emoji-0
    jaxgen sample runs/clip_prior-emoji-0 --prompt "red apple" --cascade runs/clip_decoder-emoji-0 --cascade \\
        runs/cascade-emoji-0                         # enlarged as well

`jaxgen sample RUN` draws variations of held-out pictures. CPU minutes (docs/presets.md): emoji 7.
"""

from jaxgen.cli.train import main
from jaxgen.data import Emoji, Mirrored
from jaxgen.experiment import Experiment
from jaxgen.inference.embedded import Embedded
from jaxgen.models.clip_decoder import CLIPDecoder
from jaxgen.nets.unet import UNet
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DPMSolverPP
from jaxgen.ops.schedules import Cosine
from jaxgen.optim import Adam

EMOJI = Experiment(
    model=CLIPDecoder(
        shape=(16, 16, 3), dim=128, tokens=4, network=UNet(32, (1, 2, 4), 1, (4,), head_dim=32, cross_attention=(4,)),
        schedule=Cosine(num_steps=1000), sampler=DPMSolverPP(steps=25), kind="v", min_snr=5.0, class_dropout=0.1,
        guidance=Guidance(scale=2.0), ema_decay=0.999,
        optimizer=Adam(lr=1e-3, warmup=200, decay_steps=2200, clip=1.0),
    ),
    data=Embedded(
        data=Mirrored(data=Emoji(size=32, label="none")), window=16, clip="runs/clip-emoji-0", form="pictures", size=16
    ),
    batch_size=32, steps=2200, steps_per_call=20, save_every=440, sample_every=1100,
)  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=CLIPDecoder(
            shape=(8, 8, 3), dim=16, tokens=2, network=UNet(8, (1, 2), 1, (), head_dim=8, cross_attention=(4,)),
            schedule=Cosine(num_steps=20), sampler=DPMSolverPP(steps=4), kind="v", min_snr=5.0, class_dropout=0.2,
            guidance=Guidance(scale=2.0), ema_decay=0.99, evaluate_times=4,
        ),
        data=Embedded(
            data=Emoji(size=16, label="none"), tokenizer="bytes", window=12, clip="runs/clip-smoke-0",
            form="pictures", size=8,
        ),
        batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    "emoji": EMOJI,
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
