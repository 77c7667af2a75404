"""Samplers of models that take few steps, as tables of `ops.samplers`."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from jaxgen.core.ranges import NonNegative, Steps
from jaxgen.errors import UserError
from jaxgen.ops.sampler_table import Table
from jaxgen.ops.samplers import Sampler, deterministic
from jaxgen.ops.schedules import Grid, Schedule

Angle = Annotated[float, Gt(0), Lt(math.pi / 2)]


@dataclass(frozen=True)
class Renoised(Sampler):
    """Multistep consistency sampling, algorithm 1 of arXiv:2303.01469: x_0hat, new noise of the next level, and so on.

    Levels are evenly spaced in arctan(sigma / alpha); the second of two has as much noise as data (for data of a
    standard deviation of 0.5 that is sigma = 1, near the 1.1 of arXiv:2410.11081, section 5)."""

    steps: Steps = 1
    clip: NonNegative = 0.0
    angles: tuple[Angle, ...] = ()
    """arctan(sigma / alpha) of every step after the first, decreasing, instead."""

    def problem(self) -> str | None:
        if self.angles and (len(self.angles) != self.steps - 1 or self.angles != tuple(sorted(self.angles)[::-1])):
            return f"angles are {self.angles}: {self.steps - 1} decreasing ones are expected, as steps is {self.steps}"

    def table(self, schedule: Schedule) -> Table:
        if words := self.problem():
            raise UserError(words)
        most = schedule.angles[1]
        even = most * (1 - np.arange(self.steps) / self.steps)
        t = schedule.of_angle(np.asarray([most, *self.angles]) if self.angles else even)
        alpha, sigma = schedule.levels(t)
        grid = Grid(t, np.append(alpha, 1.0), np.append(sigma, 0.0))
        return self._table(schedule, grid, grid.alpha[1:], np.zeros(len(t)), grid.sigma[1:])


@dataclass(frozen=True)
class Halved(Sampler):
    """DDIM by every (`of` / steps)-th of the `of` steps that a schedule would be sampled with: what a student of
    progressive distillation has learnt to take (arXiv:2202.00512)."""

    steps: Steps = 1
    of: Steps = 16
    """Steps of the first teacher."""

    def levels(self, schedule: Schedule) -> Grid:
        """The levels that are visited. Raises UserError unless `steps` divides `of`."""
        if self.of % self.steps:
            raise UserError(f"sampler.steps is {self.steps}, sampler.of {self.of}: a divisor of it is expected")
        grid, each = schedule.grid(self.of), self.of // self.steps
        return Grid(grid.t[::each], grid.alpha[::each], grid.sigma[::each])

    def table(self, schedule: Schedule) -> Table:
        grid = self.levels(schedule)
        return self._table(schedule, grid, *deterministic(grid))
