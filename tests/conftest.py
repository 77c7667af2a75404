"""How every test runs: four CPU devices, rank promotion and key reuse as errors, warnings as errors."""

import dataclasses
import functools
import gc
import itertools
import os
import tempfile
from pathlib import Path

# Before jax starts. Compiling is most of the time a test takes; a test that is about bits or speed asks for the
# optimised program by itself.
os.environ.setdefault("JAXGEN_TEST_DEVICES", "4")  # tests/test_slow.py asks for eight
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={os.environ['JAXGEN_TEST_DEVICES']}"
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAXGEN_CACHE", str(Path(tempfile.gettempdir()) / f"jaxgen-test-cache-{os.getuid()}"))

import jax
import pytest

if jax.__version_info__[:2] == (0, 10):
    # Half the time to compile. Newer versions do not know the first, and end the process at a flag they do not know.
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"

from jaxgen.experiment import Experiment, presets, scripts
from jaxgen.inference.embedded import Embedded
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.pretrained import NamesRun
from jaxgen.runs.restore import initial_state, open_run
from jaxgen.runtime import cache

DEVICES = int(os.environ["JAXGEN_TEST_DEVICES"])
ROOT = Path(__file__).resolve().parents[1]
# Another folder of scripts can be put under the same contract.
EXPERIMENTS = scripts(Path(os.environ.get("JAXGEN_EXPERIMENTS") or ROOT / "experiments"))

gc.set_threshold(200_000, 20, 50)  # tracing makes garbage without end: a tenth of the time goes to looking for it
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)
cache.use_compilation_cache(min_seconds=0.0)


BY_SCRIPT = ("test_contract.py", "test_gradients.py", "test_production.py")
SHORT = (
    "test_experiment_is_a_value", "test_every_preset", "test_script_has", "test_every_parameter_is_decayed",
    "test_fields_take", "test_a_wrong_flag",
)  # fmt: skip
# Many compilations each, of what the loop does for all models alike: quick tests of a model of each kind of state.
LONG = ("test_an_interrupted_run", "test_bfloat16", "test_remat")
LATE = ("test_an_exported_sampler", "test_a_run_loads")
SPARED = {
    "autoencoder", "autoencoder_kl", "classifier", "ddpm", "edm", "glow", "gpt", "mipnerf", "pix2pix", "pixelcnn",
    "hifigan", "stylegan", "tacotron2", "vit_vqgan", "vit_vqgan_prior", "wavenet", "diffwave", "video_diffusion",
    "text_to_3d", "mdlm",
    "consistency", "distill",
}  # fmt: skip
# Optimised programs take long to compile: one of each kind of network and of loop is quick.
PRODUCTION, COMPILED = "test_production_equals", {"beta_vae", "vqvae", "cgan", "glow", "gpt", "ddpm", "mipnerf"}
# Others have their parts, and their models have tests of their own: convolutions, attention, critics, codebooks.
COVERED = {
    "autoencoder_kl", "clip_prior", "consistency", "diffwave", "distill", "edm", "hifigan", "stylegan",
    "video_diffusion", "vit_vqgan",
}  # fmt: skip


# Scripts of the code of ddpm, though their names come before it.
LATER = {"cascade", "clip_decoder"}


@functools.cache
def first_of_their_code() -> set[str]:
    """Scripts whose model trains and samples by code that no script before them has."""
    first: dict[tuple, str] = {}
    for name, script in sorted(EXPERIMENTS.items(), key=lambda item: item[0] in LATER):
        model = type(presets(script)["smoke"].model)
        first.setdefault(tuple(getattr(model, part, None) for part in ("train_step", "loss", "seen", "sample")), name)
    return set(first.values())


@pytest.hookimpl(tryfirst=True)  # before `-m` leaves out what is slow
def pytest_collection_modifyitems(items):
    """A file's tests stay together, for their module's fixtures; those of BY_SCRIPT, most of the work, by script. Tests
    of every script are quick once for each model's code; of other scripts the short ones are, and of some the long ones
    are not."""
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        script = given.get("smoke") or given.get("script") or ""
        repeats = script and not item.name.startswith(SHORT) and script not in first_of_their_code()
        spared = script in SPARED and item.name.startswith(LONG)
        covered = script in COVERED and not item.name.startswith(SHORT)
        late = script in SPARED - {"gpt", "ddpm"} and item.name.startswith(LATE)
        uncompiled = item.name.startswith(PRODUCTION) and script not in COMPILED
        if repeats or spared or covered or late or uncompiled:
            item.add_marker(pytest.mark.slow)
        group = f"{item.path.name} {script}" if item.path.name in BY_SCRIPT else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


TESTS = itertools.count()
MAPS = Path("/proc/self/maps")
MOST_MAPS = 25_000
"""Memory maps, of which a process has 65,530: each compiled program takes several, and a worker compiles thousands."""


def pytest_runtest_teardown(item, nextitem):
    """Lets go of compiled programs before they are too many, which ends a process by a segmentation fault."""
    if next(TESTS) % 10 == 0 and MAPS.exists() and MAPS.read_bytes().count(b"\n") > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped where it is not."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder.name}/ beside the checkout")
    return folder


def first_stage(name: str, folder: Path) -> Path:
    """The run that a smoke preset names as its first stage, runs/SCRIPT-PRESET-SEED, at step 0, in `folder`."""
    path = folder / Path(name).name
    if not path.exists():
        script, preset, _ = path.name.split("-")
        experiment = presets(EXPERIMENTS[script])[preset]
        run = open_run(experiment, path, None, experiment.codec)
        with Checkpoints(run.checkpoints) as checkpoints:
            checkpoints.save(initial_state(experiment, experiment.codec))
    return path


@pytest.fixture(scope="session", params=EXPERIMENTS)
def smoke(request, tmp_path_factory) -> Experiment:
    """The smoke preset of each experiment script in turn. One of a second stage finds its first stage, untrained."""
    experiment = presets(EXPERIMENTS[request.param])["smoke"]
    if isinstance(experiment.data, Embedded):
        path = first_stage(experiment.data.clip, tmp_path_factory.getbasetemp())
        return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, clip=str(path)))
    if not isinstance(experiment.codec, NamesRun):
        return experiment
    path = first_stage(experiment.codec.run, tmp_path_factory.getbasetemp())
    return dataclasses.replace(experiment, codec=dataclasses.replace(experiment.codec, run=str(path)))
