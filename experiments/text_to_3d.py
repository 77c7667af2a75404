"""Text to 3-D: a radiance field taught by a CLIP, or by a text-to-image diffusion model, to look like a prompt.

    python experiments/clip.py emoji                                          # the teacher, once
    python experiments/text_to_3d.py emoji --codec.prompt "tomato" --out runs/tomato
    jaxgen render runs/tomato --turntable 60 --size 128
    python experiments/cascade.py base                                        # another teacher
    python experiments/text_to_3d.py emoji_sds --codec.prompt "tomato" --out runs/tomato-sds

emoji, two minutes of one core, is taught by CLIP (Dream Fields, arXiv:2112.01455), emoji_sds by score distillation
(DreamFusion, arXiv:2209.14988) from a text-to-image run: by default that of experiments/cascade.py base, of 16 pixels.
A small CLIP knows few names: those of the emoji that it has seen. Of eight prompts another CLIP knows seven; a person
sees colours, and few shapes. Of emoji_sds it knows three, and two vanish. For a GPU, not run here: dream_fields (with
the published CLIP).
"""

from jaxgen.cli.train import main
from jaxgen.data import Cameras
from jaxgen.experiment import Experiment
from jaxgen.models.nerf import NeRF
from jaxgen.models.text_to_3d import TextTo3D
from jaxgen.nets.hashgrid import HashField, HashGrid
from jaxgen.nets.nerf import NeRFMLP
from jaxgen.ops.backgrounds import Backgrounds
from jaxgen.ops.cutouts import Cutouts
from jaxgen.ops.distillation import Distillation, Transmittance
from jaxgen.optim import Adam
from jaxgen.runs.prompted import Prompted

EPS = 1e-15  # features that few rays see have tiny gradients: Adam is to scale them all the same
SMALL = HashField(HashGrid(levels=4, log2_table=15, coarsest=6, finest=30), width=32, view_dependent=False)

PRESETS = {
    "smoke": Experiment(
        model=TextTo3D(
            shape=(8, 8, 3), cutouts=Cutouts(num=2),
            scene=NeRF(
                network=HashField(
                    HashGrid(levels=2, log2_table=8, coarsest=4, finest=8), width=8, hidden=8, view_dependent=False
                ),
                coarse=6, fine=0, bound=1.5,
            ),
            transmittance=Transmittance(anneal=20), optimizer=Adam(lr=1e-2, eps=EPS), ema_decay=0.9,
        ),
        codec=Prompted(run="runs/clip-smoke-0", prompt="tomato"), data=Cameras(size=8, train_views=64),
        batch_size=6, steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=4,
    ),
    "emoji": Experiment(
        model=TextTo3D(
            shape=(32, 32, 3), scene=NeRF(network=SMALL, coarse=24, fine=0, bound=1.5, distortion_weight=0.05),
            transmittance=Transmittance(target=0.6, start=0.4, anneal=300), backgrounds=Backgrounds(plain=0.3),
            cutouts=Cutouts(num=6, smallest=0.7, colour=0.1, noise=0.05),
            optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=2000, final=0.1), ema_decay=0.95,
        ),
        codec=Prompted(run="runs/clip-emoji-0", prompt="tomato"), data=Cameras(size=32), batch_size=6, steps=800,
        steps_per_call=20, log_every=100, save_every=400, sample_every=400, num_samples=8,
    ),
    # Views of the 16 pixels that the teacher draws, on the white that pictures of emoji are on.
    "emoji_sds": Experiment(
        model=TextTo3D(
            shape=(16, 16, 3), scene=NeRF(network=SMALL, coarse=32, fine=0, bound=1.5),
            transmittance=Transmittance(target=0.6, start=0.4, anneal=200), backgrounds=Backgrounds(plain=1.0),
            distillation=Distillation(scale=10.0),
            optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=600, final=0.1), ema_decay=0.95,
        ),
        codec=Prompted(run="runs/cascade-base-0", prompt="tomato"), data=Cameras(size=16), batch_size=8, steps=600,
        steps_per_call=20, log_every=20, save_every=200, sample_every=200, num_samples=8,
    ),
    # Section 4 of the first paper: ViT-B/16 by `jaxgen weights import-clip`, 10,000 steps, a held-out view from 45
    # degrees.
    "dream_fields": Experiment(
        model=TextTo3D(
            shape=(168, 168, 3), cutouts=Cutouts(num=8, smallest=0.9, flip=False, colour=0.0, noise=0.0),
            scene=NeRF(
                network=NeRFMLP(depth=8, width=256, position_frequencies=8, view_dependent=False), cone=True,
                coarse=192, fine=0, bound=2.0,
            ),
            optimizer=Adam(lr=1e-4, eps=1e-5, warmup=1500), accumulate=8, follow=0.999,
        ),
        codec=Prompted(run="runs/clip-vit-b16", prompt="a robotic dog. a robot in the shape of a dog"),
        data=Cameras(size=168, elevation=(30.0, 30.0), angle=45.2), batch_size=8, steps=10_000, steps_per_call=50,
        log_every=100, save_every=1000, sample_every=1000, num_samples=8, remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
