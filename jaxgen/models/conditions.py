"""What diffusion models are told: classes and texts, and that they are told neither.

A condition is None, labels i32[B], or a dict of arrays with leading axis B: `label`, i32[B]; `text`, i32[B, T], and
`text_mask`, bool[B, T], false for padding; `negative` and `negative_mask`, the text that guidance leads away from;
`guidance`, f32[B], its scales; `embedding`, f32[B, D], of a picture, and `text_embedding`, f32[B, D], with
`negative_embedding`, zeros for none; what a family adds.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core.keys import coin_each
from jaxgen.core.ranges import Fraction, OptionalSize
from jaxgen.core.types import Batch, PyTree
from jaxgen.errors import UserError
from jaxgen.models.shared import ClassConditionalModel, check_classes, check_labels, check_rows, concrete, outside
from jaxgen.nets.apply import apply
from jaxgen.nets.clip import TextTower, tower
from jaxgen.nets.t5 import T5Encoder
from jaxgen.ops.guidance import Guidance

Inputs = dict[str, jax.Array]
"""A network's inputs beside x_t and t, by argument name: `y`, `context`, `context_mask`. A family's `image` is
concatenated to x_t as channels."""
CLASS_DROPOUT = 0.1
"""Of a model that is fitted to classes or texts, so that it can be guided."""
CAPTIONS = TextTower(vocab=1024, body=tower(128, 2, 2, activation="gelu"))
"""What reads the captions of a model that is fitted to them."""
NO_CLASS = -1
TEXT = ("text", "text_mask")


def label_of(cond: PyTree) -> jax.Array | None:
    """The labels of a condition: its entry `label` if it is a dict, else the condition itself."""
    return cond.get("label") if isinstance(cond, dict) else cond


def guidance_scale(cond: PyTree, guidance: Guidance) -> jax.Array | float | None:
    """The condition's scale if it has one, else the configured one. None for a configured scale of 1: no guidance."""
    if isinstance(cond, dict) and "guidance" in cond:
        return cond["guidance"]
    return None if guidance.scale == 1 else guidance.scale


def text_rows(num: int, batch: Batch, names: tuple[str, ...] = TEXT) -> dict[str, Any]:
    """The texts of examples, from the first on, over again where they are too few. names: of what says them."""
    rows = np.arange(num) % len(batch[names[0]])
    return {name: batch[name][rows] for name in names if name in batch}


def without(cond: PyTree, empty: tuple[int, ...] = ()) -> PyTree:
    """The condition that says nothing: no class, and instead of the text the negative one if there is one, else the
    tokens `empty`, padded by the last, or with none of them nothing but padding."""
    if not isinstance(cond, dict):
        return None if cond is None else jnp.full_like(cond, NO_CLASS)
    null = {name: value for name, value in cond.items() if not name.startswith("negative")}
    if "label" in cond:
        null["label"] = jnp.full_like(cond["label"], NO_CLASS)
    if "text" in cond:
        text, mask = cond["text"], cond.get("text_mask")
        if "negative" in cond:
            whole = None if mask is None else jnp.ones(text.shape, bool)
            text, mask = cond["negative"], cond.get("negative_mask", whole)
        elif empty:
            row = np.full(text.shape[1], empty[-1], np.int32)
            row[: len(empty)] = empty[: len(row)]
            text = jnp.broadcast_to(row, text.shape)
        else:
            mask = jnp.zeros(text.shape, bool)
        null["text"] = text
        null |= {} if mask is None else {"text_mask": mask}
    if "text_embedding" in cond:
        null["text_embedding"] = cond.get("negative_embedding", jnp.zeros_like(cond["text_embedding"]))
    if "embedding" in cond:
        null["embedding"] = jnp.zeros_like(cond["embedding"])
    return null


def where_each(keep: jax.Array, cond: PyTree, null: PyTree) -> PyTree:
    """`cond` where keep, bool[B], is true, else `null`."""
    return jax.tree.map(lambda a, b: jnp.where(keep.reshape((-1,) + (1,) * (a.ndim - 1)), a, b), cond, null)


