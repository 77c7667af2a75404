"""The convolutions that XLA's CPU back end is given: none for which it has only a naive loop."""

import re

import jax
import jax.numpy as jnp
import pytest

from jaxgen.ops.conv import NARROW, conv
from jaxgen.ops.modulated import conv_up

CONVOLUTION = re.compile(
    r"stablehlo\.convolution.*?window = \{(.*?)\}.*?: \(tensor<([\dx]+)xf32>, tensor<([\dx]+)xf32>\)"
)


def image_and_reach(program: str) -> list[tuple[list[int], list[int]]]:
    """The sides of each convolution's image, and how many pixels its kernel spans."""
    found = []
    for window, image, kernel in CONVOLUTION.findall(program):
        spread = re.search(r"rhs_dilate = \[(\d+), (\d+)\]", window)
        dilations = [int(n) for n in spread.groups()] if spread else [1, 1]
        taps = [int(n) for n in kernel.split("x")[:2]]
        found.append(([int(n) for n in image.split("x")[1:3]], [d * (k - 1) + 1 for d, k in zip(dilations, taps)]))
    return found


def gradients(op, side: int, taps: int) -> str:
    """The program of an operation's gradients, as it is lowered for this machine."""
    x, kernel = jnp.zeros((2, side, side, NARROW + 1)), jnp.zeros((taps, taps, NARROW + 1, NARROW + 2))
    loss = jax.grad(lambda x, kernel: jnp.sum(op(x, kernel) ** 2), (0, 1))
    return jax.jit(loss).lower(x, kernel).as_text()


@pytest.mark.parametrize(
    ("side", "taps", "stride", "pad"),
    [(8, 2, 1, 1), (8, 3, 1, 1), (2, 3, 1, 1), (4, 5, 1, 2), (8, 4, 1, 2), (8, 4, 2, 1), (7, 3, 2, 1)],
)
def test_no_kernel_is_larger_than_its_image(side, taps, stride, pad):
    op = lambda x, kernel: conv(x, kernel, (stride, stride), ((pad, pad), (pad, pad)))  # noqa: E731
    found = image_and_reach(gradients(op, side, taps))
    assert len(found) >= 3, "the output, and a gradient of each argument"
    assert all(r <= n for image, reach in found for n, r in zip(image, reach)), found


def test_those_that_double_an_image():
    found = image_and_reach(gradients(conv_up, 4, 3))
    assert len(found) >= 12, "four phases, each with two gradients"
    assert all(r <= n for image, reach in found for n, r in zip(image, reach)), found


def test_xlas_own_gradients_have_one():
    """What the rule is for: should XLA's form change, so may the rule."""

    def plain(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found = image_and_reach(gradients(plain, 2, 3))
    assert any(r > n for image, reach in found for n, r in zip(image, reach))
