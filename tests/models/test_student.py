"""Students of diffusion models: what a teacher is to them, consistency, LCM and progressive distillation."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closed_form import gaussian_x0, run
from tiny_diffusion import BATCH, LABELS, MODEL, Tiny, state_of

from jaxgen import core
from jaxgen.core import TRAIN, run_key, sample_keys
from jaxgen.errors import UserError
from jaxgen.models.consistency import LCM, Consistency
from jaxgen.models.ddpm import DDPM
from jaxgen.models.edm import EDM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.progressive import BEFORE, PHASE, Progressive
from jaxgen.models.score_matching import ScoreMatching
from jaxgen.models.student import TEACHER, Teacher, started, student_of
from jaxgen.models.super_resolution import SuperResolution
from jaxgen.models.trigflow import TrigFlow
from jaxgen.nets.dit import DiT
from jaxgen.nets.time_mlp import TimeMLP
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.few_steps import Halved, Renoised
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, Heun
from jaxgen.ops.schedules import Cosine, Straight
from jaxgen.ops.trigflow import cos_sin
from jaxgen.optim import Adam

OPEN = replace(MODEL, schedule=Cosine(100))
TAUGHT = Teacher(state_of(OPEN, seed=3).params, OPEN)
X = 0.5 * jax.random.normal(jax.random.key(5), (6, 4, 2))
WITH = {**BATCH, "x": X, TEACHER: TAUGHT.for_each(6)}
SHORT = Progressive(model=student_of(OPEN), sampler=Halved(1, of=4, clip=0.0), phase=2, ema_decay=0.5)


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


# --- the teacher ---


def test_a_student_has_its_teachers_network_and_a_prediction_it_can_use():
    for teacher, kind in [
        (OPEN, "trig"), (replace(OPEN, kind="v"), "v"), (FlowMatching(shape=(2,)), "velocity"),
        (ScoreMatching(shape=(2,)), "trig"), (replace(OPEN, objective="hybrid"), "trig"), (EDM(shape=(2,)), "eps"),
    ]:  # fmt: skip
        own = student_of(teacher)
        assert (own.kind, own.network, own.schedule) == (kind, teacher.network, teacher.schedule)
        assert own.outputs == own.shape[-1] and own.guidance.scale == 1
    timed = Consistency().learner(replace(OPEN, objective="hybrid"))
    assert timed == TrigFlow(network=Tiny(), shape=(4, 2), num_classes=3, class_dropout=0.5)
    assert isinstance(Consistency().learner(SuperResolution()), SuperResolution)  # whose network sees more


def test_parameters_start_from_the_teachers_without_its_variance():
    learned = state_of(replace(OPEN, objective="hybrid")).params
    own = started(state_of(OPEN).params, learned, 2)
    np.testing.assert_array_equal(own["network"]["x"]["kernel"], learned["network"]["x"]["kernel"][:, :2])
    state = core.init(SHORT, jax.random.key(0), WITH)
    assert same(state.params, TAUGHT.params) and same(state.ema, TAUGHT.params)
    assert not same(core.init(replace(SHORT, start="random"), jax.random.key(0), WITH).params, TAUGHT.params)
    with pytest.raises(UserError, match="other parameters"):
        started(state_of(OPEN).params, {"network": {"x": learned["network"]["x"]}}, 2)
    with pytest.raises(UserError, match="other parameters"):
        started({"a": jnp.zeros((3, 2))}, {"a": jnp.zeros((4, 2))}, 2)


def test_means_of_a_teacher_of_patches_are_found_in_every_pixel():
    """Regression: of four pixels in a patch, means and variances of the upper two were taken for the means of all."""
    network = DiT(width=8, depth=1, heads=1, patch=2)
    teacher = DDPM(shape=(4, 4, 1), network=network, schedule=Cosine(100), objective="hybrid", kind="v")
    x, t = jax.random.normal(jax.random.key(0), (3, 4, 4, 1)), jnp.array([20.0, 50.0, 80.0])
    learned, own = state_of(teacher, {"x": x}).params, student_of(teacher)
    params = started(jax.eval_shape(own.init, jax.random.key(0), {"x": x}).params, learned, 1)
    means = teacher.answer(learned, x, t, {})[..., :1]
    np.testing.assert_allclose(own.answer(params, x, t, {}), means, atol=1e-5)


def test_a_student_leaves_what_only_its_teachers_loss_needed():
    """Regression: a teacher that learns weights by uncertainty was refused, by advice that could not help."""
    teacher = EDM(shape=(4, 2), network=Tiny(), num_classes=3, class_dropout=0.5, uncertainty=8)
    taught = Teacher(state_of(teacher).params, teacher)
    student = Consistency(model=Consistency().learner(teacher), sampler=Renoised())
    params = student.init_params(jax.random.key(0), {**WITH, TEACHER: taught.for_each(6)})
    assert same(params["network"], taught.params["network"])


def test_what_a_student_cannot_learn_from_is_refused():
    SHORT.check(WITH)
    with pytest.raises(UserError, match="learns from a trained run"):
        SHORT.check(BATCH)
    Consistency(model=SHORT.model).check(BATCH)
    with pytest.raises(UserError, match="no teacher is there"):
        Consistency(model=SHORT.model, guidance=Guidance(2.0)).check(BATCH)
    other = replace(SHORT, model=replace(SHORT.model, num_classes=2))
    with pytest.raises(UserError, match="num_classes is 2, the teacher's 3"):
        other.check({**WITH, "cond": BATCH["cond"] % 2})
    dull = Teacher(TAUGHT.params, replace(OPEN, class_dropout=0.0)).for_each(6)
    with pytest.raises(UserError, match="without class_dropout"):
        replace(SHORT, guidance=Guidance(2.0)).check({**WITH, TEACHER: dull})
    with pytest.raises(UserError, match="fixed in training"):
        SHORT.check_cond({"label": LABELS, "guidance": jnp.ones(3)})
    with pytest.raises(UserError, match="halved once or more"):
        core.init(replace(SHORT, sampler=Halved(4, of=12)), jax.random.key(0), WITH)


def test_the_teachers_guidance_and_clipping_are_what_is_taught():
    guided = replace(OPEN, guidance=Guidance(3.0), sampler=DDIM(5, clip=0.4))
    t, at = jnp.linspace(0.1, 1.5, 3), X[:3]
    got = Teacher(TAUGHT.params, replace(OPEN, sampler=guided.sampler)).flow(LABELS, Guidance(3.0))(at, t)
    time = OPEN.schedule.of_angle(t)
    scale = jnp.hypot(*OPEN.schedule.at(time, 3))
    x0 = jnp.clip(guided.denoiser(TAUGHT.params, LABELS)(scale * at, time).x0, -0.4, 0.4)
    cos, sin = cos_sin(t, 3)
    np.testing.assert_allclose(got, (cos * at - x0) / sin, rtol=1e-5)
    assert np.abs(got - TAUGHT.flow(LABELS, Guidance())(at, t)).max() > 0.01


# --- progressive distillation ---


def two_steps(denoise, grid, first, each, x):
    """Where two DDIM steps lead, each over `each` levels of a grid from level `first`: float64 NumPy."""
    for i in (first, first + each):
        alpha, sigma, j = grid.alpha[i], grid.sigma[i], i + each
        x0 = np.asarray(denoise(jnp.float32(x), jnp.full(len(x), grid.t[i])).x0, np.float64)
        x = grid.alpha[j] * x0 + grid.sigma[j] * (x - alpha * x0) / sigma
    return x


@pytest.mark.parametrize("phase", [0, 1])
def test_the_progressive_target_is_two_ddim_steps(phase):
    """The loss is the squared error of F against the one step that leads where two of the teacher lead."""
    model = replace(SHORT, sampler=Halved(1, of=4, clip=0.0))
    before = jax.tree.map(lambda a: a + 0.1, TAUGHT.params)
    params = jax.tree.map(lambda a: a - 0.2, TAUGHT.params)
    state: Any = core.TrainState(jnp.int32(0), {}, {}, extra={BEFORE: before, PHASE: jnp.int32(phase), TEACHER: TAUGHT})
    keys, eps, cond = sample_keys(1, 6), jax.random.normal(jax.random.key(6), X.shape), BATCH["cond"]
    got, _ = jax.jit(lambda state, keys: model.terms(params, state, keys, (X, eps), cond, None))(state, keys)

    grid, each = OPEN.schedule.grid(4), 2**phase
    angle = np.arctan2(grid.sigma, grid.alpha)
    count = 4 // (2 * each)
    first = [int(jax.random.randint(key, (), 0, count)) * 2 * each for key in keys]
    teacher = OPEN.denoiser(TAUGHT.params, cond) if phase == 0 else model.model.denoiser(before, cond)
    expected = np.zeros(6)
    for start in set(first):
        x = np.asarray(grid.alpha[start] * X + grid.sigma[start] * eps, np.float64)
        end = two_steps(teacher, grid, start, each, x)
        # F of the student, and the F that one DDIM step would need.
        time = jnp.full(6, grid.t[start])
        x0 = np.asarray(model.model.denoiser(params, cond)(jnp.float32(x), time).x0, np.float64)
        own = (np.cos(angle[start]) * x - x0) / np.sin(angle[start])
        turn = angle[start] - angle[start + 2 * each]
        needed = (np.cos(turn) * x - end) / np.sin(turn)
        errors = np.mean((own - needed) ** 2, axis=(1, 2))
        expected = np.where(np.array(first) == start, errors, expected)
    np.testing.assert_allclose(got, expected, rtol=2e-3)


def stepped(model, state, steps, batch=WITH):
    batches = jax.tree.map(lambda a: jnp.broadcast_to(a, (steps, *a.shape)), batch)
    return core.train_steps(model, jax.tree.map(jnp.array, state), run_key(0, TRAIN), batches)[0]


def test_a_student_becomes_the_teacher_as_a_phase_ends():
    """Its average; the optimizer starts anew, and a run stopped at the end of a phase goes on to the bit."""
    assert [SHORT.trained_for(n) for n in (8, 4, 2, 1)] == [None, None, 2, 4]
    state = core.init(SHORT, jax.random.key(0), WITH)
    ended = stepped(SHORT, state, 2)
    assert int(ended.extra[PHASE]) == 0 and same(ended.extra[BEFORE], TAUGHT.params)
    assert TEACHER not in ended.extra
    went_on = stepped(SHORT, jax.device_get(ended), 2)
    assert int(went_on.extra[PHASE]) == 1 and same(went_on.extra[BEFORE], ended.ema)
    counts = [int(a) for a in jax.tree.leaves(went_on.opt_state) if a.dtype == jnp.int32]
    assert counts and set(counts) == {2}
    assert same(went_on, stepped(SHORT, state, 4))
    # There is no third phase.
    assert int(stepped(SHORT, went_on, 2).extra[PHASE]) == 1


# --- consistency ---

MU, STD = 0.2, 0.6


@dataclass(frozen=True, kw_only=True)
class Known(DDPM):
    """N(MU, STD^2) data, whose denoiser is known."""

    def denoiser(self, params, cond=None, guided=True, sampling=False):
        return lambda x, t: Denoised(gaussian_x0(x, *self.schedule.at(t, x.ndim), MU, STD))


def consistent(x, t):
    """F of the exact consistency function of these data."""
    cos, sin = cos_sin(t, x.ndim)
    f = MU + STD * (x - cos * MU) / jnp.sqrt(cos**2 * STD**2 + sin**2)
    return (cos * x - f) / jnp.maximum(sin, 1e-4)


class ExactConsistency(Consistency):
    def flow(self, params, cond, dropout=None):
        return consistent


class ExactLCM(LCM):
    def flow(self, params, cond, dropout=None):
        return consistent


KNOWN = Teacher({}, Known(schedule=Cosine(1000), shape=(4, 2), sampler=DDIM(clip=0.0)))
MANY = MU + STD * jax.random.normal(jax.random.key(8), (64, 4, 2)), jax.random.normal(jax.random.key(9), (64, 4, 2))


def terms(model, taught=True):
    params = {"weighting": {"out": {"kernel": jnp.zeros((32, 1)), "bias": jnp.zeros(1)}}}

    @jax.jit
    def found(keys):
        state: Any = core.TrainState(jnp.int32(10), {}, {}, extra={TEACHER: KNOWN} if taught else {})
        return model.terms(params, state, keys, MANY, None, None)

    return found(sample_keys(2, 64))


def test_the_exact_consistency_function_is_taught_nothing():
    """By the teacher's velocity its tangent is 0; by that of each example it is so on average alone."""
    model = ExactConsistency(model=TrigFlow(shape=(4, 2)), warmup=5)
    losses, numbers = terms(model)
    assert numbers["tangent"].max() < 1e-6 and losses.max() < 1e-3
    _, single = terms(model, taught=False)
    assert single["tangent"].mean() > 0.05


