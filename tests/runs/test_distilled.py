"""A run as a teacher: what is read, what is refused, what a student takes over from it, and examples encoded once."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from flax import struct

from jaxgen.cli.train import Options, flags_of
from jaxgen.codecs import Identity, Pixels
from jaxgen.core import compiled
from jaxgen.core.codec import Codec
from jaxgen.data import Toy2D
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment, presets
from jaxgen.inference.prompting import Drawing, drawing
from jaxgen.models.ddpm import DDPM
from jaxgen.models.edm import EDM
from jaxgen.models.gpt import GPT
from jaxgen.models.student import TEACHER, Teacher, student_of
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import Heun
from jaxgen.ops.schedules import Cosine
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.distilled import Taught, TaughtBy
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import initial_state, open_run, restore
from jaxgen.train.encoding import encoded_once

SMOKE = presets(EXPERIMENTS["distill"])["smoke"]


TOY = Experiment(
    model=EDM(shape=(2,), network=TimeMLP(width=8, depth=1), sampler=Heun(steps=4, clip=0.0)), codec=Identity(),
    data=Toy2D(), batch_size=8, num_samples=4,
)  # fmt: skip
LEARNER = replace(SMOKE, model=replace(SMOKE.model, model=student_of(TOY.model), guidance=Guidance()), data=TOY.data)


def untrained(experiment, path):
    """The folder of a run at step 0."""
    run = open_run(experiment, path, None, experiment.codec)
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(initial_state(experiment, experiment.codec))
    return path


@pytest.fixture(scope="module")
def edm(tmp_path_factory):
    return untrained(TOY, tmp_path_factory.mktemp("taught") / "edm-toy-0")


def test_a_teacher_is_the_run_as_it_samples(edm):
    taught, trained = TaughtBy(run=str(edm)).load(), restore(RunFolder(edm))
    assert taught.provenance["model"] == "EDM" and taught.provenance["run"] == str(edm)
    encoded = taught.encode({"x": jnp.ones((3, 2))}, jax.random.key(0))
    np.testing.assert_array_equal(taught.decode(encoded["x"]), 1.0)
    teacher = encoded[TEACHER].one
    assert teacher.model == trained.model
    for got, own in zip(jax.tree.leaves(teacher.params), jax.tree.leaves(trained.state.sampling_params), strict=True):
        np.testing.assert_array_equal(got, own)
    # The student's first parameters are these.
    state = initial_state(replace(LEARNER, codec=TaughtBy(run=str(edm))), taught)
    np.testing.assert_array_equal(
        jax.tree.leaves(state.params)[0], jax.tree.leaves(trained.state.sampling_params)[0]
    )  # fmt: skip


def test_wrong_runs_are_refused(edm, tmp_path):
    other = replace(TOY, model=GPT())
    RunFolder(tmp_path / "gpt").create(other)
    for codec, words in (
        (TaughtBy(run=str(tmp_path / "edm-digits-0")), r"edm\.py digits --seed 0"),
        (TaughtBy(run=str(tmp_path / "gpt")), "run of GPT, no diffusion model"),
        (TaughtBy(run=str(edm), step=3), "no checkpoint of step 3"),
    ):
        with pytest.raises(UserError, match=words):
            codec.load()
    record = TaughtBy(run=str(edm)).load().provenance
    assert TaughtBy(run=str(edm)).load(record).provenance == record
    with pytest.raises(UserError, match="other weights"):
        TaughtBy(run=str(edm)).load({**record, "sha256": "0" * 64})
    with pytest.raises(UserError, match="takes no teacher"):
        TaughtBy(run=str(edm)).load().check_model(EDM())


def test_another_teacher_brings_its_network_conditions_and_data(tmp_path):
    """What --codec.run changes, before other flags; a network of learned variance, a schedule in discrete time."""
    teacher = DDPM(shape=(2,), network=TimeMLP(width=8, depth=1), schedule=Cosine(20), objective="hybrid")
    improved = untrained(replace(TOY, model=teacher), tmp_path / "improved_ddpm-toy-0")
    flags = ["--codec.run", str(improved), "--model.guidance.scale", "1", "--batch-size", "4"]
    experiment, _ = flags_of(SMOKE, flags, "distill.py smoke", None, Options)
    own = RunFolder(improved).experiment()
    assert (experiment.model.model.network, experiment.model.model.kind) == (own.model.network, "trig")
    assert (experiment.data, experiment.batch_size) == (own.data, 4)
    experiment.check()
    assert experiment.model.sampler == SMOKE.model.sampler
    codec = experiment.codec.load()
    state = initial_state(experiment, codec)
    batches = jax.tree.map(lambda a: np.asarray(a)[None], dict(experiment.data.batch_at(0, 0, 4)))
    _, metrics = compiled.train_steps(experiment.model, state, jax.random.key(0), batches, codec)
    assert np.isfinite(metrics["loss"]).all() and metrics["grad_norm"] > 0


def test_samples_are_drawn_in_as_many_steps_as_are_asked_for():
    changed = drawing(SMOKE, Drawing(steps=2)).model
    assert changed.sampler == replace(SMOKE.model.sampler, steps=2)
    with pytest.raises(UserError, match="divisor"):
        drawing(SMOKE, Drawing(steps=3))
    with pytest.raises(UserError, match="no diffusion model, which --guidance"):
        drawing(SMOKE, Drawing(guidance=2.0))


def test_examples_are_encoded_once_and_meet_the_teacher_in_every_step():
    @struct.dataclass
    class Encoder(Pixels):
        @property
        def encode_once(self) -> bool:
            return True

    teacher = Teacher({"w": jnp.arange(3.0)}, EDM(shape=(2, 2, 1)))
    data, rest = encoded_once({"x": np.full((70, 2, 2, 1), 255, np.uint8)}, Taught(Encoder(), teacher), 1 << 20)
    assert data is not None and set(data) == {"x"} and data["x"].dtype == np.float32
    assert isinstance(rest, Taught) and isinstance(rest.codec, Identity)
    batch = rest.encode({"x": data["x"][:5]}, jax.random.key(0))
    np.testing.assert_array_equal(batch[TEACHER].params["w"], np.tile(np.arange(3.0), (5, 1)))
    same, plain = encoded_once({"x": np.zeros((3, 1))}, Taught(Identity(), teacher), 1 << 20)
    assert isinstance(plain, Taught) and same is not None and Codec.apart(Identity())[1] is None
