"""Radiance field on a multi-resolution hash grid with an occupancy grid (Instant-NGP, arXiv:2201.05989), in plain XLA.

    python experiments/ngp.py analytic
    python experiments/ngp.py lego_small --data.folder DIR             # Blender's layout, 100 x 100 pixels
    python experiments/ngp.py blender --data.folder DIR
    jaxgen render runs/ngp-analytic-0 --turntable 60 --lattice 192

lego_small takes 7 minutes of one core and comes to 32.0 dB over the 12 held-out views, analytic 4 minutes and 30.3 dB,
its depths 0.9 % off. CPU minutes (docs/presets.md): demo 0.6. Not yet run to the end: blender. The paper: 36.39 dB on
Lego at 800 px.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Pixels
from jaxgen.data import AnalyticScene, SceneFolder
from jaxgen.experiment import Experiment
from jaxgen.models.nerf import NeRF
from jaxgen.nets.hashgrid import HashField, HashGrid
from jaxgen.ops.occupancy import Occupancy
from jaxgen.optim import Adam

UNIT = Pixels(low=0.0, high=1.0)
EPS = 1e-15  # features that few rays see have tiny gradients: Adam is to scale them all the same

ANALYTIC = {
    "network": HashField(HashGrid(levels=6, log2_table=15, coarsest=8, finest=96), width=32),
    "coarse": 96, "fine": 0, "bound": 1.0,
    "occupancy": Occupancy(resolution=48, budget=16, cells=6912), "random_background": True,
}  # fmt: skip

PRESETS = {
    "smoke": Experiment(
        model=NeRF(
            network=HashField(HashGrid(levels=4, log2_table=8, coarsest=4, finest=16), width=16, hidden=8), coarse=16,
            fine=0, bound=1.0, occupancy=Occupancy(resolution=8, budget=8, cells=64, every=2, warmup=4), chunk=128,
            optimizer=Adam(lr=1e-2, eps=EPS), ema_decay=0.9,
        ),
        codec=UNIT, data=AnalyticScene(size=16, train_views=8, test_views=2, samples=1), batch_size=64, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=256,
    ),
    "analytic": Experiment(
        model=NeRF(**ANALYTIC, optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=3000, final=0.05)),
        codec=UNIT, data=AnalyticScene(), batch_size=1024, steps=3000, log_every=50, save_every=250, sample_every=500,
        num_samples=2 * 64 * 64, best="test/mse",
    ),
    # `make demo`: a minute of two cores.
    "demo": Experiment(
        model=NeRF(**ANALYTIC, optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=1000, final=0.05)),
        codec=UNIT, data=AnalyticScene(), batch_size=1024, steps=1000, steps_per_call=25, log_every=50, save_every=500,
        sample_every=250, num_samples=4 * 64 * 64,
    ),
    # Pictures of 100 pixels show cells of a hundredth of the scene at best: finer levels would learn noise.
    "lego_small": Experiment(
        model=NeRF(
            network=HashField(HashGrid(levels=6, log2_table=16, coarsest=12, finest=128), width=64), coarse=128, fine=0,
            bound=1.2, occupancy=Occupancy(resolution=64, budget=16), random_background=True,
            optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=4000, final=0.05),
        ),
        codec=UNIT, data=SceneFolder(), batch_size=1024, steps=4000, log_every=50, save_every=250, sample_every=1000,
        num_samples=100 * 100, best="test/mse",
    ),
    # The paper's grid; 1,024 places along a ray, of which those in occupied cells are computed.
    "blender": Experiment(
        model=NeRF(
            network=HashField(), coarse=1024, fine=0, chunk=1024,
            occupancy=Occupancy(resolution=128, budget=32, cells=1 << 17, every=16), random_background=True,
            optimizer=Adam(lr=1e-2, eps=EPS, decay_steps=30_000, final=0.03),
        ),
        codec=UNIT, data=SceneFolder(), batch_size=8192, steps=30_000, steps_per_call=100, log_every=500,
        save_every=5000, sample_every=5000, num_samples=800 * 800, preload=4 << 30,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
