"""mip-NeRF (arXiv:2103.13415): a pixel is a cone, and frequencies that turn within it fade.

    python experiments/mipnerf.py analytic
    python experiments/mipnerf.py blender --data.folder DIR
    python experiments/mipnerf.py proposal --data.folder DIR    # with mip-NeRF 360's proposals and distortion loss
    jaxgen render runs/mipnerf-analytic-0 --turntable 60 --lattice 192

analytic takes 7 minutes of one core and comes to 29.7 dB, its depths 1.3 % off. Not yet run: blender, proposal.
"""

from jaxgen.cli.train import main
from jaxgen.codecs import Pixels
from jaxgen.data import AnalyticScene, SceneFolder
from jaxgen.experiment import Experiment
from jaxgen.models.nerf import NeRF, ProposalNeRF
from jaxgen.nets.nerf import NeRFMLP, ProposalMLP
from jaxgen.optim import Adam

UNIT = Pixels(low=0.0, high=1.0)

PRESETS = {
    "smoke": Experiment(
        model=ProposalNeRF(
            network=NeRFMLP(depth=3, width=32, skip=2, position_frequencies=4, direction_frequencies=2),
            proposal=ProposalMLP(depth=1, width=16, frequencies=4), coarse=12, fine=8, bound=1.0, cone=True, chunk=128,
            distortion_weight=0.01, optimizer=Adam(lr=3e-3), ema_decay=0.99,
        ),
        codec=UNIT, data=AnalyticScene(size=16, train_views=8, test_views=2, samples=1), batch_size=64, steps=20,
        steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=256,
    ),
    "analytic": Experiment(
        model=NeRF(
            network=NeRFMLP(depth=5, width=96, skip=3, position_frequencies=8), coarse=32, fine=32, shared=True,
            cone=True, coarse_weight=0.1, bound=1.0, random_background=True,
            optimizer=Adam(lr=2e-3, decay_steps=2000, final=0.05),
        ),
        codec=UNIT, data=AnalyticScene(), batch_size=512, steps=2000, log_every=50, save_every=250, sample_every=500,
        num_samples=2 * 64 * 64, best="test/mse",
    ),
    # The paper's: 128 + 128 intervals of one network, batches of 4,096 rays; a million steps.
    "blender": Experiment(
        model=NeRF(
            network=NeRFMLP(position_frequencies=16), coarse=128, fine=128, shared=True, cone=True, coarse_weight=0.1,
            optimizer=Adam(lr=5e-4, warmup=2500, decay_steps=1_000_000, final=0.01), chunk=1024,
        ),
        codec=UNIT, data=SceneFolder(), batch_size=4096, steps=1_000_000, steps_per_call=100, log_every=500,
        save_every=10_000, sample_every=10_000, num_samples=800 * 800, preload=4 << 30,
    ),
    # One round of proposals of 64 intervals, 32 for the field, and the weight of the distortion in arXiv:2111.12077.
    "proposal": Experiment(
        model=ProposalNeRF(
            network=NeRFMLP(position_frequencies=12), proposal=ProposalMLP(frequencies=12), coarse=64, fine=32,
            cone=True, distortion_weight=0.01, optimizer=Adam(lr=2e-3, warmup=512, decay_steps=250_000, final=0.01),
            chunk=2048,
        ),
        codec=UNIT, data=SceneFolder(), batch_size=4096, steps=250_000, steps_per_call=100, log_every=500,
        save_every=10_000, sample_every=10_000, num_samples=800 * 800, preload=4 << 30,
    ),
}  # fmt: skip

if __name__ == "__main__":
    main(PRESETS, __doc__)
