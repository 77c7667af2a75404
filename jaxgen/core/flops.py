"""How much a program computes: multiplications and additions, counted in its jaxpr.

XLA's own analysis counts the body of a loop once.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

CONVOLUTION = "conv_general_dilated"


def flops(fn: Callable, *args: Any) -> float:
    """Multiplications and additions of all matrix products and convolutions in fn(*args), a loop's body once a turn.

    args: arrays or ShapeDtypeStructs. A `while` without a known number of turns counts once, and of a `cond` the larger
    branch.
    """
    return sum(flops_by_kind(fn, *args).values())


def flops_by_kind(fn: Callable, *args: Any) -> dict[str, float]:
    """`flops` by primitive: `dot_general` and `conv_general_dilated`."""
    return flops_of(jax.make_jaxpr(fn)(*args).jaxpr)


def flops_of(jaxpr: Any) -> dict[str, float]:
    """`flops_by_kind` of a program that was traced already."""
    total = {"dot_general": 0.0, CONVOLUTION: 0.0}
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total[name] += 2 * eqn.outvars[0].aval.size * np.prod([shape[i] for i in contracted], dtype=float)
        elif name == CONVOLUTION:
            total[name] += _conv_flops(eqn)
        elif name == "cond":
            branches = [flops_of(branch.jaxpr) for branch in params["branches"]]
            _add(total, max(branches, key=lambda counts: sum(counts.values())))
        else:
            for sub in _subjaxprs(params):
                _add(total, flops_of(getattr(sub, "jaxpr", sub)), params["length"] if name == "scan" else 1)
    return total


def _add(total: dict[str, float], counts: dict[str, float], times: int = 1) -> None:
    for name, count in counts.items():
        total[name] += times * count


def _subjaxprs(params: dict[str, Any]) -> list[Any]:
    values = [v for value in params.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    return [v for v in values if hasattr(getattr(v, "jaxpr", v), "eqns")]


def _conv_flops(eqn: Any) -> float:
    """2 for each pair of a kernel tap and an input element that it meets: neither padding nor the holes of dilation
    count."""
    params = eqn.params
    dims = params["dimension_numbers"]
    lhs, rhs = (v.aval.shape for v in eqn.invars[:2])
    out = eqn.outvars[0].aval.shape
    total = 2.0 * out[dims.out_spec[0]] * out[dims.out_spec[1]] * rhs[dims.rhs_spec[1]]
    for i, (low, _) in enumerate(params["padding"]):
        n, taps, places = lhs[dims.lhs_spec[2 + i]], rhs[dims.rhs_spec[2 + i]], out[dims.out_spec[2 + i]]
        dilation = params["lhs_dilation"][i]
        at = np.arange(places)[:, None] * params["window_strides"][i] - low
        at = at + np.arange(taps)[None] * params["rhs_dilation"][i]
        total *= np.sum((at >= 0) & (at <= (n - 1) * dilation) & (at % dilation == 0))
    return total  # an output of a group counts once, also where groups are of the batch
