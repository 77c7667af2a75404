"""What every experiment script promises, checked on its smoke preset."""

import dataclasses
import json
import os
import signal
import zlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS

import jaxgen
from jaxgen import core
from jaxgen.core import EVAL, INIT, TRAIN, TrainState
from jaxgen.core.codec import Codec
from jaxgen.core.configuration import from_json, to_json
from jaxgen.data import Dataset
from jaxgen.data.feed import feed
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference.export import export_sampler
from jaxgen.runs import restore
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.folder import RunFolder
from jaxgen.train import loop


@dataclasses.dataclass(frozen=True)
class Started:
    """A smoke experiment, compiled once for all tests of this file."""

    experiment: Experiment
    state: TrainState  # on the host, as train_steps donates what it is given
    batches: dict[str, np.ndarray]  # [K, B, ...]

    @property
    def model(self):
        return self.experiment.compute_model

    @property
    def codec(self) -> Codec:
        return self.experiment.codec.load()

    @property
    def batch(self) -> dict[str, np.ndarray]:
        return jax.tree.map(lambda a: a[0], self.batches)

    def train(self, state, batches=None):
        key = core.run_key(self.experiment.seed, TRAIN)
        fresh = jax.tree.map(jnp.array, state)
        return core.train_steps(self.model, fresh, key, self.batches if batches is None else batches, self.codec)


@pytest.fixture(scope="module")
def run(smoke) -> Started:
    smoke.check()
    key = core.run_key(smoke.seed, INIT)
    batches = [smoke.data.batch_at(smoke.seed, step, smoke.batch_size) for step in range(smoke.steps_per_call)]
    state = core.init(smoke.compute_model, key, batches[0], smoke.codec.load())
    yield Started(smoke, jax.device_get(state), jax.tree.map(lambda *a: np.stack(a), *batches))
    # Programs take memory maps, of which a process has 65,530: all experiments together need more.
    jax.clear_caches()


def equal(a, b) -> bool:
    """Bitwise, NaN equal to NaN."""
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(a) == len(b) and all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b))


def test_experiment_is_a_value(smoke):
    """Its JSON reads back equal, and equal values hash alike, so that they share executables."""
    again = from_json(json.loads(json.dumps(to_json(smoke))))
    assert again == smoke
    assert hash(again.model) == hash(smoke.model)
    assert isinstance(smoke.data, Dataset)


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_every_preset_is_a_value(script):
    for name, preset in presets(EXPERIMENTS[script]).items():
        assert from_json(json.loads(json.dumps(to_json(preset)))) == preset, name
        assert preset.keep >= 1


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_script_has_the_usual_presets(script):
    """`smoke` for tests, one on embedded data for a laptop, and a docstring with the command to run."""
    found = presets(EXPERIMENTS[script])
    assert "smoke" in found
    assert {"digits", "docs", "emoji", "toy", "analytic", "moving_digits"} & set(found)
    assert f"python experiments/{script}.py" in EXPERIMENTS[script].read_text()


def test_a_step_keeps_structure_and_dtypes(run):
    new, metrics = run.train(run.state)
    assert jax.tree.structure(new) == jax.tree.structure(run.state)
    for old, leaf in zip(jax.tree.leaves(run.state), jax.tree.leaves(new)):
        assert (leaf.shape, leaf.dtype) == (old.shape, old.dtype)
    assert int(new.step) == run.experiment.steps_per_call
    assert "loss" in metrics or len(metrics) > 1
    for name, values in metrics.items():
        assert values.shape == (run.experiment.steps_per_call,), name
        assert values.dtype == jnp.float32, name
        assert np.all(np.isfinite(values)), name


def test_equal_models_compile_once(run):
    run.train(run.state)
    before = core.train_steps._cache_size()
    again = from_json(to_json(run.experiment))
    assert again.model is not run.experiment.model
    Started(again, run.state, run.batches).train(run.state)
    assert core.train_steps._cache_size() == before


def test_every_parameter_learns(run):
    """Each array is moved by training, finitely; one that is not has no gradient."""
    state = run.state
    for _ in range(3):
        state, _ = run.train(state)
    before = jax.tree_util.tree_flatten_with_path(run.state.params)[0]
    for (path, old), new in zip(before, jax.tree.leaves(state.params)):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(new)), name
        assert not np.array_equal(old, new), f"{name} was not moved"


