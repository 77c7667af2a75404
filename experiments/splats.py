"""3-D Gaussian splatting (arXiv:2308.04079) of posed pictures of one scene.

    python experiments/splats.py analytic                                      # solids in closed form, nothing is read
    python experiments/splats.py lego_small --data.scene.folder DIR            # Blender's layout, 100 x 100 pixels
    python experiments/splats.py blender --data.scene.folder DIR --data.scene.downscale 2 --model.shape 400 400 3
    python experiments/splats.py colmap --data.scene.folder DIR --model.shape H W 3
    jaxgen render runs/splats-analytic-0 --turntable 60
    jaxgen weights export-ply runs/splats-analytic-0 scene.ply                 # for viewers of splats

Not yet run to the end: blender, colmap. The paper: 35.78 dB on Lego at 800 px after 30,000 steps.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Pixels
from jaxgen.data import AnalyticScene, SceneFolder, WholeViews
from jaxgen.experiment import Experiment
from jaxgen.models.splats import SplatAdam, Splats
from jaxgen.ops.densification import Densification

UNIT = Pixels(low=0.0, high=1.0)

PRESETS = {
    "smoke": Experiment(
        model=Splats(
            shape=(16, 16, 3), capacity=128, initial=64, degree=1, degree_every=2, pairs=1024, random_background=True,
            optimizer=SplatAdam(lr=2e-3, scale=2e-2, rotation=1e-2, colour=2e-2),
            densification=Densification(every=5, start=5, stop=16, gradient=1e-5, reset_every=10),
        ),
        codec=UNIT, data=WholeViews(scene=AnalyticScene(size=16, train_views=8, test_views=5, samples=1)), batch_size=5,
        steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=4,
    ),
    "analytic": Experiment(
        model=Splats(
            shape=(64, 64, 3), capacity=6144, initial=2048, degree_every=300, pairs=1 << 15, random_background=True,
            optimizer=SplatAdam(decay_steps=4000, final=0.01),
            densification=Densification(start=200, stop=2500, reset_every=0),
        ),
        codec=UNIT, data=WholeViews(), batch_size=1, steps=4000, log_every=50, save_every=500, sample_every=1000,
        num_samples=6, best="test/mse",
    ),
    # Among opaque surfaces in front of random backgrounds nothing floats that a reset of opacities would remove.
    "lego_small": Experiment(
        model=Splats(
            shape=(100, 100, 3), capacity=12_288, initial=4096, bound=1.2, degree_every=500, pairs=40_960,
            random_background=True, optimizer=SplatAdam(decay_steps=6000, final=0.01),
            densification=Densification(start=200, stop=4000, reset_every=0),
        ),
        codec=UNIT, data=WholeViews(scene=SceneFolder()), batch_size=1, steps=6000, log_every=50, save_every=500,
        sample_every=2000, num_samples=12, best="test/mse",
    ),
    # The paper's settings, but for the number of slots.
    "blender": Experiment(
        model=Splats(
            shape=(800, 800, 3), capacity=1 << 18, initial=100_000, bound=1.3, tile=16, pairs=1 << 21,
            optimizer=SplatAdam(decay_steps=30_000, final=0.01),
        ),
        codec=UNIT, data=WholeViews(scene=SceneFolder()), batch_size=1, steps=30_000, log_every=500, save_every=5000,
        sample_every=5000, num_samples=8, preload=4 << 30,
    ),
    "colmap": Experiment(
        model=Splats(
            shape=(378, 504, 3), capacity=1 << 18, initial=100_000, bound=4.0, extent=2.0, tile=16, pairs=1 << 21,
            optimizer=SplatAdam(decay_steps=30_000, final=0.01),
        ),
        codec=UNIT, data=WholeViews(scene=SceneFolder(downscale=8)), batch_size=1, steps=30_000, log_every=500,
        save_every=5000, sample_every=5000, num_samples=4, preload=4 << 30,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
