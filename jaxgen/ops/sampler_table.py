"""A sampler as a table, and the rows of it that its loop takes; see `ops.samplers`."""

from dataclasses import dataclass

import numpy as np

from jaxgen.errors import UserError


@dataclass(frozen=True)
class Table:
    """The rows of a sampler. Each column is float64[R] unless stated otherwise."""

    t: np.ndarray
    """Times at which the network is evaluated, in the schedule's dtype."""
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    alpha: np.ndarray
    """alpha and sigma: the level after a row."""
    sigma: np.ndarray
    start: float
    """Standard deviation of x before the first row."""
    d: np.ndarray | None = None
    e: np.ndarray | None = None
    save: np.ndarray | None = None
    """bool[R]: whether x and x0_hat of this row are saved."""
    past: np.ndarray | None = None
    """float64[R, K]: weights of the eps_hat of the K latest earlier rows with `save`, the latest first."""
    low: np.ndarray | None = None
    """low and high: bounds of the log variance, for a sampler that can use a learned variance."""
    high: np.ndarray | None = None

    def column(self, name: str) -> np.ndarray:
        value = getattr(self, name)
        return np.zeros(len(self.t)) if value is None else value


def rows_from(table: Table, first: int, resample: int) -> tuple[dict[str, np.ndarray], bool]:
    """The rows from `first` on as f32 columns, each repeated `resample` times; and whether any is repeated.

    Before a repetition, x -> gain x + renoise z takes x back to the level at which the row started.
    """
    names = ("a", "b", "c", "d", "e", "low", "high", "alpha", "sigma")
    rows = {name: table.column(name)[first:] for name in names}
    rows["t"] = table.t[first:]
    rows["save"] = table.column("save").astype(bool)[first:]
    if table.past is not None:
        rows["past"] = table.past[first:]
    if resample < 2:
        return {k: v if k in ("t", "save") else v.astype(np.float32) for k, v in rows.items()}, False
    if table.save is not None:
        raise UserError(f"resample is {resample}, but this sampler's rows hang together: use Ancestral or DDIM")
    # The level before a row is the one that the row before leads to; the first has none and is not repeated.
    alpha, sigma = rows["alpha"], rows["sigma"]
    gain = np.append(1.0, alpha[:-1] / alpha[1:])
    renoise = np.append(0.0, np.sqrt(np.maximum(sigma[:-1] ** 2 - (gain[1:] * sigma[1:]) ** 2, 0)))
    repeat = np.full(len(gain), resample)
    repeat[0] = 1
    which = np.repeat(np.arange(len(gain)), repeat)
    last = np.append(which[1:] != which[:-1], True)
    rows = {name: value[which] for name, value in rows.items()}
    rows["gain"] = np.where(last, 1.0, gain[which])
    rows["renoise"] = np.where(last, 0.0, renoise[which])
    back = np.maximum(which - 1, 0)
    rows["alpha"] = np.where(last, rows["alpha"], alpha[back])
    rows["sigma"] = np.where(last, rows["sigma"], sigma[back])
    return {k: v if k in ("t", "save") else v.astype(np.float32) for k, v in rows.items()}, True