def test_a_fixed_batch_is_learnt(run):
    """The same batch over and over: the loss falls by a tenth at least."""
    if run.model.adversarial:
        pytest.skip("the losses of a game do not fall together")
    repeated = jax.tree.map(lambda a: np.repeat(a[:1], len(a), axis=0), run.batches)
    state, first = run.train(run.state, repeated)
    for _ in range(40):
        state, last = run.train(state, repeated)
    assert np.mean(last["loss"]) < 0.9 * np.mean(first["loss"])


def test_training_needs_no_state_but_its_own(run):
    """Twice the same call gives the same bits."""
    (one, first), (two, second) = run.train(run.state), run.train(run.state)
    assert equal(one, two)
    assert equal(first, second)


def test_a_sample_depends_on_its_key_and_condition_alone(run):
    state, _ = run.train(run.state)
    keys = core.sample_keys(7, 5)
    cond = run.model.sample_cond(5, run.batch)
    many = core.sample(run.model, state, keys, cond)
    keys = core.sample_keys(7, 5)  # anew: each key is to be used once
    few = core.sample(run.model, state, keys[:2], jax.tree.map(lambda c: c[:2], cond))
    np.testing.assert_allclose(few, many[:2], rtol=0, atol=1e-5)
    assert not np.allclose(many[0], many[1])
    backwards = core.fold_each(core.run_key(7, core.SAMPLE), jnp.arange(5)[::-1])
    again = core.sample(run.model, state, backwards, jax.tree.map(lambda c: c[::-1], cond))
    np.testing.assert_allclose(again[::-1], many, rtol=0, atol=1e-5)


def test_samples_are_raw_data(run):
    keys = core.sample_keys(0, 3)
    cond = run.model.sample_cond(3, run.batch)
    raw = core.sample(run.model, jax.device_put(run.state), keys, cond, run.codec)
    assert raw.shape[1:] == run.batch["x"].shape[1:]
    assert raw.dtype == run.batch["x"].dtype


def test_evaluate_gives_a_number_per_example(run):
    """And the batch it is computed in does not matter."""
    state, size = jax.device_put(run.state), run.experiment.batch_size
    some = jax.tree.map(lambda a: a[2:5], run.batch)
    few = core.evaluate(run.model, state, core.sample_keys(0, 3, 2, EVAL), some, run.codec)
    all_keys = core.sample_keys(0, size, 0, EVAL)
    for name, values in core.evaluate(run.model, state, all_keys, run.batch, run.codec).items():
        assert values.shape in ((size,), (size, 2)), name
        assert np.all(np.isfinite(values)), name
        np.testing.assert_allclose(few[name], values[2:5], rtol=1e-4, err_msg=name)


def test_pictures_are_grids_and_films(run):
    keys = core.sample_keys(0, 4)
    for name, picture in core.pictures(run.model, jax.device_put(run.state), keys, run.batch, run.codec).items():
        assert name.endswith((".png", ".gif"))
        if run.batch["x"].ndim == 2 and picture.dtype == np.uint8:  # a density over the plane
            assert picture.ndim == 3 and picture.shape[2] == 3, name
            continue
        assert picture.ndim == run.batch["x"].ndim + 1, name
        assert picture.shape[2:] == run.batch["x"].shape[1:], name
        assert picture.dtype == run.batch["x"].dtype, name


def test_pictures_of_one_example_can_be_made(run):
    """Of one held-out example there are no pairs, and the run must end all the same."""
    state, batch = jax.device_put(run.state), jax.tree.map(lambda a: a[:1], run.batch)
    made = jax.eval_shape(lambda *a: core.pictures(run.model, *a, run.codec), state, core.sample_keys(0, 1), batch)
    assert all(0 not in picture.shape for picture in made.values())


def test_save_restore_continue_is_bitwise(run, tmp_path):
    straight, _ = run.train(run.state)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(straight)
        on_time = jax.device_get(straight)
        straight, metrics = run.train(straight)
        checkpoints.wait()
        restored = checkpoints.restore(core.abstract_state(run.model, run.batch, run.codec))
    assert equal(restored, on_time)
    resumed, again = run.train(restored)
    assert equal(resumed, straight)
    assert equal(again, metrics)


class Crash(Exception):
    """What ends the process, for all that the run knows."""


@pytest.fixture
def strike(monkeypatch):
    """strike(at, how): at the call of that number, counted from the start of each training, `how` happens while the
    call before it is still being computed."""

    def at(number, how):
        def struck(*args, **kwargs):
            data, calls = feed(*args, **kwargs)

            def watched():
                for i, call in enumerate(calls):
                    if i == number:
                        how()
                    yield call

            return data, watched()

        monkeypatch.setattr(loop, "feed", struck)

    return at


