"""The linear multistep method of PNDM (arXiv:2202.09778), with which Stable Diffusion was published."""

from dataclasses import dataclass

import numpy as np

from jaxgen.core.ranges import NonNegative, Steps
from jaxgen.errors import UserError
from jaxgen.ops.sampler_table import Table
from jaxgen.ops.samplers import Sampler

ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))
"""Weights of the newest and earlier derivatives, by order."""


@dataclass(frozen=True)
class PNDM(Sampler):
    """x' = (alpha' / alpha) x + (sigma' - alpha' sigma / alpha) e, eq. 11, where e combines the latest four eps_hat as
    the Adams-Bashforth method of fourth order does, eq. 12.

    There are no Runge-Kutta steps to begin with (diffusers' skip_prk_steps): the first step is taken by Heun's method,
    the next ones by the second and third order, so that n steps take n + 1 evaluations. Where sampling starts later,
    from an image, the eps_hat before are taken to have been as the first.
    """

    steps: Steps = 50
    clip: NonNegative = 0.0

    def table(self, schedule):
        grid = schedule.grid(self.steps)
        if grid.alpha[0] == 0:
            raise UserError(f"PNDM starts where alpha is above 0, not as {type(schedule).__name__}: use DPMSolverPP")
        n = len(grid.t)
        scale = grid.alpha[1:] / grid.alpha[:-1]
        move = grid.sigma[1:] - scale * grid.sigma[:-1]
        # The step and the evaluation time of each row: the second row corrects the first step.
        step = np.insert(np.arange(n), 1, [0] * (n > 1))
        place = np.insert(np.arange(n), 1, [1] * (n > 1))
        own, past, x_saved = np.ones(n + (n > 1)), np.zeros((n + (n > 1), 3)), np.zeros(n + (n > 1))
        for row in range(2, len(own)):
            own[row], *earlier = ADAMS_BASHFORTH[min(row - 1, 3)]
            past[row, : len(earlier)] = earlier
        if n > 1:
            own[1], past[1, 0], x_saved[1] = 0.5, 0.5, scale[0]
        own, past = own * move[step], past * move[step, None]
        # eps_hat = (x - alpha x0_hat) / sigma
        alpha, sigma = grid.alpha[place], grid.sigma[place]
        a, b = -own * alpha / sigma, own / sigma + np.where(x_saved > 0, 0.0, scale[step])
        after = np.append(grid.alpha[1:-1], 1.0)[step], np.append(grid.sigma[1:-1], 0.0)[step]
        save = np.arange(len(own)) != 1
        zeros = np.zeros(len(own))
        return Table(grid.t[place], a, b, zeros, *after, schedule.start, e=x_saved, past=past, save=save)
