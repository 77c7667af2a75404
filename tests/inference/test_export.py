"""Samplers as files: what they may weigh, and the script that draws from them."""

import ast
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import date

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from tiny_diffusion import BATCH, LABELS, MODEL, Tiny, state_of

import jaxgen
from jaxgen import core
from jaxgen.codecs import Identity
from jaxgen.data import Toy2D
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference import export
from jaxgen.inference.export import export_run, export_sampler, promised_until, write_sampler, written_by
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.ops.samplers import DDIM
from jaxgen.ops.schedules import Linear
from jaxgen.runs.restore import Trained

LARGER = SuperResolution(
    network=Tiny(), schedule=Linear(100), sampler=DDIM(3), shape=(4, 4, 1), factor=2, num_classes=3, ema_decay=0.9
)
IMAGES = {"x": jnp.linspace(-1, 1, 6 * 16).reshape(6, 4, 4, 1), "cond": BATCH["cond"]}


def exported(model, state, batch):
    experiment = Experiment(model=model, data=Toy2D())
    trained = Trained(experiment, Identity(), state)
    vars(trained)["examples"] = batch  # what the data would give
    return export_sampler(trained, platforms=("cpu",))


def drawn(folder, *arguments):
    command = [sys.executable, str(folder / "sample.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "samples.npy")


def test_a_file_that_jax_0_10_0_wrote_is_read(tmp_path):
    """It draws what the run that it was exported from draws now."""
    kept = ROOT / "tests" / "kept"
    sampler = jax.export.deserialize(bytearray((kept / "vae-smoke-0-sampler-jax0.10.0.bin").read_bytes()))
    assert sampler.platforms == export.PLATFORMS
    got = sampler.call(np.uint32(7), np.arange(4, dtype=np.uint32))
    run = shutil.copytree(kept / "vae-smoke-0", tmp_path / "vae-smoke-0")  # as use writes into it
    expected = jaxgen.load(run).sample(4, seed=7)
    assert got.dtype == expected.dtype == np.uint8 and np.std(expected) > 10
    assert np.abs(np.asarray(got, int) - np.asarray(expected, int)).max() <= 1  # of rounding


@pytest.mark.parametrize(
    ("made", "until"), [("2026-11-29", "2027-05-29"), ("2026-08-31", "2027-02-28"), ("2026-06-01", "2026-12-01")]
)
def test_the_promise_ends_after_six_months(made, until):
    assert promised_until(date.fromisoformat(made)).isoformat() == until


def test_an_export_says_who_wrote_it_and_until_when_it_is_promised(tmp_path):
    trained = Trained(Experiment(model=MODEL, data=Toy2D()), Identity(), state_of(MODEL))
    vars(trained)["examples"] = BATCH
    said = export_run(trained, tmp_path, platforms=("cpu",))
    made = json.loads((tmp_path / "sampler.json").read_text())["format"]
    exported = jax.export.deserialize(bytearray((tmp_path / "sampler.bin").read_bytes()))
    assert made == written_by(exported, date.fromisoformat(made["made"]))
    assert made["jax"] == jax.__version__ and made["promised_until"] in said
    lowest, highest = jax.export.minimum_supported_calling_convention_version, exported.calling_convention_version
    assert lowest <= made["calling_convention"] == highest
    (tmp_path / "sampler.bin").write_bytes(b"of a format to come")
    done = subprocess.run([sys.executable, str(tmp_path / "sample.py"), "7", "2", "0"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"by jax {jax.__version__}" in done.stderr and made["promised_until"] in done.stderr


def test_the_script_reads_classes(tmp_path):
    state = state_of(MODEL)
    usage = write_sampler(tmp_path, exported(MODEL, state, BATCH), "samples", MODEL.sample_cond(2, BATCH))
    assert usage == "SEED NUM CLASS[,CLASS...]"
    expected = core.sample(MODEL, state, core.sample_keys(7, 4), jnp.resize(LABELS, 4))
    np.testing.assert_allclose(drawn(tmp_path, "7", "4", "0,1,2"), expected, rtol=1e-4, atol=1e-4)


NAMES = (
    'a"""+str(open("owned", "w"))+"""', "'" * 3, '"', '"' * 3, "ends in \\", "\\N{DIGIT ONE}", "a\nimport os",
    "{what}{0}%s", "gr\u00fcn \u2126", "\udcff", "\r\x00\x1b[2J", '\\"""\nx = 1',
)  # fmt: skip


def test_a_runs_name_is_no_code(tmp_path):
    program = jax.export.export(jax.jit(lambda seed, index: seed + index), platforms=("cpu",))(
        jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((), jnp.uint32)
    )
    scripts = []
    for name in ("plain", *NAMES):
        write_sampler(tmp_path, program, f"samples of {name} at step 3", None)
        docstring, *code = ast.parse((tmp_path / "sample.py").read_text()).body
        assert isinstance(docstring, ast.Expr) and isinstance(docstring.value, ast.Constant)
        assert str(docstring.value.value).startswith(f"Draws samples of {name} at step 3.")
        scripts.append("\n".join(map(ast.dump, code)))
    assert len(set(scripts)) == 1


def test_the_script_reads_any_other_condition_from_files(tmp_path):
    state = state_of(LARGER, IMAGES)
    cond = LARGER.sample_cond(3, IMAGES)
    assert write_sampler(tmp_path, exported(LARGER, state, IMAGES), "samples", cond) == "SEED NUM image.npy label.npy"
    assert "image.npy: float32, rows of shape (2, 2, 1)" in (tmp_path / "sample.py").read_text()
    for name, array in cond.items():
        np.save(tmp_path / f"{name}.npy", array)
    # Five of three: they start over.
    expected = core.sample(LARGER, state, core.sample_keys(7, 5), jax.tree.map(lambda a: a[jnp.arange(5) % 3], cond))
    np.testing.assert_allclose(drawn(tmp_path, "7", "5", "image.npy", "label.npy"), expected, rtol=1e-4, atol=1e-4)


def test_one_copy_of_the_parameters_counts(monkeypatch):
    """With averages there are two, and two in the optimizer."""
    model = dataclasses.replace(MODEL, ema_decay=0.9)
    state = state_of(model)
    once = sum(leaf.nbytes for leaf in jax.tree.leaves(state.ema))
    monkeypatch.setattr(export, "MAX_BYTES", once + 64)
    found = exported(model, state, BATCH)
    got = found.call(np.uint32(7), np.arange(3, dtype=np.uint32), LABELS)
    np.testing.assert_allclose(got, core.sample(model, state, core.sample_keys(7, 3), LABELS), rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(export, "MAX_BYTES", once - 1)
    with pytest.raises(UserError, match="ends at 2 GiB"):
        exported(model, state, BATCH)


def test_what_sampling_does_not_read_is_not_written():
    """As a GAN's critic."""
    state = state_of(MODEL)
    more = state.replace(params={**state.params, "critic": jnp.arange(10_000.0)})
    assert len(exported(MODEL, more, BATCH).serialize()) == len(exported(MODEL, state, BATCH).serialize())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusing(type(MODEL)):
    def check_cond(self, cond):
        raise UserError(f"no sampling under {cond}")

    def sample(self, state, keys, cond=None):
        pytest.fail("traced before the condition was checked")


def test_a_refused_condition_is_refused_before_tracing():
    model = Refusing(**{f.name: getattr(MODEL, f.name) for f in dataclasses.fields(MODEL)})
    with pytest.raises(UserError, match=r"no sampling under \[0 1\]"):
        exported(model, state_of(MODEL), BATCH)
