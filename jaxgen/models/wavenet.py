"""WaveNet, arXiv:1609.03499: p(x) = prod_t p(x_t | x_1 ... x_{t-1}) over the samples of a waveform, drawn one by one.

x: a waveform, rounded to what `output` can draw. Training predicts all samples in one pass, each from those before it
(eq. 1). Sampling keeps in queues what each dilated layer needs of earlier samples (arXiv:1611.09482).

`WaveNet` is told a class or nothing; `WaveNetVocoder` a mel, see `models.waveforms`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le

from jaxgen.core.keys import uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Decay, OptionalSize, Positive, Shape
from jaxgen.core.types import Batch, Metrics, PyTree, RawBatch, TrainState
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_shape
from jaxgen.models.waveforms import MelConditioned, Waveforms
from jaxgen.nets.apply import apply
from jaxgen.nets.wavenet import Queues, WaveNetNet
from jaxgen.nets.waves import shifted, zero_after
from jaxgen.ops.audio import Mel
from jaxgen.ops.wave_outputs import MuLaw, WaveOutput

Told = dict[str, jax.Array]
"""What the network is told: `y`, or `mel` and `length`."""


@dataclass(frozen=True, kw_only=True)
class Autoregressive(Waveforms, LossModel):
    """What both have in common. x: f32[B, N] in [-1, 1]. `loss` is bits per sample."""

    network: WaveNetNet = WaveNetNet()
    output: WaveOutput = MuLaw()
    """The distribution of a sample, whose parameters the network outputs."""
    mel: Mel = Mel()
    """The samples a second, and the spectrogram of pictures and vocoders."""
    ema_decay: Decay = 0.999
    temperature: Positive = 1.0
    """Below 1, likely samples are drawn more often: less noise."""
    cached: bool = True
    """Sampling computes what is new at each sample; without, it runs the whole network for each."""

    # --- probabilities ---

    def _read(self, x: jax.Array) -> jax.Array:
        """What the network reads of drawn samples: tokens, or their values."""
        return self.output.level(x) if isinstance(self.output, MuLaw) else x

    def answer(self, params: PyTree, x: jax.Array, told: Told) -> jax.Array:
        """Parameters of all samples of x, f32[B, T], each of those before it: f32[B, T, outputs]."""
        before = self._read(shifted(x[..., None], 1)[..., 0])
        variables = {"params": params["network"]}
        return apply(self.network, variables, before, self.output.tokens, self.output.outputs, **told)

    def log_prob(self, params: PyTree, x: jax.Array, told: Told) -> jax.Array:
        """log p of each sample in nats, f32[B, T]; x is rounded to what can be drawn first."""
        x = self.output.nearest(x)
        return self.output.log_prob(self.answer(params, x, told), x)

    def told(self, cond: PyTree) -> Told:
        """What the network is told of a condition."""
        raise NotImplementedError

    def training_pair(self, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Told]:
        """The waveforms that a step trains on, f32[B, T], and what is told of them."""
        raise NotImplementedError

    def whole_pair(self, batch: Batch) -> tuple[jax.Array, Told]:
        """Whole examples and what is told of them."""
        raise NotImplementedError

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        x, pair = self.whole_pair({name: value[:1] for name, value in batch.items()})
        told: dict[str, Any] = pair
        variables = self.network.init(key, self._read(x), self.output.tokens, self.output.outputs, **told)
        return {"network": variables["params"]}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        """Bits per sample."""
        x, told = self.training_pair(keys, batch)
        return -jnp.mean(self.log_prob(params, x, told)) / math.log(2), {}

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """f32[B]: `bits_per_sample`, the exact -log2 p of whole examples over their samples."""
        x, told = self.whole_pair(batch)
        return {"bits_per_sample": -jnp.mean(self.log_prob(state.sampling_params, x, told), axis=1) / math.log(2)}

    # --- sampling ---

    def draw(self, params: PyTree, keys: jax.Array, length: int, told: Told) -> jax.Array:
        """Waveforms f32[len(keys), length], sample by sample."""
        return (self._draw_cached if self.cached else self._draw_whole)(params, keys, length, told)

    def _draw_cached(self, params: PyTree, keys: jax.Array, length: int, told: Told) -> jax.Array:
        variables, told = {"params": params["network"]}, dict(told)
        rows = {"t": jnp.arange(length), "u": uniform_each(keys, (length, 2)).swapaxes(0, 1)}
        if "mel" in told:
            mel = apply(self.network, variables, told.pop("mel"), told.pop("length", None), method="upsampled")
            rows["local"] = mel.swapaxes(0, 1)
        sizes = (self.output.tokens, self.output.outputs)

        def step(carry: tuple[jax.Array, Queues], row: Told) -> tuple[tuple[jax.Array, Queues], jax.Array]:
            before, queues = carry
            answer, queues = apply(
                self.network, variables, self._read(before), queues, row["t"], *sizes, row.get("local"), **told,
                method="step",
            )  # fmt: skip
            x = self.output.draw(answer, row["u"], self.temperature)
            return (x, queues), x

        start = (jnp.zeros(keys.shape), self.network.start(keys.shape[0]))
        return jax.lax.scan(step, start, rows)[1].swapaxes(0, 1)

    def _draw_whole(self, params: PyTree, keys: jax.Array, length: int, told: Told) -> jax.Array:
        u = uniform_each(keys, (length, 2))

        def step(t: jax.Array, x: jax.Array) -> jax.Array:
            answer = jax.lax.dynamic_index_in_dim(self.answer(params, x, told), t, 1, keepdims=False)
            drawn = self.output.draw(answer, jax.lax.dynamic_index_in_dim(u, t, 1, keepdims=False), self.temperature)
            return jax.lax.dynamic_update_index_in_dim(x, drawn, t, 1)

        return jax.lax.fori_loop(0, length, step, jnp.zeros((keys.shape[0], length)))


@dataclass(frozen=True, kw_only=True)
class WaveNet(ClassConditionalModel, Autoregressive):
    """cond: i32[B] in [0, num_classes) when num_classes > 0."""

    shape: Shape = (16_384,)
    """(samples,)"""
    num_classes: OptionalSize = 0

    def check(self, batch: Batch) -> None:
        self.check_waveforms(batch)
        check_shape(self.shape, batch)
        check_classes(self.num_classes, batch)

    def told(self, cond: PyTree) -> Told:
        y = self._one_hot(cond)
        return {} if y is None else {"y": y}

    def whole_pair(self, batch: Batch) -> tuple[jax.Array, Told]:
        return batch["x"], self.told(batch.get("cond"))

    def training_pair(self, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Told]:
        return self.whole_pair(batch)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """f32[len(keys), *shape]. cond: i32[len(keys)] for a conditional model."""
        return self.draw(state.sampling_params, keys, self.shape[0], self.told(cond))


@dataclass(frozen=True, kw_only=True)
class WaveNetVocoder(MelConditioned, Autoregressive):
    """Local conditioning on a mel, section 2.5, brought to every sample by transposed convolutions."""

    segment: Annotated[int, Ge(1), Le(1 << 20)] = 8192
    """Samples of each example that a step trains on. Zeros stand for what is before them."""

    def problem(self) -> str | None:
        return self.mel_problem(math.prod(self.network.rates))

    def check(self, batch: Batch | RawBatch) -> None:
        self.check_lengths(batch)

    def told(self, cond: PyTree) -> Told:
        return {"mel": self.scaled(cond["mel"]), "length": cond["length"]}

    def whole_pair(self, batch: Batch) -> tuple[jax.Array, Told]:
        return batch["x"], {"mel": self.scaled(self.mels(batch["x"]))}

    def training_pair(self, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Told]:
        mel, x = self.pairs(keys, batch)
        return x, {"mel": self.scaled(mel)}

    def vocode(self, state: TrainState, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
        """Waveforms f32[N, F hop] in [-1, 1] of mels f32[N, F, bands], of which length[i] frames are real; zeros after
        them. What is beyond them has no influence."""
        told = self.told({"mel": mel, "length": length})
        x = self.draw(state.sampling_params, keys, mel.shape[1] * self.mel.hop, told)
        return zero_after(x, length * self.mel.hop)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """`vocode` of the condition's mel and length."""
        return self.vocode(state, keys, cond["mel"], cond["length"])
