"""Autoguidance (arXiv:2406.02507): a diffusion model guided by a worse one."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.models.conditions import guidance_scale
from jaxgen.models.diffusion import Diffusion
from jaxgen.ops.diffusion import Denoised


@dataclass(frozen=True, kw_only=True)
class Autoguided(GenerativeModel):
    """A model guided by a worse one of the same data and schedule, arXiv:2406.02507. It samples but does not train.

    The scale is model.guidance.scale, or `guidance` of the condition. `join` makes its state.
    """

    model: Diffusion
    guide: Diffusion

    def join(self, state: TrainState, guide: TrainState) -> TrainState:
        """The state of the pair, from the model's and the guide's."""
        return state.replace(opt_state={}, extra={**state.extra, "guide": guide.sampling_params})

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        model = self.model
        cond = model.drawn_told(keys, cond)
        good = model.denoiser(state.sampling_params, cond, guided=False, sampling=True)
        guide = replace(self.guide, sampler=model.sampler)
        worse = guide.denoiser(state.extra["guide"], cond, guided=False, sampling=True)
        scale = guidance_scale(cond, model.guidance)

        def denoise(x: jax.Array, t: jax.Array) -> Denoised:
            answer = good(x, t)
            w = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), t.shape)
            x0 = model.guidance.combine(answer.x0, worse(x, t).x0, w, *model.schedule.at(t, x.ndim))
            return answer._replace(x0=x0)

        return model.sampler(good if scale is None else denoise, model.schedule, keys, model.shape)

    def check_cond(self, cond: PyTree) -> None:
        self.model.check_labels(cond)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        return self.model.sample_cond(num, batch)
