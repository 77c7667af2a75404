"""What models of raw sound share: waveforms, cut into segments, and the mels that vocoders are told.

Mels are of the waveform itself, frame f around sample (f + 1/2) hop, so that F frames are of F hop samples. A vocoder's
cond = {"mel": f32[N, F, bands], "length": i32[N]}, of which the first length[i] frames are real.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from jaxgen.core.keys import integer_each
from jaxgen.core.model import GenerativeModel
from jaxgen.core.types import Batch, PyTree, RawBatch
from jaxgen.errors import UserError
from jaxgen.models.shared import concrete
from jaxgen.ops.audio import Mel, log_mel


class Waveforms(GenerativeModel):
    """x: f32[B, N] in [-1, 1]."""

    mel: Mel
    """Declared as a field by each subclass: the samples a second, and a spectrogram of them."""

    def check_waveforms(self, batch: Batch | RawBatch) -> None:
        """Raises UserError for examples that are no waveforms."""
        shape = tuple(batch["x"].shape[1:])
        if len(shape) != 1 or not jnp.issubdtype(batch["x"].dtype, jnp.floating):
            raise UserError(
                f"examples are {batch['x'].dtype}{list(shape)}: waveforms are expected, as the data Sounds gives them"
            )


class MelConditioned(Waveforms):
    """A model that is told the mel of its waveform, and is trained on segments."""

    segment: int
    """Declared as a field by each subclass: samples of each example that a step trains on."""

    def mel_problem(self, hop: int, bands: int | None = None) -> str | None:
        """What is wrong with `mel` and `segment` for a network that makes `hop` samples of a frame of `bands`."""
        if hop != self.mel.hop or bands not in (None, self.mel.bands):
            read = "" if bands is None else f" of {bands} bands"
            return (
                f"the network makes {hop} samples of a frame{read}, mel has frames of {self.mel.bands} bands every "
                f"{self.mel.hop} samples: set its rates, whose product is the samples, or mel"
            )
        if (self.mel.n_fft - self.mel.hop) % 2 or self.segment % self.mel.hop:
            return (
                f"n_fft is {self.mel.n_fft}, hop {self.mel.hop} and segment {self.segment}: an n_fft that differs from "
                "the hop by an even number, and a segment of whole hops, are expected"
            )
        if self.segment <= self.margin:
            return f"segment is {self.segment}, more than {self.margin} are expected: half of what frames overlap"
        return None

    def check_lengths(self, batch: Batch | RawBatch) -> None:
        """Raises UserError for examples that are no waveforms of whole hops, or are shorter than a segment."""
        self.check_waveforms(batch)
        (samples,) = batch["x"].shape[1:]
        if samples < self.segment or samples % self.mel.hop:
            raise UserError(
                f"examples have {samples} samples: a multiple of {self.mel.hop}, model.mel.hop, of at least "
                f"{self.segment}, model.segment, is expected: set --data.samples"
            )

    def check_cond(self, cond: PyTree) -> None:
        if not isinstance(cond, dict) or not {"mel", "length"} <= cond.keys():
            raise UserError("mels are expected as condition: `mel` and their frames `length`")
        mel, length = cond["mel"], cond["length"]
        if mel.ndim != 3 or mel.shape[2] != self.mel.bands or length.shape != mel.shape[:1]:
            raise UserError(
                f"the condition is a mel {list(mel.shape)} with length {list(length.shape)}: [N, F, {self.mel.bands}] "
                "and [N] are expected"
            )
        if concrete(length) and len(length) and not 0 <= int(jnp.min(length)) <= int(jnp.max(length)) <= mel.shape[1]:
            raise UserError(f"length has numbers outside 0 to {mel.shape[1]}, the frames of mel: correct it")

    @property
    def margin(self) -> int:
        """Samples by which frames reach beyond both ends of their waveform."""
        return (self.mel.n_fft - self.mel.hop) // 2

    def mels(self, x: jax.Array, all_frequencies: bool = False) -> jax.Array:
        """Log mels f32[B, N / hop, bands] of x, f32[B, N], continued by its reflection."""
        mel = replace(self.mel, low=0.0, high=self.mel.rate / 2) if all_frequencies else self.mel
        return log_mel(jnp.pad(x, ((0, 0), (self.margin, self.margin)), mode="reflect"), mel, centred=False)

    def pairs(self, keys: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """Mels and waveforms f32[B, segment] of random segments. A mel knows the samples beside its segment."""
        x = batch["x"]
        start = integer_each(keys, 0, x.shape[1] - self.segment + 1)
        wide = self.segment + 2 * self.margin
        x = jnp.pad(x, ((0, 0), (self.margin, self.margin)), mode="reflect")
        x = jax.vmap(lambda row, i: jax.lax.dynamic_slice(row, (i,), (wide,)))(x, start)
        return log_mel(x, self.mel, centred=False), x[:, self.margin : wide - self.margin]

    def scaled(self, mel: jax.Array) -> jax.Array:
        """A log mel with 0 for silence and 1 for a magnitude of 1, as a network is told it."""
        return 1 - mel / self.mel.silence

    def sample_cond(self, num: int, batch: Batch | RawBatch) -> PyTree:
        """The mels of `batch`, repeated as needed."""
        mel = self.mels(jnp.asarray(batch["x"])[jnp.arange(num) % len(batch["x"])])
        return {"mel": mel, "length": jnp.full(num, mel.shape[1], jnp.int32)}
