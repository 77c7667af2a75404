"""CLIP (arXiv:2103.00020): pictures and their captions embedded side by side, and the others of the batch apart.

u_i, v_j: unit vectors of picture i and caption j; s: the scale of logits, b: a bias.
InfoNCE, figure 3: L = (CE(rows of s u v', i) + CE(columns, i)) / 2.
SigLIP's sigmoid loss, eq. 1 of arXiv:2303.15343: L = -1/B sum_ij log sigmoid(z_ij (s u_i v_j + b)), where z_ij is 1 if
i = j, else -1.
Both are over the whole batch, on whichever devices its parts lie: the products are of global arrays.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import fold_each, normal_each, one_key
from jaxgen.core.model import LossModel
from jaxgen.core.ranges import Shape, Steps
from jaxgen.core.types import Batch, Metrics, PyTree, TrainState
from jaxgen.errors import UserError
from jaxgen.models.conditions import check_text, text_rows
from jaxgen.models.shared import ascend
from jaxgen.nets.apply import apply
from jaxgen.nets.clip import MOST_SCALE, CLIPNetwork
from jaxgen.nets.lora import base_of, is_adapted
from jaxgen.ops.resize import clean_bicubic

START = 0  # stream of a sample's key: the noise that ascent starts from


@dataclass(frozen=True, kw_only=True)
class CLIP(LossModel):
    """x: f32[B, H, W, C] in [-1, 1], resized to `shape`; text: i32[B, T]; text_mask: bool[B, T], false for padding."""

    network: CLIPNetwork = field(default_factory=CLIPNetwork)
    shape: Shape = (224, 224, 3)
    objective: Literal["infonce", "sigmoid"] = "infonce"
    """sigmoid is SigLIP's, which needs a bias: network.scale 2.3026 and network.bias -10 are its start."""
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    """Of the channels in [0, 1], or of all alike if one: subtracted from pictures."""
    deviation: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    """Pictures are then divided by it."""
    ascent_steps: Steps = 64
    """Gradient steps of `sample`."""

    def problem(self) -> str | None:
        if self.accumulate != 1:
            return f"accumulate is {self.accumulate}: each example is compared with all others of the batch, leave it 1"
        if (self.objective == "sigmoid") != (self.network.bias is not None):
            return (
                f"objective is {self.objective} and network.bias {self.network.bias}: sigmoid has a bias, infonce none"
            )
        for name in ("mean", "deviation"):
            if len(getattr(self, name)) not in (1, self.shape[-1]):
                return f"{name} has {len(getattr(self, name))} numbers: one, or {self.shape[-1]}, are expected"
        return None if min(self.deviation) > 0 else f"deviation is {self.deviation}: positive numbers are expected"

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "CLIP":
        """Classes are told by their names, of which the network need not know."""
        return super().fitted(shape, 0)  # pyright: ignore[reportReturnType]

    vocab_field: ClassVar[str] = "network.text.vocab"

    @property
    def vocab(self) -> int:
        return self.network.text.vocab

    @property
    def text_end(self) -> int:
        """The token at which texts are read, -1 for the largest of each."""
        return self.network.text.end

    def check(self, batch: Batch) -> None:
        self.network.check(self.shape)
        given = tuple(batch["x"].shape[1:])
        if len(given) != 3 or given[2] != self.shape[2] or (given != self.shape and self.shape[0] != self.shape[1]):
            raise UserError(f"pictures have shape {given}, model.shape is {self.shape}: pass --model.shape")
        if "text" not in batch:
            raise UserError("the data has no captions: choose data that has, as jaxgen.data.Captioned(data=Emoji())")
        check_text(batch, self.vocab, self.network.text.window)
        if len(batch["x"]) < 2:
            raise UserError("batch_size is 1: a picture is told from the captions of others, 2 or more are expected")

    # --- embeddings ---

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What `_pixels` does, as JSON."""
        resize = "middle square, antialiased bicubic"
        return {
            "resize": resize, "shape": list(self.shape), "mean": list(self.mean), "deviation": list(self.deviation)
        }  # fmt: skip

    def _apply(self, params: PyTree, method: str, *args: Any, key: jax.Array | None = None) -> jax.Array:
        rngs = {} if key is None else {"rngs": {"dropout": key}}
        return apply(self.network, {"params": params["network"]}, *args, key is not None, method=method, **rngs)

    def _pixels(self, x: jax.Array) -> jax.Array:
        """Pictures f32[B, H, W, C] in [-1, 1] as the network takes them: the middle square, resized, normalized."""
        if x.shape[1:3] != self.shape[:2]:
            height, width = x.shape[1:3]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            x = clean_bicubic(x[:, top : top + side, left : left + side], self.shape[0])
        mean, deviation = (jnp.asarray(np.broadcast_to(v, x.shape[-1:]), x.dtype) for v in (self.mean, self.deviation))
        return ((x + 1) / 2 - mean.reshape(1, 1, 1, -1)) / deviation.reshape(1, 1, 1, -1)

    def embed_images(self, params: PyTree, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Unit vectors f32[B, D] of pictures f32[B, H, W, C] in [-1, 1] of any size. key: of dropout, in training."""
        return self._apply(params, "embed_images", self._pixels(x), key=key)

    def image_features(self, params: PyTree, x: jax.Array) -> jax.Array:
        """`embed_images` before it is scaled to norm 1, f32[B, D]."""
        return self._apply(params, "image_features", self._pixels(x))

    def feature_map(self, state: TrainState, x: jax.Array) -> jax.Array:
        """The image tower's output at each patch, f32[B, h, w, D], of pictures f32[B, H, W, C] in [-1, 1]."""
        patch = self.network.image.patch
        rows, columns = self.shape[0] // patch, self.shape[1] // patch
        found = self._apply(state.sampling_params, "patch_features", self._pixels(x))
        return found.reshape(len(x), rows, columns, -1)

    def embed_text(
        self, params: PyTree, text: jax.Array, mask: jax.Array | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """Unit vectors f32[B, D] of tokens i32[B, T] from the start to the end of each text. mask: bool[B, T]."""
        return self._apply(params, "embed_text", text, mask, key=key)

    def logit_scale(self, params: PyTree) -> jax.Array:
        """s, f32[]."""
        return jnp.exp(base_of(params["network"])["logit_scale"])

    # --- training ---

    def init_params(self, key: jax.Array, batch: Batch) -> dict[str, PyTree]:
        arguments = self._pixels(batch["x"][:1]), batch["text"][:1]
        return {"network": self.network.init(key, *arguments)["params"]}

    def loss(self, params: PyTree, state: TrainState, keys: jax.Array, batch: Batch) -> tuple[jax.Array, Metrics]:
        drops = self.network.image.body.dropout or self.network.text.body.dropout
        key_image, key_text = jax.random.split(one_key(keys)) if drops else (None, None)
        u = self.embed_images(params, batch["x"], key_image)
        v = self.embed_text(params, batch["text"], batch.get("text_mask"), key_text)
        logits = apply(self.network, {"params": params["network"]}, u, v, method="logits")
        loss = {"infonce": info_nce, "sigmoid": pairwise_sigmoid}[self.objective](logits)
        own = jnp.arange(len(logits))
        right = jnp.mean(jnp.argmax(logits, axis=1) == own), jnp.mean(jnp.argmax(logits, axis=0) == own)
        scale = self.logit_scale(params)
        return loss, {"image_to_text": right[0], "text_to_image": right[1], "scale": scale}

    def train_step(self, state: TrainState, key: jax.Array, batch: Batch) -> tuple[TrainState, Metrics]:
        if words := self.problem():
            raise UserError(words)
        state, metrics = super().train_step(state, key, batch)
        ema = None if state.ema is None else clamped(state.ema)
        return state.replace(params=clamped(state.params), ema=ema), metrics

    def evaluate(self, state: TrainState, keys: jax.Array, batch: Batch) -> Metrics:
        """`similarity`: the cosine of each picture and its caption, f32[B]. Retrieval and classes need all examples at
        once: `jaxgen.inference.matching`."""
        params = state.sampling_params
        u = self.embed_images(params, batch["x"])
        return {"similarity": jnp.sum(u * self.embed_text(params, batch["text"], batch.get("text_mask")), axis=1)}

    # --- pictures of texts ---

    def check_cond(self, cond: PyTree) -> None:
        check_text(cond, self.vocab, self.network.text.window)

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """The captions of examples, from the first on, over again where they are too few."""
        return text_rows(num, batch)

    def sample(self, state: TrainState, keys: jax.Array, cond: PyTree = None) -> jax.Array:
        """Pictures f32[len(keys), *shape] nearest to each text, by gradient ascent from noise. They show what the
        network has learnt, not the data."""
        params = state.sampling_params
        texts = self.embed_text(params, cond["text"], cond.get("text_mask"))
        scale = self.logit_scale(params)

        def total(u: jax.Array) -> jax.Array:
            similarity = jnp.sum(self.embed_images(params, jnp.tanh(u)) * texts)
            return scale * similarity - 1e-3 * jnp.sum(u**2)

        start = 0.1 * normal_each(fold_each(keys, START), self.shape)
        return jnp.tanh(ascend(total, start, self.ascent_steps))


def info_nce(logits: jax.Array) -> jax.Array:
    """The mean cross-entropy of rows and columns of f32[B, B], whose right classes are the diagonal."""
    rows, columns = (jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=axis))) for axis in (1, 0))
    return -(rows + columns) / 2


def pairwise_sigmoid(logits: jax.Array) -> jax.Array:
    """SigLIP's loss of f32[B, B]."""
    z = 2 * jnp.eye(len(logits)) - 1
    return -jnp.sum(jax.nn.log_sigmoid(z * logits)) / len(logits)


def clamped(params: PyTree) -> PyTree:
    """Parameters with the logarithm of the scale at most `MOST_SCALE`."""
    network, own = params["network"], base_of(params["network"])
    own = {**own, "logit_scale": jnp.minimum(own["logit_scale"], MOST_SCALE)}
    return {**params, "network": {**network, "base": own} if is_adapted(network) else own}
