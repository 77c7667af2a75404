"""EDM2 (arXiv:2312.02696): EDM with a network that keeps magnitudes, learnt noise weights, post-hoc EMA.

    python experiments/edm2.py digits
    python experiments/edm2.py mnist
    jaxgen ema runs/edm2-digits-0 --length 0.15                                 # another average, without training
    jaxgen ema runs/edm2-digits-0 --lengths 0.03,0.05,0.1,0.15,0.2 --evaluate   # which one is best
    jaxgen sample runs/edm2-digits-0 --guide-step 500 --guidance 2              # away from an earlier snapshot

The averages of docs/studies.md are of digits' first 750 steps. CPU minutes (docs/presets.md): digits 6, mnist 8. Not
yet run to the end: cifar10 (EDM's data and batches, not in the paper), imagenet64 (size S of the paper's table 6: 280 M
parameters, FID 1.58 at 63 evaluations).
"""

from jaxgen.cli.train import main
from jaxgen.data import TFDS, Digits
from jaxgen.experiment import Experiment
from jaxgen.models.edm import EDM
from jaxgen.nets.unet_mp import MPUNet, edm2_s
from jaxgen.ops.samplers import Heun
from jaxgen.optim import Adam

LENGTHS = (0.05, 0.1)

PRESETS = {
    "smoke": Experiment(
        model=EDM(
            shape=(8, 8, 1), network=MPUNet(8, (1, 2), 1, (4,), head_dim=8), sampler=Heun(steps=6, clip=0.0),
            num_classes=10, uncertainty=16, ema_lengths=LENGTHS, evaluate_times=4,
            optimizer=Adam(lr=0.01, b2=0.99, t_ref=10),
        ),
        data=Digits(), batch_size=16, steps=20, steps_per_call=5, log_every=10, save_every=10, snapshot_every=5,
        sample_every=10, num_samples=20,
    ),
    "digits": Experiment(
        model=EDM(
            shape=(8, 8, 1), network=MPUNet(32, (1, 2), 1, (4,), head_dim=32), num_classes=10, uncertainty=32,
            ema_lengths=LENGTHS, optimizer=Adam(lr=0.01, b2=0.99, warmup=100, t_ref=500),
        ),
        data=Digits(), batch_size=128, steps=2500, log_every=100, sample_every=500, save_every=500,
        snapshot_every=100, num_samples=80,
    ),
    "mnist": Experiment(
        model=EDM(
            shape=(28, 28, 1), network=MPUNet(32, (1, 2), 1, (7,), head_dim=32, patch=2), num_classes=10,
            uncertainty=64, ema_lengths=LENGTHS, optimizer=Adam(lr=0.01, b2=0.99, warmup=200, t_ref=1000),
        ),
        data=TFDS(name="mnist"), batch_size=64, steps=2500, steps_per_call=20, log_every=100, sample_every=1000,
        save_every=1000, snapshot_every=100, num_samples=80,
    ),
    "cifar10": Experiment(
        model=EDM(
            shape=(32, 32, 3), network=MPUNet(128, (2, 2, 2), 4, (16,), dropout=0.13), uncertainty=128,
            ema_lengths=LENGTHS, optimizer=Adam(lr=0.01, b2=0.99, warmup=19_500, t_ref=35_000),
        ),
        data=TFDS(name="cifar10"), batch_size=512, steps=390_600, steps_per_call=100, log_every=300,
        sample_every=9300, save_every=9300, snapshot_every=9300,
    ),
    # Table 6, size S in pixels: batch 2048, 1,074 M images, noise levels of table 6, a snapshot for each 8.4 M images.
    "imagenet64": Experiment(
        model=EDM(
            shape=(64, 64, 3), network=edm2_s(), num_classes=1000, log_sigma_mean=-0.8, log_sigma_std=1.6,
            uncertainty=128, ema_lengths=LENGTHS, sampler=Heun(steps=32, clip=0.0),
            optimizer=Adam(lr=0.01, b2=0.99, warmup=4900, t_ref=35_000),
        ),
        data=TFDS(name="imagenet_resized/64x64"), batch_size=2048, steps=524_800, steps_per_call=100, log_every=500,
        sample_every=10_000, save_every=4100, snapshot_every=4100, precision="bfloat16", remat=True,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
