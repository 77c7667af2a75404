"""What a model can do beside the five methods of every model: a runtime-checkable protocol each.

Commands and the methods of `Run` ask for a protocol, never for a class, so that a new model needs no edit elsewhere.
x is f32[B, *shape] in model space; keys [B] are one key for each result; cond is as in `sample`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax

from jaxgen.core.types import PyTree, TrainState

# --- pictures -------------------------------------------------------------------------------------------------


@runtime_checkable
class Varies(Protocol):
    """Draws pictures like a given one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def vary(self, state: TrainState, keys: jax.Array, x: jax.Array, strength: float, cond: PyTree = None) -> jax.Array:
        """Pictures like x: strength 0 gives x back, 1 keeps nothing of it."""
        ...


@runtime_checkable
class Inpaints(Protocol):
    """Draws a part of a picture anew."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def inpaint(
        self, state: TrainState, keys: jax.Array, x: jax.Array, mask: jax.Array, cond: PyTree = None, resample: int = 1
    ) -> jax.Array:
        """Pictures that equal x where mask, bool[1 or B, H, W, 1 or C], is true; the rest is drawn to go with it.
        resample: times that each step is taken. Raises UserError where the family has one way to take it."""
        ...


@runtime_checkable
class Infills(Protocol):
    """Draws some tokens of a row anew: parts of pictures, where the tokens are codes of a first stage."""

    def infill(
        self, state: TrainState, keys: jax.Array, tokens: jax.Array, given: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """Rows that equal tokens, i32[B, T], where given, bool[1 or B, T], is true; the others are drawn to go with
        them."""
        ...


@runtime_checkable
class Restores(Protocol):
    """Draws pictures behind a degraded one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def restore(
        self, state: TrainState, keys: jax.Array, y: jax.Array, measure: Callable[[jax.Array], jax.Array],
        std: jax.Array | float, cond: PyTree = None, iterations: int = 3,
    ) -> jax.Array:  # fmt: skip
        """Samples of p(x | y), y: f32[B, ...] = measure(x) + std noise with a linear measure."""
        ...


@runtime_checkable
class Interpolates(Protocol):
    """Goes from one sample to another."""

    def interpolate(
        self, state: TrainState, keys: jax.Array, others: jax.Array, weight: jax.Array, cond: PyTree = None
    ) -> jax.Array:
        """Samples between those of keys (weight 0) and of others (weight 1); weight: f32[B]."""
        ...


@runtime_checkable
class Continues(Protocol):
    """Continues clips from their first frames."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, C)."""
        ...

    @property
    def given(self) -> int:
        """Frames at most that it was given in training; 0 where it was given none, and any number may be."""
        ...

    def continuing(self, x: jax.Array, given: int, cond: PyTree = None) -> PyTree:
        """The condition under which samples continue clips x, [B, F, H, W, C], after their first `given` frames."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Answers a picture with a picture: its condition is the source."""

    @property
    def noise(self) -> bool:
        """Whether two answers to one source differ."""
        ...

    def translate(self, state: TrainState, keys: jax.Array, source: jax.Array) -> jax.Array:
        """f32[B, H, W, C] of sources uint8[B, H, W, C'] of any size."""
        ...


# --- codes and latents ----------------------------------------------------------------------------------------


@runtime_checkable
class CodeStage(Protocol):
    """A first stage of codes: what another model sees are its tokens."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def num_codes(self) -> int:
        """How many values a token takes."""
        ...

    @property
    def maps(self) -> tuple[tuple[int, int], ...]:
        """Height and width of each map of codes; their tokens follow one another, map after map."""
        ...

    def encode_codes(self, state: TrainState, x: jax.Array) -> jax.Array:
        """Tokens i32[B, T] of x."""
        ...

    def decode_codes(self, state: TrainState, tokens: jax.Array) -> jax.Array:
        """x of tokens."""
        ...


@runtime_checkable
class LatentStage(Protocol):
    """A first stage of vectors: what another model sees are its latents."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(h, w, D)."""
        ...

    @property
    def draws_latents(self) -> bool:
        """Whether a latent is drawn, rather than computed."""
        ...

    def to_latent(self, state: TrainState, x: jax.Array, key: jax.Array) -> jax.Array:
        """f32[B, h, w, D] of x; key where it is drawn."""
        ...

    def from_latent(self, state: TrainState, z: jax.Array) -> jax.Array:
        """x of latents."""
        ...


@runtime_checkable
class WalksLatents(Protocol):
    """Has latents to walk between, for perceptual path lengths."""

    @property
    def latent_ways(self) -> tuple[str, ...]:
        """The ways it knows, of `metrics.ppl.INTERPOLATIONS`; the first bears the plain name of the number."""
        ...

    def latent_path(
        self, state: TrainState, keys: jax.Array, cond: PyTree = None, way: str = ""
    ) -> tuple[Callable[[jax.Array], jax.Array], jax.Array, jax.Array, Callable]:
        """(generate, a, b, interpolate): images of latents [2 B, D], the ends of a path for each key [B, D], and
        interpolate(a, b, t) between them."""
        ...


class LatentSpace(NamedTuple):
    """Latents of samples under their conditions: a pytree with leading axis B, which a gradient may move."""

    draw: Callable[[jax.Array], PyTree]
    """Keys [B] to latents of samples."""
    decode: Callable[[PyTree], jax.Array]
    """Latents to x, differentiable."""
    cost: Callable[[PyTree], jax.Array]
    """How unlikely latents are, f32[B]: -log p up to a constant, or what stands for it where there is no density."""


