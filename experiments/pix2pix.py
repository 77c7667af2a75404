"""Image-to-image translation by pix2pix (arXiv:1611.07004): line drawings to emoji, or your own pairs of pictures.

    python experiments/pix2pix.py emoji                           # edges to emoji at 32 px
    python experiments/pix2pix.py enlarging                       # digits of 4 x 4 pixels to 8 x 8
    python experiments/pix2pix.py folder --data.folder DIR        # pairs side by side, at 256 px as in the paper
    python experiments/pix2pix.py folder --data.folder SOURCES --data.targets TARGETS
    jaxgen sample runs/pix2pix-emoji-0 --image drawing.png        # of any size

emoji: 23 minutes of one core; PSNR 14.22 dB over 212 held-out emoji without dropout (--model.no-noise), seed 0, where
the training set's mean colour gives 10.66. Not yet run to the end: folder.
"""

from jaxgen.cli.train import main
from jaxgen.data import EmojiEdges, PairFolder, ShrunkPairs
from jaxgen.experiment import Experiment
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.nets.pix2pix import PatchCritic, UNetGenerator
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=Pix2Pix(
            generator=UNetGenerator(channels=(4, 8, 8), dropout_layers=1), critic=PatchCritic(channels=(4, 8)),
            optimizer=Adam(lr=2e-3, b1=0.5), mirror=True, jitter=1.125, ema_decay=0.99,
        ),
        data=EmojiEdges(size=16), batch_size=8, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=16,
    ),
    "emoji": Experiment(
        model=Pix2Pix(
            generator=UNetGenerator(channels=(32, 64, 128, 128), dropout_layers=1),
            critic=PatchCritic(channels=(32, 64, 128)), mirror=True, ema_decay=0.999,
        ),
        data=EmojiEdges(size=32), batch_size=16, steps=10_000, steps_per_call=10, log_every=50, save_every=1000,
        sample_every=1000,
    ),
    # A source has one target here, so that the sampler draws no noise.
    "enlarging": Experiment(
        model=Pix2Pix(
            channels=1, generator=UNetGenerator(channels=(64, 128), norm="batch", dropout_layers=0), noise=False,
            critic=PatchCritic(channels=(32, 64)), ema_decay=0.999,
        ),
        data=ShrunkPairs(), batch_size=64, steps=4000, log_every=100, save_every=1000, sample_every=1000,
    ),
    # Batches of one, 286 to 256 pixels, mirrored, 200 times through 400 pairs: facades' setting, section 6.2.
    "folder": Experiment(
        model=Pix2Pix(jitter=286 / 256, mirror=True), data=PairFolder(), batch_size=1, steps=80_000, log_every=100,
        save_every=4000, sample_every=4000, num_samples=16,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
