"""Digits that move: short clips made of the embedded digits, in the manner of Moving MNIST (arXiv:1502.04681)."""

import dataclasses
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.ranges import Depth, Samples, Seed
from jaxgen.core.types import RawBatch
from jaxgen.data.dataset import Dataset, check_split
from jaxgen.data.embedded import Digits
from jaxgen.errors import UserError

SIDE = 8
"""Of a digit, in pixels."""
SLOWEST, FASTEST = 0.5, 1.5
"""Pixels that a digit moves between two frames."""
PART = 500
"""Clips that are drawn at a time."""
QUADRANTS = ("down right", "down left", "up right", "up left")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MovingDigits(Dataset):
    """8 x 8 digits that move at constant speed in a square frame and bounce off its edges: x uint8[N, F, size, size, 1]
    with F = `frames`, and cond int32[N] by `label`. Where two digits overlap, the brighter pixel is seen.

    Clip i of a split is a pure function of (seed, i). The digits of "test" are those of the test split of `Digits`,
    which no training clip shows.

    Raises:
      UserError: on use, if two digits are asked for their class.
    """

    size: Annotated[int, Ge(SIDE + 1), Le(64)] = 16
    """Height and width of a frame in pixels."""
    frames: Depth = 16
    digits: Annotated[int, Ge(1), Le(2)] = 1
    num: Samples = 10_000
    """Training clips; a tenth as many are test."""
    label: Literal["digit", "motion", "none"] = "digit"
    """The meaning of `cond` of one digit: its class, or class + 10 quadrant, where the quadrant is that of its velocity
    in the first frame, one of QUADRANTS. Two digits have none."""
    seed: Seed = 0

    def load(self, split: str) -> RawBatch:
        check_split(split)
        parts = [self._clips(one) for one in (("train", "test") if split == "all" else (split,))]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @property
    def class_names(self) -> tuple[str, ...]:
        if self.digits > 1 and self.label != "none":
            raise UserError(f"MovingDigits of {self.digits} digits have no one class: choose the label none")
        if self.label == "none":
            return ()
        names = Digits().class_names
        return names if self.label == "digit" else tuple(f"{name} {way}" for way in QUADRANTS for name in names)

    def _clips(self, split: str) -> RawBatch:
        source = Digits().arrays(split)
        assert isinstance(source, dict)
        labelled = bool(self.class_names)
        num = self.num if split == "train" else max(1, self.num // 10)
        which, place, velocity = (np.stack(a) for a in zip(*(self._drawn(split, i) for i in range(num))))
        which = np.floor(which * len(source["x"])).astype(int)
        paths = bounced(place[:, :, None] + np.arange(self.frames)[:, None] * velocity[:, :, None], self.size - SIDE)
        x = np.zeros((num, self.frames, self.size, self.size), np.uint8)
        for first in range(0, num, PART):
            some = slice(first, first + PART)
            for k in range(self.digits):
                drawn = placed(source["x"][which[some, k], :, :, 0], paths[some, k], self.size)
                np.maximum(x[some], drawn, out=x[some])
        if not labelled:
            return {"x": x[..., None]}
        cond = source["cond"][which[:, 0]]
        if self.label == "motion":
            up, left = velocity[:, 0, 0] < 0, velocity[:, 0, 1] < 0
            cond = cond + 10 * (2 * up + left).astype(np.int32)
        return {"x": x[..., None], "cond": cond}

    def _drawn(self, split: str, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of clip i: numbers in [0, 1) that choose its digits f64[K], their places in the first frame and their
        velocities in pixels a frame, f64[K, 2] each, rows first."""
        rng = np.random.Generator(np.random.Philox(key=[2 * self.seed + (split == "test"), i]))
        u = rng.random((2, 5))[: self.digits]
        speed, angle = SLOWEST + (FASTEST - SLOWEST) * u[:, 3], 2 * np.pi * u[:, 4]
        velocity = speed[:, None] * np.stack([np.sin(angle), np.cos(angle)], -1)
        return u[:, 0], u[:, 1:3] * (self.size - SIDE), velocity


def bounced(place: np.ndarray, width: float) -> np.ndarray:
    """Places on a line as a walk between two walls, at 0 and `width`, sees them: f64[...] in [0, width]."""
    turned = place % (2 * width)
    return np.minimum(turned, 2 * width - turned)


def placed(digits: np.ndarray, paths: np.ndarray, size: int) -> np.ndarray:
    """Digits uint8[N, 8, 8], each with its corner at the places of its path f64[N, F, 2], by bilinear weights:
    uint8[N, F, size, size]."""

    def weights(place: np.ndarray) -> np.ndarray:
        """f64[N, F, size, 8]: how much of each of a digit's rows is seen in each row of the frame."""
        away = np.arange(size)[:, None] - place[..., None, None] - np.arange(SIDE)
        return np.maximum(0, 1 - np.abs(away))

    seen = weights(paths[..., 0]) @ digits[:, None] @ weights(paths[..., 1]).swapaxes(-1, -2)
    return np.rint(seen).astype(np.uint8)
