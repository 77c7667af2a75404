"""The document's vision transformer as a generator: patches, blocks, a convolutional decoder, an image of equal size.

    python experiments/vit_generator.py emoji                       # edges to emoji at 32 px
    python experiments/vit_generator.py folder --data.folder DIR    # pairs side by side, at 256 px
    jaxgen sample runs/vit_generator-emoji-0 --image drawing.png    # of any size

From image to image, so it is trained as pix2pix's generator is, in the place of the U-Net; as an autoencoder of codes
it is vit_vqgan.py. CPU minutes (docs/presets.md): emoji 11. Not yet run to the end: folder.
"""

from jaxgen.cli.train import main
from jaxgen.data import EmojiEdges, PairFolder
from jaxgen.experiment import Experiment
from jaxgen.models.pix2pix import Pix2Pix
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.vit import ViTGenerator
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=Pix2Pix(
            generator=ViTGenerator(patch=4, body=Transformer(width=16, depth=2, heads=2), channels=(8,)),
            critic=PatchCritic(channels=(4, 8)), optimizer=Adam(lr=2e-3, b1=0.5), mirror=True, ema_decay=0.99,
        ),
        data=EmojiEdges(size=16), batch_size=8, steps=20, steps_per_call=5, log_every=10, save_every=10,
        sample_every=10, num_samples=16,
    ),
    "emoji": Experiment(
        model=Pix2Pix(
            generator=ViTGenerator(
                patch=4, body=Transformer(width=128, depth=4, heads=4), channels=(64,), dropout=0.1
            ),
            critic=PatchCritic(channels=(32, 64, 128)), mirror=True, ema_decay=0.999,
            optimizer=Adam(lr=5e-4, b1=0.5, warmup=200),
        ),
        data=EmojiEdges(size=32), batch_size=16, steps=5000, steps_per_call=10, log_every=50, save_every=1000,
        sample_every=1000,
    ),
    # The sketch's sizes: patches of 16, 12 blocks of 768, post-norm. Its five doublings made 512 pixels of 256.
    "folder": Experiment(
        model=Pix2Pix(
            generator=ViTGenerator(
                patch=16, body=Transformer(width=768, depth=12, heads=12, pre_norm=False, final_norm=False),
                channels=(512, 256, 128),
            ),
            jitter=286 / 256, mirror=True, optimizer=Adam(lr=2e-4, b1=0.5, warmup=1000),
        ),
        data=PairFolder(), batch_size=8, steps=40_000, log_every=100, save_every=4000, sample_every=4000,
        num_samples=16,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
