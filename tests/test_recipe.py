"""CONTRIBUTING's recipe is true: a model file, a script and a test, in a folder of their own, and every tool works."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

MODEL = '''
"""A diagonal Gaussian fitted by maximum likelihood."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core import LossModel, check_keys, normal_each
from jaxgen.models.shared import check_shape
from jaxgen.ops.gaussian import log_normal


@dataclass(frozen=True, kw_only=True)
class Gaussian(LossModel):
    """x: f32[B, *shape]."""

    shape: tuple[int, ...] = (2,)

    def check(self, batch):
        check_shape(self.shape, batch)

    def init_params(self, key, batch):
        return {"density": {"mean": jnp.ones(self.shape), "logvar": jnp.ones(self.shape)}}

    def _log_prob(self, params, x):
        density = params["density"]
        return log_normal(x, density["mean"][None], density["logvar"][None])

    def loss(self, params, state, keys, batch):
        return -jnp.mean(self._log_prob(params, batch["x"])), {}

    def sample(self, state, keys, cond=None):
        check_keys(keys)
        density = state.sampling_params["density"]
        return density["mean"][None] + jnp.exp(0.5 * density["logvar"])[None] * normal_each(keys, self.shape)

    def evaluate(self, state, keys, batch):
        return {"nats": -self._log_prob(state.sampling_params, batch["x"])}
'''

SCRIPT = '''
"""A Gaussian.

    python experiments/gaussian_toy.py toy      # seconds
"""

from gaussian_toy_model import Gaussian

from jaxgen.codecs import Identity
from jaxgen.data import Toy2D
from jaxgen.experiment import Experiment
from jaxgen.loop import main
from jaxgen.optim import Adam

SMOKE = Experiment(
    model=Gaussian(optimizer=Adam(lr=0.05)), codec=Identity(), data=Toy2D(name="moons", num=512), batch_size=64,
    steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=32,
)
PRESETS = {"smoke": SMOKE, "toy": SMOKE}

if __name__ == "__main__":
    main(PRESETS, __doc__)
'''

TEST = '''
"""The fit is the data's own mean and variance."""

import numpy as np
from gaussian_toy_model import Gaussian

from jaxgen import core
from jaxgen.data import Toy2D
from jaxgen.optim import Adam


def test_maximum_likelihood():
    data = Toy2D(name="moons", num=512)
    x = data.arrays("train")["x"]
    model = Gaussian(optimizer=Adam(lr=0.05))
    state = core.init(model, core.run_key(0, core.INIT), {"x": x})
    batches = {"x": np.broadcast_to(x, (400, *x.shape))}
    state, _ = core.train_steps(model, state, core.run_key(0, core.TRAIN), batches)
    np.testing.assert_allclose(state.params["density"]["mean"], x.mean(0), atol=1e-2)
    np.testing.assert_allclose(np.exp(state.params["density"]["logvar"]), x.var(0), rtol=2e-2)
'''


PYTEST = ("-m", "pytest", "-v", "-p", "no:cacheprovider")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    for name, text in {
        "gaussian_toy_model.py": MODEL, "experiments/gaussian_toy.py": SCRIPT, "test_gaussian_toy.py": TEST,
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.lstrip())
    return folder


def run(folder, *command, **environment):
    paths = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_test(folder):
    assert "1 passed" in run(folder, *PYTEST, str(folder / "test_gaussian_toy.py"))


def test_the_command_line(folder):
    out = folder / "run"
    run(folder, str(folder / "experiments" / "gaussian_toy.py"), "smoke", "--out", str(out), "--seed", "3")
    assert "nats" in run(folder, "-m", "jaxgen", "evaluate", str(out))
    run(folder, "-m", "jaxgen", "sample", str(out), "--num", "8")
    assert "data:image/png" in (out / "report.html").read_text()


def test_the_contract(folder):
    experiments = str(folder / "experiments")
    said = run(folder, *PYTEST, "tests/test_contract.py", JAXGEN_EXPERIMENTS=experiments)
    assert said.count("[gaussian_toy] PASSED") >= 12
    assert "vae" not in said


@pytest.mark.parametrize("benchmark", [pytest.param("train", marks=pytest.mark.slow), "sample"])
def test_the_benchmarks(folder, benchmark, tmp_path):
    out = tmp_path / "result.json"
    run(
        folder, f"benchmarks/{benchmark}.py", "--folder", str(folder / "experiments"), "--preset", "smoke",
        "--calls", "2", "--out", str(out),
    )  # fmt: skip
    assert "gaussian_toy" in json.dumps(json.loads(out.read_text()))
