"""Tacotron 2: text to a log mel spectrogram, arXiv:1712.05884, trained as NVIDIA's code is.

text: i32[B, T], symbols of which text_length[b] are real; x: f32[B, F, bands], log mels of which length[b] frames are
real. The network (see `nets.tacotron2`) gives r frames a step, the true ones before given (teacher forcing): y before
its postnet and y' after it, a gate g_s and the attention's weights a_sj. S_b = ceil(length[b] / r) steps are real, and
what the last of them has after the end is silence.

  loss = |y - x|^2 + |y' - x|^2 + BCE(g_s, s = S_b - 1) + w_g sum_j a_sj W_sj,
  W_sj = 1 - exp(-(j / T_b - s / S_b)^2 / (2 width^2))            (guided attention, eq. 10 of arXiv:1710.08969)

each a mean over real steps. In use the frames before are the network's own, until g_s is above the threshold: each
sample stops by itself. cond = {"text": i32[N, T], "length": i32[N]}.

A network that was given true frames alone follows them more than its text, and goes astray on its own. In training a
share of the groups before is therefore what it says itself, step after step (scheduled sampling, arXiv:1506.03099), as
inputs without a gradient.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxgen.core.gradients import Seen
from jaxgen.core.keys import one_key, split_each, uniform_each
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Fraction, NonNegative, OptionalSize, Positive, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, RawBatch, TrainState
from jaxgen.errors import UserError
from jaxgen.models.shared import check_rows, concrete, outside
from jaxgen.nets.apply import apply, apply_mutable
from jaxgen.nets.tacotron2 import HIDDEN, Decoded, Tacotron2Net, prenet_masks, reals
from jaxgen.optim import Adam, Optimizer


class Speech(NamedTuple):
    """What is spoken."""

    mel: jax.Array  # f32[N, F, bands], silent after `length`
    length: jax.Array  # i32[N]: frames
    alignment: jax.Array  # f32[N, S, T]: weights of each symbol at each step, zero after the end
    stopped: jax.Array  # bool[N]: whether it came to an end by itself


@dataclass(frozen=True, kw_only=True)
class Tacotron2(LossModel):
    """x: f32[B, F, bands] with length, text and text_length, as `data.speech` gives them."""

    network: Tacotron2Net = field(default_factory=Tacotron2Net)
    optimizer: Optimizer = Adam(lr=1e-3, eps=1e-6, weight_decay=1e-6, clip=1.0)
    max_frames: Steps = 1000
    """Frames at most; NVIDIA's code has 1,000."""
    threshold: Fraction = 0.5
    """Of the gate's probability, above which a sample ends."""
    stop_weight: Positive = 1.0
    """Of the one last step of an example, in the gate's loss."""
    guided: NonNegative = 0.0
    """w_g, which draws the attention to the diagonal; NVIDIA's code has none. Small data needs some."""
    guided_width: Positive = 0.4
    """Of the diagonal, as a share of the text."""
    own: Fraction = 0.0
    """In training, the share of steps that are given the network's own group before, not the true one; NVIDIA's code
    has none."""
    window: OptionalSize = 0
    """In use, look at no symbol before the one looked at most, and at none so many after it; 0 for all."""
    silence: float = -11.512925
    """The log mel of nothing, the logarithm of 1e-5."""

    # --- checks ---

    @property
    def vocab(self) -> int:
        return self.network.vocab

    @property
    def steps(self) -> int:
        """Decoder steps at most."""
        return -(-self.max_frames // self.network.reduction)

    def check(self, batch: Batch | RawBatch) -> None:
        missing = [name for name in ("text", "text_length", "length") if name not in batch]
        if missing or len(batch["x"].shape) != 3:
            raise UserError(
                f"examples are {batch['x'].dtype}{list(batch['x'].shape[1:])} with {', '.join(sorted(batch))}: log "
                "mels with their text are expected, as SpeechFolder and Spoken give them"
            )
        check_rows(batch["text"])
        if batch["x"].shape[2] != self.network.bands:
            raise UserError(
                f"mels have {batch['x'].shape[2]} bands, the network {self.network.bands}: pass "
                f"--model.network.bands {batch['x'].shape[2]}"
            )
        if self.accumulate > 1:
            raise UserError(
                f"model.accumulate is {self.accumulate}, but batch normalization mixes the examples of a batch: leave "
                "it at 1"
            )

    def check_cond(self, cond: PyTree) -> None:
        if not isinstance(cond, dict) or not {"text", "length"} <= cond.keys():
            raise UserError("texts are expected as condition: symbols `text` and their numbers `length`")
        text, length = cond["text"], cond["length"]
        check_rows(text)
        if (bad := outside(text, self.vocab)) is not None:
            raise UserError(f"symbol {bad} is out of range: the model knows 0 to {self.vocab - 1}")
        if concrete(length) and not bool(jnp.all((length >= 1) & (length <= text.shape[1]))):
            raise UserError(f"texts of {jnp.min(length)} to {jnp.max(length)} symbols are in rows of {text.shape[1]}")

    def sample_cond(self, num: int, batch: Batch | RawBatch) -> PyTree:
        """The texts of the batch, over and over."""
        places = jnp.arange(num) % len(batch["text"])
        text, length = (jnp.asarray(batch[name])[places] for name in ("text", "text_length"))
        return {"text": text.astype(jnp.int32), "length": length.astype(jnp.int32)}

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": self._begin(key)["params"]}

    def init_extra(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        return {"network": {"batch_stats": self._begin(key)["batch_stats"]}}

    def _begin(self, key: jax.Array) -> PyTree:
        """Variables of the network, from the smallest input."""
        one, net = jnp.ones((1,), jnp.int32), self.network
        frames = jnp.zeros((1, net.reduction, net.bands))
        masks = jnp.zeros((1, 1, sum(net.prenet)))
        return net.init(key, one[:, None], one, frames, net.reduction * one, masks)

    def _given(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Standardised frames f32[B, S r, bands], silence after the end, and the real steps S_b, i32[B]."""
        net, x = self.network, batch["x"].astype(jnp.float32)
        num = -(-x.shape[1] // net.reduction)
        x = jnp.pad(x, ((0, 0), (0, num * net.reduction - x.shape[1]), (0, 0)))
        x = jnp.where(reals(batch["length"], x.shape[1])[..., None], x, self.silence)
        return (x - net.mean) / net.deviation, -(-batch["length"] // net.reduction)

    def _numbers(
        self, batch: Batch, frames: jax.Array, steps: jax.Array, decoded: Decoded, refined: jax.Array
    ) -> dict[str, jax.Array]:
        """Sums over the real steps of each example, f32[B]: the terms of the loss, and how sharp the attention is."""
        net, num = self.network, decoded.gates.shape[1]
        real = reals(steps, num).astype(jnp.float32)
        by_frame = jnp.repeat(real, net.reduction, axis=1)

        def squared(y: jax.Array) -> jax.Array:
            return jnp.sum(jnp.mean((y - frames) ** 2, axis=-1) * by_frame, axis=1) / net.reduction

        last = (jnp.arange(num)[None] == steps[:, None] - 1).astype(jnp.float32)
        gate = optax.sigmoid_binary_cross_entropy(decoded.gates, last) * (1 + (self.stop_weight - 1) * last)
        text_length = batch["text_length"][:, None, None]
        place = jnp.arange(decoded.alignment.shape[2])[None, None] / text_length
        apart = place - jnp.arange(num)[None, :, None] / steps[:, None, None]
        off = decoded.alignment * (1 - jnp.exp(-(apart**2) / (2 * self.guided_width**2)))
        return {
            "mel": squared(decoded.frames),
            "mel_post": squared(refined),
            "gate": jnp.sum(gate * real, axis=1),
            "off_diagonal": jnp.sum(jnp.sum(off, axis=2) * real, axis=1),
            "sharpness": jnp.sum(jnp.max(decoded.alignment, axis=2) * real, axis=1),
        }

    def _passed(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch, train: bool = False):
        """Numbers f32[B] by name, their steps f32[B], and the network's new running averages."""
        frames, steps = self._given(batch)
        keys_prenet, keys_drop, keys_own = split_each(keys, 3)
        masks = self._masks(keys_prenet, jnp.arange(frames.shape[1] // self.network.reduction))
        variables = {"params": params["network"], **state.extra["network"]}
        length = steps * self.network.reduction
        before = self._own(variables, keys_own, batch, frames, masks) if train and self.own else frames
        given = (batch["text"], batch["text_length"], before, length, masks)
        extra = state.extra["network"]
        if train:
            (decoded, refined), extra = apply_mutable(
                self.network, variables, *given, True, mutable=["batch_stats"], rngs={"dropout": one_key(keys_drop)}
            )
        else:
            decoded, refined = apply(self.network, variables, *given)
        return self._numbers(batch, frames, steps, decoded, refined), steps.astype(jnp.float32), extra

    def _own(self, variables: PyTree, keys: jax.Array, batch: Batch, frames: jax.Array, masks: jax.Array) -> jax.Array:
        """Frames as `frames`, f32[B, S r, bands], of which the share `own` of groups is what the network says of those
        before, its own among them."""
        net = self.network
        variables = jax.lax.stop_gradient(variables)
        memory = apply(net, variables, batch["text"], batch["text_length"], method="encode")
        carry, last = apply(net, variables, memory, method="start")
        groups = jnp.swapaxes(frames.reshape(len(frames), len(masks), -1), 0, 1)
        chosen = uniform_each(keys, (len(masks), 1), 0.0, 1.0) < self.own

        def advance(loop, given):
            carry, last, group = loop
            mask, true, own = given
            carry, last, said, _ = apply(net, variables, memory, carry, last, group, mask, method="step")
            group = jnp.where(own, said, true)
            return (carry, last, group), group

        start = (carry, last, jnp.zeros_like(groups[0]))
        _, groups = jax.lax.scan(advance, start, (masks, groups, jnp.swapaxes(chosen, 0, 1)))
        return jnp.swapaxes(groups, 0, 1).reshape(frames.shape)

    def seen(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Seen]:
        sums, steps, extra = self._passed(params, state, keys, batch, True)
        metrics = {name: jnp.sum(value) / jnp.sum(steps) for name, value in sums.items()}
        value = metrics["mel"] + metrics["mel_post"] + metrics["gate"] + self.guided * metrics["off_diagonal"]
        return value, Seen(metrics, extra={"network": extra}, weight=jnp.sum(steps))

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        state, seen = self._step(state, key, batch)
        return state.replace(extra={**state.extra, **seen.extra}), seen.metrics

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """The terms of the loss, as sums and steps, f32[B, 2]."""
        sums, steps, _ = self._passed(state.sampling_params, state, keys, batch)
        return {name: jnp.stack([value, steps], axis=-1) for name, value in sums.items()}

    def _masks(self, keys: jax.Array, steps: jax.Array) -> jax.Array:
        return prenet_masks(keys, steps, self.network.prenet, self.network.prenet_dropout)

    # --- in use ---

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Log mels f32[N, F, bands], silent after the end, F = `max_frames` up to a multiple of r."""
        return self.speak(state, keys, cond).mel

    def speak(self, state: TrainState, keys: jax.Array, cond: PyTree) -> Speech:
        """Log mels, how long they are, and what was looked at."""
        return self.spoken_by(state, cond, lambda step: self._masks(keys, step[None])[0])

    def spoken_by(self, state: TrainState, cond: PyTree, masks) -> Speech:
        """`speak` with the prenet's factors f32[N, sum of prenet] of each step, masks(step)."""
        net, num = self.network, self.steps
        variables = {"params": state.sampling_params["network"], **state.extra["network"]}
        text, length = cond["text"], cond["length"]
        memory = apply(net, variables, text, length, method="encode")
        products = apply(net, variables, memory, method="products")
        carry, last = apply(net, variables, memory, method="start")
        batch = text.shape[0]
        places = jnp.arange(text.shape[1])[None]

        def advance(loop):
            step, carry, last, group, end, groups, gates, looked = loop
            m = memory
            if self.window:
                most = jnp.argmax(carry.weights, axis=1)[:, None]
                near = (places >= most) & (places <= most + self.window)
                m = m._replace(bias=jnp.where(near, m.bias, HIDDEN))
            carry, last, group, gate = apply(
                net, variables, m, carry, last, group, masks(step), products, method="step"
            )
            # The step that ends is the last one of the sample.
            ends = (jax.nn.sigmoid(gate) > self.threshold) & (end == num)
            end = jnp.where(ends, step + 1, end)
            groups, gates, looked = (
                jax.lax.dynamic_update_index_in_dim(old, new, step, 0)
                for old, new in ((groups, group), (gates, gate), (looked, carry.weights))
            )
            return step + 1, carry, last, group, end, groups, gates, looked

        size = net.reduction * net.bands
        start = (
            jnp.int32(0), carry, last, jnp.zeros((batch, size)), jnp.full(batch, num, jnp.int32),
            jnp.zeros((num, batch, size)), jnp.full((num, batch), -jnp.inf), jnp.zeros((num, *text.shape)),
        )  # fmt: skip
        loop = jax.lax.while_loop(lambda loop: (loop[0] < num) & jnp.any(loop[4] > loop[0]), advance, start)
        *_, end, groups, gates, looked = loop
        frames = jnp.swapaxes(groups, 0, 1).reshape(batch, -1, net.bands)
        length = end * net.reduction
        mel = apply(net, variables, frames, length, method="refine") * net.deviation + net.mean
        mel = jnp.where(reals(length, mel.shape[1])[..., None], mel, self.silence)
        real = reals(end, num)
        stopped = jnp.any((jax.nn.sigmoid(gates.T) > self.threshold) & real, axis=1)
        return Speech(mel, length, jnp.where(real[..., None], jnp.swapaxes(looked, 0, 1), 0.0), stopped)