def test_consistency_is_learnt_with_a_teacher_or_without():
    """All parameters move, the learned weight too, and nothing of the teacher stays in the state."""
    for batch in (WITH, {name: value for name, value in WITH.items() if name != TEACHER}):
        model = Consistency(model=Consistency().learner(OPEN), warmup=2, optimizer=Adam(lr=1e-2))
        state = core.init(model, jax.random.key(0), batch)
        assert state.extra == {} and set(state.params) == {"network", "weighting"}
        new = stepped(model, state, 4, batch)
        moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, new.params)
        assert all(jax.tree.leaves(moved)) and all(np.isfinite(a).all() for a in jax.tree.leaves(new.params))


def test_lcms_gap_is_the_error_of_one_ddim_step():
    """Locally of second order, so that its square falls sixteenfold where there are twice the levels."""
    gaps = [
        float(terms(ExactLCM(model=TrigFlow(shape=(4, 2)), levels=n))[1]["gap"].mean() * (1 if n == 20 else 16))
        for n in (20, 40)
    ]
    assert gaps[0] < 1e-5 and gaps[1] == pytest.approx(gaps[0], rel=0.35)


def test_a_path_that_has_ended_is_where_it_ends():
    """The first of the levels: the student follows the teacher's x_0hat, whatever it says itself at 0."""
    model = LCM(model=FlowMatching(shape=(4, 2), network=Tiny()), levels=1, huber=0.0)
    params = state_of(model.model, {"x": X}).params
    state: Any = core.TrainState(jnp.int32(0), {}, {}, extra={TEACHER: KNOWN})
    eps = jax.random.normal(jax.random.key(1), X.shape)
    losses, _ = model.terms(params, state, sample_keys(0, 6), (X, eps), None, None)
    x0 = gaussian_x0(np.asarray(eps, np.float64), 0.0, 1.0, MU, STD)
    own = model.model.denoiser(params)(eps, jnp.ones(6)).x0
    np.testing.assert_allclose(losses, np.sqrt(np.mean((own - x0) ** 2, axis=(1, 2))), rtol=1e-3)


