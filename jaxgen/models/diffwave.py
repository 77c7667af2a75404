"""DiffWave, arXiv:2009.09761: DDPM of waveforms, by a network of dilated convolutions (`nets.diffwave`).

The diffusion, its schedules and samplers are those of `models.ddpm`; x_0 is a waveform, and the loss is eq. 7 there,
E |eps - eps_theta(x_t, t)|^2. The paper's schedules are `Linear` in as many steps as they have: for 50 steps up to 0.05
beta_start and beta_end are 5e-6 and 0.0025, which `Linear` scales by 1000 / 50.

`DiffWave` is told a class or nothing; `DiffWaveVocoder` a mel, see `models.waveforms`.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from flax import linen as nn

from jaxgen.core.keys import split_each
from jaxgen.core.ranges import Decay, Shape
from jaxgen.core.types import Batch, PyTree, TrainState
from jaxgen.models.conditions import Inputs
from jaxgen.models.ddpm import DDPM
from jaxgen.models.waveforms import MelConditioned, Waveforms
from jaxgen.nets.diffwave import DiffWaveNet
from jaxgen.nets.waves import zero_after
from jaxgen.ops.audio import Mel
from jaxgen.ops.schedules import Discrete, Linear

FIFTY = Linear(num_steps=50, beta_start=1e-4 / 20, beta_end=0.05 / 20)
"""Of DiffWave BASE: beta from 1e-4 to 0.05 in 50 steps."""


@dataclass(frozen=True, kw_only=True)
class DiffWave(Waveforms, DDPM):
    """x: f32[B, N] in [-1, 1]."""

    network: nn.Module = field(default_factory=DiffWaveNet)
    schedule: Discrete = FIFTY
    shape: Shape = (16_384,)
    """(samples,)"""
    mel: Mel = Mel()
    """The samples a second, and the spectrogram of pictures and vocoders."""
    ema_decay: Decay = 0.999

    @property
    def outputs(self) -> int:
        return 1

    def problem(self) -> str | None:
        if self.learns_variance or self.text:
            return f"objective is {self.objective}, text {self.text}: simple and none are expected of sound"
        return None

    def check(self, batch: Batch) -> None:
        self.check_waveforms(batch)
        super().check(batch)

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return super().init_params(key, {name: value[:1] for name, value in batch.items()})

    def pictures(self, state: TrainState, keys: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        return {}


@dataclass(frozen=True, kw_only=True)
class DiffWaveVocoder(MelConditioned, DiffWave):
    """Section 3.2. `shape` is that of examples; what is vocoded has any length."""

    segment: Annotated[int, Ge(1), Le(1 << 20)] = 8192
    """Samples of each example that a step trains on."""

    def problem(self) -> str | None:
        rates: tuple[int, ...] = getattr(self.network, "rates", ())
        if self.num_classes:
            return f"num_classes is {self.num_classes}: a vocoder is told mels alone, 0 is expected"
        return DiffWave.problem(self) or self.mel_problem(math.prod(rates))

    def check(self, batch: Batch) -> None:
        self.check_lengths(batch)
        DiffWave.check(self, batch)

    def condition(self, batch: Batch) -> PyTree:
        if "mel" in batch:
            return {"mel": batch["mel"]}
        return {"mel": self.mels(batch["x"])}

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        return {**cond, "mel": self.scaled(cond["mel"])}

    def times_and_errors(
        self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys, keys_segment = split_each(keys, 2)
        mel, x = self.pairs(keys_segment, batch)
        return super().times_and_errors(params, state, keys, {"x": x, "mel": mel})

    def vocode(self, state: TrainState, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
        """Waveforms f32[N, F hop] in [-1, 1] of mels f32[N, F, bands], of which length[i] frames are real; zeros after
        them. What is beyond them has no influence."""
        denoise = self.denoiser(state.sampling_params, {"mel": mel, "length": length})
        x = self.sampler(denoise, self.schedule, keys, (mel.shape[1] * self.mel.hop,))
        return zero_after(jnp.clip(x, -1, 1), length * self.mel.hop)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """`vocode` of the condition's mel and length."""
        return self.vocode(state, keys, cond["mel"], cond["length"])
