"""Diffusion models: settings, batches and conditions that are refused."""

from dataclasses import replace

import jax.numpy as jnp
import pytest
from tiny_diffusion import BATCH, IMAGES, LABELS, MODEL, NULL, state_of

from jaxgen.core.configuration import check_fields
from jaxgen.errors import UserError
from jaxgen.models.alignment import Alignment
from jaxgen.models.ddpm import DDPM
from jaxgen.models.edm import EDM
from jaxgen.models.flow_matching import FlowMatching
from jaxgen.models.mean_flow import MeanFlow
from jaxgen.models.score_matching import ScoreMatching
from jaxgen.models.shortcut import Shortcut
from jaxgen.nets.dit import DiT
from jaxgen.ops.diffusion import Denoised
from jaxgen.ops.guidance import Guidance
from jaxgen.ops.samplers import DDIM, Heun
from jaxgen.ops.schedules import Geometric, Karras, Sigmoid

# --- settings that do not go together ---


@pytest.mark.parametrize(("model", "words"), [
    (lambda: FlowMatching(kind="eps"), "kind is eps, which tells nothing"),
    (lambda: FlowMatching(kind="score"), "kind is score, which tells nothing"),
    (lambda: MeanFlow(kind="x0"), "what a flow map learns is a velocity"),
    (lambda: Shortcut(kind="v"), "what a flow map learns is a velocity"),
    (lambda: EDM(kind="v"), "the network's target is F"),
    (lambda: EDM(uncertainty=8, network=DiT(), align=Alignment(weight=0.5)), "align.weight adds what is none"),
    (lambda: EDM(schedule=Karras(sigma_min=1.0, sigma_max=0.5)), "sigma_min < sigma_max is expected"),
    (lambda: EDM(sampler=Heun(churn=5.0, churn_min=3.0, churn_max=1.0)), "churn_min <= churn_max is expected"),
    (lambda: ScoreMatching(schedule=Geometric(sigma_min=50.0, sigma_max=0.01)), "sigma_min < sigma_max is expected"),
    (lambda: DDPM(schedule=Sigmoid(low=1.0, high=1.0)), "low < high is expected"),
    (lambda: DDPM(schedule=Sigmoid(tau=0.0)), "tau is 0"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(model, words):
    with pytest.raises(UserError, match=words):
        check_fields(model())


# --- what cannot work ---

GOOD = {"x": jnp.zeros((2, 4, 4, 1)), "cond": jnp.array([0, 2])}


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (IMAGES, {**GOOD, "x": jnp.zeros((2, 5, 4, 1))}, "pass --model.shape 5 4 1"),
        (IMAGES, {"x": GOOD["x"]}, "no labels"),
        (IMAGES, {**GOOD, "cond": jnp.array([0, 3])}, "label 3 is out of range"),
        (replace(IMAGES, shape=(5, 4, 1)), {**GOOD, "x": jnp.zeros((2, 5, 4, 1))}, "multiples of 2"),
        (replace(IMAGES, sampler=DDIM(500)), GOOD, "choose 1 to 100"),
        (replace(IMAGES, sampler=Heun(5, churn=3.0)), GOOD, "churn is 3"),
        (replace(IMAGES, guidance=Guidance(scale=2.0)), GOOD, "guidance needs a model trained with classes"),
        (replace(IMAGES, bound_steps=500), GOOD, "choose 1 to 100"),
        (replace(IMAGES, ode_steps=100), GOOD, "choose 1 to 100"),
        (EDM(network=IMAGES.network, shape=(4, 4, 1), sampler=Heun(0), schedule=Karras()), GOOD, "choose 1 or more"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(model, batch, message):
    IMAGES.check(GOOD)
    with pytest.raises(UserError, match=message) as error:
        model.check(batch)
    assert "\n" not in str(error.value)


def test_conditions_are_checked():
    MODEL.check_cond(NULL)
    MODEL.check_cond({"label": LABELS, "guidance": jnp.ones(3)})
    with pytest.raises(UserError, match="label -1 is out of range"):
        replace(MODEL, class_dropout=0.0).check_cond(NULL)
    with pytest.raises(UserError, match="guidance needs a model trained with classes"):
        replace(MODEL, class_dropout=0.0, guidance=Guidance(scale=3.0)).check_cond(LABELS)
    with pytest.raises(UserError, match="without class_dropout"):
        replace(MODEL, class_dropout=0.0).check_cond({"label": LABELS, "guidance": jnp.ones(3)})
    with pytest.raises(UserError, match="no condition"):
        MODEL.check_cond({"guidance": jnp.ones(3)})
    assert isinstance(MODEL.denoiser(state_of(MODEL).params, LABELS)(jnp.ones((3, 4, 2)), jnp.zeros(3, int)), Denoised)


def test_examples_may_have_no_label_where_the_model_knows_what_none_means():
    """Label -1 is the null class; without class_dropout nothing has taught what it means."""
    MODEL.check({**BATCH, "cond": jnp.array([0, -1, 2, -1, 1, -1])})
    with pytest.raises(UserError, match="label -1 is out of range"):
        replace(MODEL, class_dropout=0.0).check({**BATCH, "cond": jnp.array([0, -1, 2, -1, 1, -1])})
    with pytest.raises(UserError, match="label -2 is out of range"):
        MODEL.check({**BATCH, "cond": jnp.array([0, -2, 2, -1, 1, -1])})
