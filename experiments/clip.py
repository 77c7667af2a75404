"""CLIP (arXiv:2103.00020): pictures and captions in one space. `jaxgen evaluate` gives R@1, 5 and 10 both ways, and
zero-shot classes.

    python experiments/clip.py emoji                                # ten minutes on two cores
    python experiments/clip.py emoji --model.objective sigmoid --model.network.scale 2.3026 --model.network.bias -10
    python experiments/clip.py folder --images DIR
    python experiments/clip.py vit_b32 --data.data.folder DIR --data.vocabulary FOLDER --mesh data=8

Not yet run: folder, vit_b32 (the published setting, whose 400 million pairs are not public). The folders have
captions, CLIP's vocab.json and merges.txt are in FOLDER.
"""

from jaxgen.cli.train import main
from jaxgen.data import Captioned, Emoji, ImageFolder
from jaxgen.experiment import Experiment
from jaxgen.models.clip import CLIP
from jaxgen.nets.clip import CLIPNetwork, ImageTower, TextTower, tower
from jaxgen.optim import Adam

PRESETS = {
    "smoke": Experiment(
        model=CLIP(
            # eps as published: a key's bias has no gradient but rounding, of which 1e-8 makes whole steps.
            shape=(16, 16, 3), ascent_steps=4, optimizer=Adam(lr=3e-3, eps=1e-6),
            network=CLIPNetwork(
                image=ImageTower(patch=8, body=tower(16, 1, 2)),
                text=TextTower(vocab=258, window=12, body=tower(16, 1, 2, causal=True)), dim=16,
            ),
        ),
        data=Captioned(data=Emoji(size=16), tokenizer="bytes", window=12), batch_size=16, steps=20, steps_per_call=5,
        log_every=10, save_every=10, sample_every=10, num_samples=8,
    ),
    "emoji": Experiment(
        model=CLIP(
            shape=(32, 32, 3), ema_decay=0.99,
            optimizer=Adam(lr=1e-3, b2=0.98, warmup=100, decay_steps=1000, clip=1.0, weight_decay=0.1),
            network=CLIPNetwork(
                image=ImageTower(patch=8, body=tower(128, 4, 4).clone(dropout=0.1)),
                text=TextTower(vocab=1024, window=16, body=tower(128, 2, 4, causal=True).clone(dropout=0.1)), dim=128,
            ),
        ),
        data=Captioned(data=Emoji(size=32, label="subgroup"), window=16, shift=3), batch_size=128, steps=1000,
        save_every=250, sample_every=1000,
    ),
    # A few thousand pictures of your own, larger and with longer captions than emoji's.
    "folder": Experiment(
        model=CLIP(
            shape=(64, 64, 3), ema_decay=0.99,
            optimizer=Adam(lr=5e-4, b2=0.98, warmup=200, decay_steps=5000, clip=1.0, weight_decay=0.1),
            network=CLIPNetwork(
                image=ImageTower(patch=8, body=tower(256, 6, 4).clone(dropout=0.1)),
                text=TextTower(vocab=4096, window=32, body=tower(256, 4, 4, causal=True).clone(dropout=0.1)), dim=256,
            ),
        ),
        data=Captioned(data=ImageFolder(size=64), vocab_size=4096, window=32, shift=6), batch_size=256, steps=5000,
        save_every=500, sample_every=5000,
    ),
    # Tables 18 and 19 of the paper; the largest batch on eight GPUs takes --remat.
    "vit_b32": Experiment(
        model=CLIP(
            optimizer=Adam(lr=5e-4, b2=0.98, eps=1e-6, warmup=2000, decay_steps=390_000, weight_decay=0.2),
            network=CLIPNetwork(image=ImageTower(), text=TextTower()),
        ),
        data=Captioned(data=ImageFolder(size=224, label="none"), window=77, template="a photo of a {}."),
        batch_size=32_768, steps=390_000, save_every=2000, sample_every=10_000, precision="bfloat16",
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