def test_samples_depend_on_their_own_keys():
    model = Consistency(model=replace(OPEN, kind="trig"), sampler=Renoised(2)).in_steps(3)
    state = state_of(OPEN).replace(ema=None)
    many = core.sample(model, state, sample_keys(4, 3), LABELS)
    few = core.sample(model, state, sample_keys(4, 1, 1), LABELS[1:2])
    np.testing.assert_allclose(few[0], many[1], atol=1e-5)
    assert not np.allclose(many[0], many[2])


def test_a_fixed_path_is_that_of_the_sampler_of_students():
    """Progressive students sample by DDIM over their own levels: against a float64 loop."""
    model = replace(SHORT, sampler=Halved(2, of=4, clip=0.0))
    state = state_of(OPEN, seed=2).replace(ema=None)
    keys = sample_keys(0, 3)
    z = core.normal_each(core.fold_each(keys, 0), (4, 2))
    x = core.sample(model, state, sample_keys(0, 3), LABELS)
    denoise = model.model.denoiser(state.params, LABELS)
    times = iter(model.sampler.table(OPEN.schedule).t)

    def x0(x, alpha, sigma):
        return np.asarray(denoise(jnp.float32(x), jnp.full(3, next(times))).x0, np.float64)

    expected = run(model.sampler.table(OPEN.schedule), OPEN.schedule, x0, np.asarray(z, np.float64))
    np.testing.assert_allclose(x, expected, atol=1e-3)