@runtime_checkable
class HasLatents(Protocol):
    """Draws its samples from latents that can be optimized."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def latent_space(self, state: TrainState, cond: PyTree = None) -> LatentSpace:
        """The latents under conditions."""
        ...


@runtime_checkable
class Steers(Protocol):
    """Draws samples that a loss of x draws aside on the way."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> PyTree:
        """As of every model: without the loss."""
        ...

    def steer(
        self,
        state: TrainState,
        keys: jax.Array,
        loss: Callable[[jax.Array, jax.Array], jax.Array],
        cond: PyTree = None,
        frames: int = 0,
    ) -> jax.Array:
        """Samples about as likely as p(x) exp(-loss). loss(x, keys): f32[B] of predictions of x; its keys [B] are new
        ones at each step. frames: if above 0, that many states on the way instead, [frames, B, *shape]."""
        ...


@runtime_checkable
class WritesText(Protocol):
    """Goes on from a prompt, token by token."""

    def check_cond(self, cond: PyTree) -> None: ...

    @property
    def decoding(self) -> Any:
        """`ops.decoding.Decoding`: how tokens are drawn, and the token that ends a text."""
        ...

    @property
    def window(self) -> int:
        """Tokens that it sees at once."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens drawn for each sample."""
        ...

    @property
    def together(self) -> int:
        """Tokens that are drawn at once: as many, or a multiple, are to be asked of `write`."""
        ...

    def begin(self, params: PyTree, num: int, cond: PyTree, tokens: int = 0, slots: int = 0) -> Any:
        """A writer that has read the prompts of `num` samples."""
        ...

    def write(
        self, params: PyTree, writer: Any, keys: jax.Array, first: jax.Array | int, num: int
    ) -> tuple[Any, jax.Array]:
        """The writer, and `num` more tokens of each sample from the `first` on, i32[B, num]."""
        ...


@runtime_checkable
class Speaks(Protocol):
    """Reads texts out."""

    def check_cond(self, cond: PyTree) -> None: ...

    def speak(
        self, state: TrainState, keys: jax.Array, cond: PyTree
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Log mels f32[N, F, bands] of texts, cond {"text": i32[N, T], "length": i32[N]}; their frames i32[N]; the
        weights of each symbol at each step, f32[N, S, T]; and whether each came to an end by itself, bool[N]."""
        ...


@runtime_checkable
class DrawsSound(Protocol):
    """Draws waveforms f32[N, samples] in [-1, 1]."""

    @property
    def mel(self) -> Any:
        """`ops.audio.Mel`: the samples a second, and the spectrogram that pictures show."""
        ...


@runtime_checkable
class Vocodes(Protocol):
    """Makes sound of log mels."""

    @property
    def mel(self) -> Any:
        """`ops.audio.Mel`: the spectrogram that it reads, frame f around sample (f + 1/2) hop."""
        ...

    def vocode(self, state: TrainState, keys: jax.Array, mel: jax.Array, length: jax.Array) -> jax.Array:
        """Waveforms f32[N, F hop] in [-1, 1] of mels f32[N, F, bands], of which length[i] frames are real: zeros after
        these, and nothing depends on the frames that are not."""
        ...


# --- numbers --------------------------------------------------------------------------------------------------


@runtime_checkable
class Classifies(Protocol):
    """Tells classes, and gives features to score others by."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def classify(self, params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features f32[B, D] and logits f32[B, K] of x."""
        ...


@runtime_checkable
class ScoresText(Protocol):
    """Embeds pictures and texts in one space, in which a text is near the pictures that it describes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W, C) of the pictures that its network sees, to which others are resized."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How pictures are resized and normalized, as JSON, for the provenance of scores."""
        ...

    def image_features(self, params: PyTree, x: jax.Array) -> jax.Array:
        """f32[B, D] of any norm, whose directions are `embed_images`."""
        ...

    def logit_scale(self, params: PyTree) -> jax.Array:
        """s of p(text | picture) ~ exp(s cos(u, v)), f32[]."""
        ...

    def embed_images(self, params: PyTree, x: jax.Array) -> jax.Array:
        """Unit vectors f32[B, D] of pictures f32[B, H, W, C] in [-1, 1] of any size."""
        ...

    def embed_text(self, params: PyTree, text: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Unit vectors f32[B, D] of tokens i32[B, T], as `data.Captioned.tokens` gives them. mask: bool[B, T], false
        for padding."""
        ...


@runtime_checkable
class ClassConditional(Protocol):
    """Draws samples of a class, a label i32[B] in [0, num_classes); 0 classes for an unconditional model."""

    @property
    def num_classes(self) -> int: ...


@runtime_checkable
class RendersViews(Protocol):
    """Shows a scene in whole pictures."""

    @property
    def background(self) -> tuple[float, float, float]:
        """RGB in [0, 1] behind the scene."""
        ...

    def render_views(self, state: TrainState, cameras: jax.Array, size: tuple[int, int]) -> Any:
        """`ops.volume.Rendered`, with leading axes [N, H, W], of cameras f32[N, 18] (see `ops.splatting`); size: (H, W)
        of the pictures."""
        ...


@runtime_checkable
class RadianceField(Protocol):
    """Shows a scene along rays."""

    @property
    def bound(self) -> float:
        """The scene lies in [-bound, bound]^3."""
        ...

    @property
    def background(self) -> tuple[float, float, float]:
        """RGB in [0, 1] behind the scene."""
        ...

    def render(self, state: TrainState, rays: jax.Array) -> Any:
        """`ops.volume.Rendered` of rays f32[N, 9]."""
        ...

    def at_points(self, state: TrainState, x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Density f32[N] and colour f32[N, 3] at points x in directions d, f32[N, 3] each."""
        ...
