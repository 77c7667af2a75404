"""Spectrograms and alignments as pictures."""

import numpy as np

from jaxgen.errors import UserError

# From the lowest value to the highest: near black, blue, red, orange, near white.
HEAT = ((8, 8, 30), (60, 20, 110), (160, 45, 115), (235, 100, 70), (252, 180, 90), (252, 250, 200))


def heat(values: np.ndarray, height: int, width: int, limits: tuple[float, float]) -> np.ndarray:
    """uint8[height, width, 3] of values f32[W, H], which go from left to right and upwards, by repeating or leaving out
    some of them. limits: the values of the darkest and the brightest colour.

    Raises UserError for an array of other than two axes, or without values.
    """
    if values.ndim != 2 or not values.size:
        raise UserError(f"a picture of heat is of two axes with values, not of {list(values.shape)}")
    low, high = limits
    unit = np.clip((values.T[::-1].astype(np.float64) - low) / (high - low), 0, 1)
    rows = np.arange(height) * unit.shape[0] // height
    cols = np.arange(width) * unit.shape[1] // width
    stops = np.linspace(0, 1, len(HEAT))
    seen = unit[rows][:, cols]
    return np.stack([np.interp(seen, stops, channel) for channel in zip(*HEAT)], axis=-1).round().astype(np.uint8)
