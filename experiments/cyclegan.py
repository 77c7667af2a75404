"""Translation between two sets of pictures without pairs, by CycleGAN (arXiv:1703.10593).

    python experiments/cyclegan.py mnist --data.sources.data-dir DIR    # MNIST's digits in the form of scikit-learn's
    python experiments/cyclegan.py emoji                                # smileys to animals, and back
    python experiments/cyclegan.py folder --data.sources.folder A --data.targets.folder B
    jaxgen sample runs/cyclegan-folder-0 --image picture.png

folder is the paper's setting at 256 px. mnist takes 10 minutes of one core, emoji 33, whose animals are blots of their
colours. Not yet run to the end: folder.
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits, Emoji, ImageFolder, Unpaired
from jaxgen.experiment import Experiment
from jaxgen.models.cyclegan import CycleGAN
from jaxgen.nets.cyclegan import BothWays, ResNetTranslator, TwoCritics
from jaxgen.nets.pix2pix import PatchCritic
from jaxgen.optim import Adam


def networks(width: int, blocks: int, halvings: int, critic: tuple[int, ...]) -> dict:
    translator = ResNetTranslator(width, blocks, halvings)
    judge = PatchCritic(critic, "instance")
    return {"generator": BothWays(translator, translator.clone()), "critic": TwoCritics(judge, judge.clone())}


PRESETS = {
    "smoke": Experiment(
        model=CycleGAN(**networks(4, 1, 1, (4,)), channels=1, history=24, identity_weight=1.0, ema_decay=0.99),
        data=Unpaired(targets=Digits(), sources=Emoji(size=16), size=8, channels=1), batch_size=8, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=16,
    ),
    "mnist": Experiment(
        model=CycleGAN(
            **networks(16, 3, 1, (32, 64)), channels=1, history=128, cycle_weight=20.0, identity_weight=4.0,
            ema_decay=0.999,
            optimizer=Adam(lr=5e-4, b1=0.5), critic_optimizer=Adam(lr=5e-4, b1=0.5),
        ),
        data=Unpaired(targets=Digits(), sources=TFDS(name="mnist"), size=8), batch_size=64, steps=4000,
        steps_per_call=20, log_every=100, save_every=1000, sample_every=1000,
    ),
    "emoji": Experiment(
        model=CycleGAN(**networks(24, 4, 2, (32, 64, 128)), identity_weight=5.0, mirror=True, ema_decay=0.999),
        data=Unpaired(
            targets=Emoji(size=32, groups=("Animals & Nature",)), sources=Emoji(size=32, groups=("Smileys & Emotion",))
        ),
        batch_size=8, steps=6000, steps_per_call=10, log_every=100, save_every=1000, sample_every=1000, num_samples=40,
    ),
    # Section 7: batches of one, 200 epochs of about a thousand pictures, the last half at a falling rate.
    "folder": Experiment(
        model=CycleGAN(
            mirror=True, optimizer=Adam(lr=2e-4, b1=0.5, decay_steps=200_000),
            critic_optimizer=Adam(lr=2e-4, b1=0.5, decay_steps=200_000),
        ),
        data=Unpaired(targets=ImageFolder(size=256), sources=ImageFolder(size=256)), batch_size=1, steps=200_000,
        steps_per_call=20, log_every=200, save_every=10_000, sample_every=10_000, num_samples=16,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
