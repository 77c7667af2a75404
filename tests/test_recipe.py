"""CONTRIBUTING's recipe is true: a model file, a script and a test, in a folder of their own, and every tool works.

The model also edits pictures, which the command line finds out by itself.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from safetensors.numpy import load_file

MODEL = '''
"""A diagonal Gaussian over pixels, fitted by maximum likelihood."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxgen.core import LossModel, check_keys, normal_each
from jaxgen.models.shared import check_shape
from jaxgen.ops.gaussian import log_normal


@dataclass(frozen=True, kw_only=True)
class Gaussian(LossModel):
    """x: f32[B, *shape]."""

    shape: tuple[int, ...] = (8, 8, 1)

    def check(self, batch):
        check_shape(self.shape, batch)

    def init_params(self, key, batch):
        return {"density": {"mean": jnp.ones(self.shape), "logvar": jnp.ones(self.shape)}}

    def _log_prob(self, params, x):
        density = params["density"]
        return jnp.sum(log_normal(x, density["mean"][None], density["logvar"][None]), axis=(1, 2))

    def loss(self, params, state, keys, batch):
        return -jnp.mean(self._log_prob(params, batch["x"])), {}

    def sample(self, state, keys, cond=None):
        check_keys(keys)
        density = state.sampling_params["density"]
        return density["mean"][None] + jnp.exp(0.5 * density["logvar"])[None] * normal_each(keys, self.shape)

    def inpaint(self, state, keys, x, mask, cond=None, resample=1):
        return jnp.where(mask, x, self.sample(state, keys))

    def evaluate(self, state, keys, batch):
        return {"nats": -self._log_prob(state.sampling_params, batch["x"])}
'''

SCRIPT = '''
"""A Gaussian.

    python experiments/gaussian_toy.py digits      # seconds
"""

from gaussian_toy_model import Gaussian

from jaxgen.data import Digits
from jaxgen.experiment import Experiment
from jaxgen.cli.train import main
from jaxgen.optim import Adam

SMOKE = Experiment(
    model=Gaussian(optimizer=Adam(lr=0.05)), data=Digits(), batch_size=64,
    steps=20, steps_per_call=5, log_every=10, save_every=10, sample_every=10, num_samples=32,
)
PRESETS = {"smoke": SMOKE, "digits": SMOKE}

if __name__ == "__main__":
    main(PRESETS, __doc__)
'''

TEST = '''
"""The fit is the data's own mean and variance."""

import numpy as np
from gaussian_toy_model import Gaussian

from jaxgen import core
from jaxgen.optim import Adam


def test_maximum_likelihood():
    x = np.random.default_rng(0).normal(0.3, 0.5, (512, 8, 8, 1)).astype(np.float32)
    model = Gaussian(optimizer=Adam(lr=0.05))
    state = core.init(model, core.run_key(0, core.INIT), {"x": x})
    batches = {"x": np.broadcast_to(x, (200, *x.shape))}
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
    trust = ("--trust", "gaussian_toy_model")
    assert "nats" in run(folder, "-m", "jaxgen", "evaluate", str(out), *trust)
    run(folder, "-m", "jaxgen", "sample", str(out), "--num", "8", *trust)
    image, mask = (folder / f"{name}.png" for name in ("image", "mask"))
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(image)
    Image.fromarray(np.repeat(np.uint8([[0], [255]]), 4, axis=0) * np.ones((1, 8), np.uint8)).save(mask)
    run(folder, "-m", "jaxgen", "sample", str(out), "--num", "2", "--image", str(image), "--mask", str(mask), *trust)
    (file,) = out.glob("samples/seed0-num2-*/samples.safetensors")
    x = load_file(file)["x"]
    assert np.all(x[:, :4] == 77) and x[0, 4:].std() > 1
    assert "data:image/png" in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_contract(folder):
    experiments = str(folder / "experiments")
    said = run(folder, *PYTEST, "tests/test_contract.py", JAXGEN_EXPERIMENTS=experiments)
    assert said.count("[gaussian_toy] PASSED") >= 12
    assert "vae" not in said


@pytest.mark.parametrize("benchmark", [pytest.param("train", marks=pytest.mark.slow), "sample"])
@pytest.mark.slow
def test_the_benchmarks(folder, benchmark, tmp_path):
    out = tmp_path / "result.json"
    run(
        folder, f"benchmarks/{benchmark}.py", "--folder", str(folder / "experiments"), "--preset", "smoke",
        "--calls", "2", "--out", str(out),
    )  # fmt: skip
    assert "gaussian_toy" in json.dumps(json.loads(out.read_text()))