def check_text(cond: PyTree, vocab: int, window: int) -> None:
    """Raises UserError unless a condition has rows of tokens below `vocab`, at most `window` in each, and its negative
    texts are as many and as long."""
    if not isinstance(cond, dict) or "text" not in cond:
        raise UserError(
            "no text was given: pass {'text': i32[N, T], 'text_mask': bool[N, T]}, as data.tokens(prompts) gives them"
        )
    check_rows(cond["text"])
    for name in ("text", "negative"):
        if name not in cond:
            continue
        tokens = cond[name]
        if tuple(tokens.shape) != tuple(cond["text"].shape):
            raise UserError(
                f"{name} has shape {tuple(tokens.shape)}, text {tuple(cond['text'].shape)}: the same is expected"
            )
        if concrete(tokens) and (bad := outside(tokens, vocab)) is not None:
            raise UserError(f"token {bad} is out of range: the model knows 0 to {vocab - 1}")
    if cond["text"].shape[1] > window:
        tokens = cond["text"].shape[1]
        raise UserError(f"texts have {tokens} tokens, the model knows {window}: pass --data.window {window}")


@runtime_checkable
class ToldTexts(Protocol):
    """A network that can be given the tokens of a text as a context."""

    def told_texts(self, shape: tuple[int, ...]) -> Any:
        """A copy that is given one, beside images of `shape` = (H, W, C)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conditioned(ClassConditionalModel):
    """A model whose network is told a class, a text, or both, and in a fraction of training nothing.

    cond: i32[B] in [0, num_classes) when num_classes > 0, or a dict, see above; without `text` or classes, None. With
    class_dropout, label -1 is the null class, which examples without a label may have as well.
    """

    num_classes: OptionalSize = 0
    class_dropout: Fraction = 0.0
    """Fraction of training examples whose condition is replaced by the null one; guidance needs some."""
    guidance: Guidance = Guidance()
    text: TextTower | T5Encoder | None = None
    """Its `features` of a text are the network's context."""
    empty: tuple[OptionalSize, ...] = ()
    """Tokens of the empty caption, padded by the last, where that stands for no condition and padding is read as text
    (as in Stable Diffusion). (): padding is masked, and no condition is a context of zeros."""

    def fitted(self, shape: tuple[int, ...], num_classes: int) -> "Conditioned":
        """With `text`, classes are told by their names."""
        model = super().fitted(shape, 0 if self.text else num_classes)
        assert isinstance(model, Conditioned)
        if self.text or num_classes:
            return replace(model, class_dropout=self.class_dropout or CLASS_DROPOUT)
        return replace(model, class_dropout=0.0, guidance=replace(self.guidance, scale=1.0))

    def captioned(self, window: int) -> "Conditioned":
        """By a text transformer that is trained along."""
        network, shape = getattr(self, "network", None), getattr(self, "shape", ())
        if not isinstance(network, ToldTexts):
            return super().captioned(window)  # pyright: ignore[reportReturnType]
        text = self.text or CAPTIONS.clone(window=window)
        told: dict[str, Any] = {"network": network.told_texts(shape), "text": text, "num_classes": 0}
        return replace(self, **told, class_dropout=self.class_dropout or CLASS_DROPOUT)

    # --- checks ---

    def check_conditions(self, batch: Batch) -> None:
        """Raises UserError for data without the labels or captions that the network is told, and for guidance without
        class_dropout."""
        check_classes(self.num_classes, {**batch, "cond": self._named(batch["cond"])} if "cond" in batch else batch)
        if self.text:
            if "text" not in batch:
                raise UserError("the data has no captions: choose data that has, as data.Captioned(data=Emoji())")
            check_text(batch, self.vocab, self.text.window)
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance.scale != 1 and not self.guidable:
            raise UserError(
                f"guidance.scale is {self.guidance.scale}, num_classes {self.num_classes} and class_dropout "
                f"{self.class_dropout}: guidance needs a model trained with classes or texts and on examples without; "
                "train with them and --model.class-dropout 0.1, or leave the scale at 1"
            )

    @property
    def guidable(self) -> bool:
        """Whether the network has learnt what no condition means."""
        return bool(self.class_dropout and (self.num_classes or self.text))

    vocab_field: ClassVar[str] = "text.vocab"

    @property
    def vocab(self) -> int:
        """Tokens of texts; 0 without."""
        return self.text.vocab if self.text else 0

    def check_cond(self, cond: PyTree) -> None:
        self._check_guidance()
        if isinstance(cond, dict) and "guidance" in cond and not self.guidable:
            raise UserError("a guidance scale was given to a model trained without class_dropout: leave it out")
        self.check_labels(cond)
        if self.text:
            check_text(cond, self.vocab, self.text.window)

    def check_labels(self, cond: PyTree) -> None:
        """Raises UserError for missing labels or labels out of range."""
        labels = label_of(cond)
        check_labels(self.num_classes, labels if labels is None else self._named(labels))

    def _named(self, labels: Any) -> Any:
        """Labels with some class in place of the null class, where there is one."""
        if self.class_dropout and concrete(labels):
            return np.where(np.asarray(labels) == NO_CLASS, 0, labels)
        return labels

    # --- the network's inputs ---

    def init_text(self, key: jax.Array, cond: PyTree) -> PyTree:
        """Parameters of `text`."""
        assert self.text is not None
        return self.text.init(key, *(cond[name] for name in TEXT if name in cond), method="features")["params"]

    def inputs(self, params: PyTree, cond: PyTree, dropout: jax.Array | None = None) -> Inputs:
        """The network's inputs for a condition. dropout: the key of the text tower's, in training."""
        y = self._one_hot(label_of(cond))
        inputs = {} if y is None else {"y": y}
        if not self.text:
            return inputs
        text, mask = cond["text"], None
        if not self.empty:
            mask = cond.get("text_mask", jnp.ones(text.shape, bool))
            inputs["context_mask"] = mask
        elif "text_mask" in cond:
            text = jnp.where(cond["text_mask"], text, self.empty[-1])
        rngs = {} if dropout is None else {"rngs": {"dropout": dropout}}
        tokens = {"params": params["text"]}
        context = apply(self.text, tokens, text, mask, dropout is not None, method="features", **rngs)
        return {**inputs, "context": context if mask is None else jnp.where(mask[..., None], context, 0)}

    def condition(self, batch: Batch) -> PyTree:
        """The condition of a batch of data."""
        if not self.text:
            return batch.get("cond")
        label = {"label": batch["cond"]} if self.num_classes else {}
        return {name: batch[name] for name in TEXT if name in batch} | label

    def drop(self, keys: jax.Array, cond: PyTree) -> PyTree:
        """The condition, replaced by the one that says nothing in a fraction `class_dropout` of examples."""
        return self.kept_where(self.keeps(keys), cond) if self.class_dropout else cond

    def keeps(self, keys: jax.Array) -> jax.Array:
        """bool[B]: whether an example keeps its condition."""
        return coin_each(keys, 1 - self.class_dropout)

    def kept_where(self, keep: jax.Array, cond: PyTree) -> PyTree:
        """The condition where keep, bool[B], is true, and elsewhere the one that says nothing."""
        if self.text and not self.empty:
            cond = {"text_mask": jnp.ones(cond["text"].shape, bool), **cond}
        return where_each(keep, cond, without(cond, self.empty))

    def sample_cond(self, num: int, batch: Batch) -> PyTree:
        """Every class equally often; the captions of `batch`, from the first on, of a model of texts."""
        if not self.text:
            return super().sample_cond(num, batch)
        return text_rows(num, batch) | ({"label": super().sample_cond(num, batch)} if self.num_classes else {})