@pytest.mark.slow
def test_one_step_of_a_student_is_the_odes_map():
    """To 5 % of the data's scale, by distillation (sCD) of a density like two moons that is known in closed form."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, np.pi, 12)
    moons = np.concatenate([np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1),
                            np.stack([0.5 - np.cos(angle), 0.25 - np.sin(angle)], 1)])  # fmt: skip
    centres = jnp.asarray(moons, jnp.float32)

    @dataclass(frozen=True, kw_only=True)
    class Points(FlowMatching):
        """Gaussians of deviation 0.15 around points."""

        def denoiser(self, params, cond=None, guided=True, sampling=False):
            def denoise(x, t):
                alpha, sigma = (a[..., None] for a in self.schedule.at(t, x.ndim))
                var = alpha**2 * 0.15**2 + sigma**2
                away = x[:, None] - alpha * centres[None]
                weight = jax.nn.softmax(-0.5 * jnp.sum(away**2, axis=-1) / var[..., 0], axis=-1)
                return Denoised(jnp.sum(weight[..., None] * (centres[None] + alpha * 0.15**2 / var * away), axis=1))

            return denoise

    teacher = Teacher({}, Points(shape=(2,), schedule=Straight(), sampler=Heun(steps=60, clip=0.0)))
    model = Consistency(
        model=TrigFlow(shape=(2,), network=TimeMLP(width=128, depth=3)), start="random", warmup=1000,
        optimizer=Adam(lr=3e-4, decay_steps=6000), ema_decay=0.999,
    )  # fmt: skip

    def batch_of(key):
        pick, noise = jax.random.split(key)
        x = centres[jax.random.randint(pick, (256,), 0, len(centres))] + 0.15 * jax.random.normal(noise, (256, 2))
        return {"x": x, TEACHER: teacher.for_each(256)}

    @jax.jit
    def train(state, keys):
        def body(state, key):
            return model.train_step(state, key, batch_of(jax.random.fold_in(key, 1)))

        return jax.lax.scan(body, state, keys)

    state = model.init(jax.random.key(0), batch_of(jax.random.key(1)))
    state, _ = train(state, jax.random.split(jax.random.key(2), 6000))
    keys = sample_keys(7, 2000)
    ode = np.asarray(teacher.model.sampler(teacher.model.denoiser({}), Straight(), keys, (2,)))
    one = np.asarray(core.sample(model, state, sample_keys(7, 2000)))
    error = np.sqrt(np.mean((one - ode) ** 2)) / ode.std()
    assert error < 0.05, error
