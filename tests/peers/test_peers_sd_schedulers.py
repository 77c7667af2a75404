"""Samplers with Stable Diffusion's conventions against diffusers' schedulers, on a mixture whose noise is known."""

import os
import warnings
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch")
from peers.inception import import_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # other packages' deprecations, on import alone
    with suppress(ImportError):
        import_torchvision()
    diffusers = pytest.importorskip("diffusers")
from closed_form import Mixture  # noqa: E402

from jaxgen import core  # noqa: E402
from jaxgen.ops.diffusion import Denoised  # noqa: E402
from jaxgen.ops.pndm import PNDM  # noqa: E402
from jaxgen.ops.samplers import DDIM, Ancestral, DPMSolverPP, Euler  # noqa: E402
from jaxgen.ops.schedules import ScaledLinear  # noqa: E402
from jaxgen.weights import stable_diffusion_configs as configs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
torch.set_num_threads(1)
DATA, SHAPE = Mixture(), (3, 2)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
      "timestep_spacing": "leading"}  # fmt: skip
DDIM_LIKE = {**SD, "set_alpha_to_one": False}
PAIRS = {
    "ddim": (DDIM(1, clip=0), {"end": "first"}, "DDIMScheduler", {**DDIM_LIKE, "clip_sample": False}),
    "pndm": (PNDM(1), {"end": "first"}, "PNDMScheduler", {**DDIM_LIKE, "skip_prk_steps": True}),
    "euler": (Euler(1, clip=0), {}, "EulerDiscreteScheduler", SD),
    "euler-ancestral": (Ancestral(1, clip=0), {}, "EulerAncestralDiscreteScheduler", SD),
    "dpm++": (DPMSolverPP(1, clip=0), {"spacing": "karras"}, "DPMSolverMultistepScheduler",
              {**SD, "use_karras_sigmas": True}),
}  # fmt: skip


def noise_of(x, t):
    """The exact eps_hat at the network's whole time t, float64."""
    alpha, sigma = ScaledLinear().levels(np.round(t).astype(int))
    return (x - alpha * DATA.x0(x, alpha, sigma)) / sigma


def theirs(scheduler, steps, noise):
    scheduler.set_timesteps(steps)
    x = torch.tensor(noise[0]) * scheduler.init_noise_sigma
    later = iter(noise[1:])
    calls = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "diffusers.schedulers.scheduling_euler_ancestral_discrete.randn_tensor",
            lambda *args, **kwargs: torch.tensor(next(later)),
        )
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t)
            x = scheduler.step(torch.tensor(noise_of(scaled.numpy(), t.numpy())), t, x).prev_sample
            calls += 1
    return x.numpy(), calls


def exact(schedule):
    """A network that answers the exact noise at its time, as a denoiser of the level that x is at."""
    whole = ScaledLinear()
    x0_at = DATA.denoise(whole)

    def denoise(x, t):
        time = schedule.network_time(t).astype(jnp.int32)
        alpha, sigma = whole.at(time, x.ndim)
        eps = (x - alpha * x0_at(x, time).x0) / sigma
        alpha, sigma = schedule.at(t, x.ndim)
        return Denoised((x - sigma * eps) / alpha)

    return denoise


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_scheduler(name, steps):
    sampler, changes, their_name, config = PAIRS[name]
    sampler, schedule = type(sampler)(steps, clip=0), ScaledLinear(**changes)
    keys = core.sample_keys(0, 3)
    noise = [np.asarray(core.normal_each(core.fold_each(keys, i), SHAPE)) for i in range(steps + 2)]
    got = jax.jit(lambda keys: sampler(exact(schedule), schedule, keys, SHAPE))(core.sample_keys(0, 3))
    expected, calls = theirs(getattr(diffusers, their_name)(**config), steps, noise)
    assert sampler.evaluations(schedule) == calls == steps + (name == "pndm" and steps > 1)
    np.testing.assert_allclose(got, expected, atol=1e-3)


@pytest.mark.parametrize(("kind", "settings", "expected"), [
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}, {"spacing": "ends"}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}, {"spacing": "leading"}),
    ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, {"spacing": "karras"}),
    ("DDIMScheduler", {"set_alpha_to_one": True, "clip_sample": False}, {"end": "data"}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1}, {"end": "first"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, {"spacing": "karras"}),
])  # fmt: skip
def test_times_are_those_that_a_folder_sets(kind, settings, expected, tmp_path):
    """They visit diffusers' times, and are written as they were read."""
    betas = {name: SD[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    scheduler = getattr(diffusers, kind)(**betas, **settings)
    config = {**scheduler.config, "_class_name": kind}
    schedule, sampler = configs.scheduler(config, tmp_path / "scheduler_config.json")
    for name, value in expected.items():
        assert getattr(schedule, name) == value
    scheduler.set_timesteps(20)
    theirs = np.array(scheduler.timesteps, np.float64)
    np.testing.assert_allclose(np.round(schedule.times(20)), np.round(theirs), atol=1)
    assert configs.scheduler(configs.of_scheduler(schedule, sampler), tmp_path / "again.json") == (schedule, sampler)


def test_what_a_folder_sets_and_is_not_done_is_said(capsys, tmp_path):
    config = {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", "clip_sample": True}
    assert configs.scheduler(config, tmp_path / "x.json")[0].spacing == "ends"
    said = capsys.readouterr().err
    assert "timestep_spacing 'trailing', which is not known" in said and "latents have no bounds" in said