def test_an_interrupted_run_is_the_straight_run(smoke, strike, tmp_path, request):
    """To the bit: state, metrics and order of data, after a signal in the middle of a call and after a crash."""
    strike(-1, None)
    loop.train(smoke, tmp_path / "straight")
    rng = np.random.default_rng(zlib.crc32(request.node.name.encode()))
    calls = smoke.steps // smoke.steps_per_call
    strike(int(rng.integers(0, calls - 1)), lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert loop.train(smoke, tmp_path / "run") == "SIGTERM"

    def crash():
        raise Crash

    # The steps that are left, less one call at least.
    (step,) = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()][-1:]
    left = calls - step // smoke.steps_per_call
    strike(int(rng.integers(0, left)), crash)
    with pytest.raises(Crash):
        loop.train(smoke, tmp_path / "run")
    strike(-1, None)
    loop.train(smoke, tmp_path / "run")
    runs = [RunFolder(tmp_path / name) for name in ("straight", "run")]
    states = []
    for run in runs:
        with Checkpoints(run.checkpoints) as checkpoints:
            states.append(restore.saved_state(smoke, run.examples(), smoke.codec.load(), checkpoints))
    assert int(states[0].step) == smoke.steps
    assert equal(*states)
    assert runs[0].metrics.read_text() == runs[1].metrics.read_text()


def test_a_run_loads_samples_and_evaluates(run, tmp_path):
    """In one call each, from its folder; samples are those of the state."""
    folder = restore.open_run(run.experiment, tmp_path / "run", None, run.codec)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.save(jax.device_put(run.state))
    loaded = jaxgen.load(tmp_path / "run")
    assert loaded.step == 0 and equal(loaded.state.params, run.state.params)
    samples = loaded.sample(3, seed=7)
    cond = run.model.sample_cond(3, loaded.examples)
    expected = core.sample(run.model, jax.device_put(run.state), core.sample_keys(7, 3), cond, run.codec)
    assert isinstance(samples, np.ndarray) and samples.dtype == expected.dtype
    # A level, where rounding meets a half.
    np.testing.assert_allclose(samples.astype(float), np.asarray(expected, float), rtol=1e-4, atol=1)
    for name, number in loaded.evaluate(limit=8, batch=8).items():
        assert np.isfinite(number["mean"]), name


def test_an_exported_sampler_draws_what_sampling_does(run):
    """Lowered for every platform, for a symbolic number of samples."""
    exported = export_sampler(restore.Trained(run.experiment, run.codec, jax.device_put(run.state)))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[1].shape[0]) == "n"
    again = jax.export.deserialize(exported.serialize())
    cond = run.model.sample_cond(5, restore.held_out_examples(run.experiment))
    raw = again.call(np.uint32(7), np.arange(5, dtype=np.uint32), *(() if cond is None else (cond,)))
    expected = core.sample(run.model, jax.device_put(run.state), core.sample_keys(7, 5), cond, run.codec)
    assert raw.dtype == expected.dtype
    # A level, where rounding meets a half.
    tolerance = 1 if raw.dtype == np.uint8 else 1e-4
    np.testing.assert_allclose(np.asarray(raw, np.float32), np.asarray(expected, np.float32), atol=tolerance)


def test_remat_changes_nothing_but_memory(run):
    """The same step, where a network can recompute; elsewhere a refusal."""
    experiment = dataclasses.replace(run.experiment, remat=True)
    if experiment.compute_model == run.model:
        with pytest.raises(UserError, match="leave --remat out"):
            experiment.check()
        return
    experiment.check()
    _, metrics = Started(experiment, run.state, run.batches).train(run.state)
    _, expected = run.train(run.state)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-4)


def test_bfloat16_computes_in_bfloat16_and_keeps_f32_state(run):
    experiment = dataclasses.replace(run.experiment, precision="bfloat16")
    low = Started(experiment, run.state, run.batches)
    if low.model == run.model:
        pytest.skip("the model has no network")
    state, metrics = low.train(run.state)
    assert all(a.dtype == b.dtype for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(run.state)))
    _, full = run.train(run.state)
    np.testing.assert_allclose(np.mean(metrics["loss"]), np.mean(full["loss"]), rtol=0.05)
    assert not np.array_equal(metrics["loss"], full["loss"])
