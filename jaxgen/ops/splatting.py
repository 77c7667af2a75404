"""3-D Gaussians and their projections into a picture (arXiv:2308.04079), as elliptical weighted averages.

A Gaussian has a mean mu: f32[3], a covariance Sigma = R S S R^T of a rotation R (a quaternion w, x, y, z of any length)
and scales S = exp(log_scale), an opacity, and a colour by direction in spherical harmonics. In the axes of a camera x
points right, y down and z into the picture, and (u, v) = (fx x / z + cx, fy y / z + cy). With J the Jacobian of that
map at the mean and W the rotation of the camera

    Sigma' = J W Sigma W^T J^T + low_pass I     (px^2, eq. 5 of arXiv:2308.04079)

A camera is f32[18]: its pose [3, 4] row by row (see `jaxgen.ops.cameras`); fx, fy, cx, cy in pixels; near and far,
distances between which the scene lies.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

CAMERA = 18
NEAR = 0.2
"""Depth in units of the scene before which nothing is shown: a projection would be huge there."""
FAINTEST = 1 / 255
"""Least opacity at a pixel that counts, so that an ellipse ends somewhere."""
BEYOND = 1.3
"""J is taken no farther from the axis than this times the picture's half: beyond, it would stretch without bounds."""
C0 = 0.28209479177387814
"""The constant harmonic: a colour is 1/2 + C0 times the coefficient of degree 0."""


class Camera(NamedTuple):
    """A camera f32[18] by name. rotation: f32[3, 3], world to camera with x right, y down, z forward."""

    position: jax.Array
    rotation: jax.Array
    focal: jax.Array
    centre: jax.Array
    near: jax.Array
    far: jax.Array


class Gaussians(NamedTuple):
    """N Gaussians. mean, log_scale: f32[N, 3]. quaternion: f32[N, 4]. opacity: f32[N] in [0, 1), 0 for one that is not
    there. sh: f32[N, K, 3], coefficients of K = 1, 4, 9 or 16 harmonics."""

    mean: jax.Array
    log_scale: jax.Array
    quaternion: jax.Array
    opacity: jax.Array
    sh: jax.Array


class Splats(NamedTuple):
    """N Gaussians in a picture. mean: f32[N, 2] in pixels. conic: f32[N, 3], the inverse of Sigma' as (a, b, c) of
    a x^2 + 2 b x y + c y^2. extent: f32[N, 2], half the sides in pixels of the box outside of which the opacity is
    below `FAINTEST`, 0 where nothing is seen. depth: f32[N]. rgb: f32[N, 3], 0 or more. opacity: f32[N]."""

    mean: jax.Array
    conic: jax.Array
    extent: jax.Array
    depth: jax.Array
    rgb: jax.Array
    opacity: jax.Array


def camera_of(numbers: jax.Array) -> Camera:
    """The camera of f32[18]."""
    pose = numbers[:12].reshape(3, 4)
    fx, fy, cx, cy, near, far = numbers[12:]
    turn = pose[:, :3].T * jnp.array([1.0, -1.0, -1.0])[:, None]
    return Camera(pose[:, 3], turn, jnp.stack([fx, fy]), jnp.stack([cx, cy]), near, far)


def project(gaussians: Gaussians, camera: Camera, size: tuple[int, int], low_pass: float = 0.3) -> Splats:
    """The Gaussians as a camera sees them in a picture of `size` = (H, W). low_pass: the variance in px^2 of the filter
    that no splat is narrower than."""
    across = gaussians.mean - camera.position[None]
    x, y, z = (jnp.sum(across * row[None], axis=-1) for row in camera.rotation)
    seen = z > NEAR
    z = jnp.where(seen, z, 1.0)
    fx, fy = camera.focal
    mean = jnp.stack([fx * x / z, fy * y / z], axis=-1) + camera.centre[None]
    # J at a direction that is held near the picture, else splats beside it would reach into it.
    limit_x, limit_y = BEYOND * 0.5 * size[1] / fx, BEYOND * 0.5 * size[0] / fy
    tan_x, tan_y = jnp.clip(x / z, -limit_x, limit_x), jnp.clip(y / z, -limit_y, limit_y)
    w0, w1, w2 = camera.rotation
    rows = (
        (fx / z)[:, None] * (w0[None] - tan_x[:, None] * w2[None]),
        (fy / z)[:, None] * (w1[None] - tan_y[:, None] * w2[None]),
    )  # J W
    axes = rotation(gaussians.quaternion)
    scale = jnp.exp(gaussians.log_scale)
    # J W R S, of which Sigma' is the product with its transpose.
    u, v = (sum(row[:, i, None] * axes[i] for i in range(3)) * scale for row in rows)
    xx, xy, yy = (jnp.sum(a * b, axis=-1) for a, b in ((u, u), (u, v), (v, v)))
    xx, yy = xx + low_pass, yy + low_pass
    det = jnp.maximum(xx * yy - xy * xy, 1e-12)
    conic = jnp.stack([yy, -xy, xx], axis=-1) / det[:, None]
    # The ellipse o exp(-r^2 / 2) = FAINTEST, and the box about it.
    radius = jnp.sqrt(2 * jnp.log(jnp.maximum(gaussians.opacity / FAINTEST, 1.0)))
    extent = jnp.where(seen[:, None], radius[:, None] * jnp.sqrt(jnp.stack([xx, yy], axis=-1)), 0.0)
    direction = across / jnp.sqrt(jnp.sum(across**2, axis=-1, keepdims=True) + 1e-12)
    rgb = jnp.maximum(colours(gaussians.sh, direction), 0.0)
    return Splats(mean, conic, jax.lax.stop_gradient(extent), z, rgb, gaussians.opacity)


def rotation(quaternion: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The rows, f32[N, 3] each, of the rotations of quaternions f32[N, 4] (w, x, y, z) of any length above 0."""
    q = quaternion / jnp.sqrt(jnp.sum(quaternion**2, axis=-1, keepdims=True) + 1e-12)
    w, x, y, z = jnp.moveaxis(q, -1, 0)
    return (
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], axis=-1),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], axis=-1),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], axis=-1),
    )


def colours(sh: jax.Array, direction: jax.Array) -> jax.Array:
    """f32[N, 3]: 1/2 plus the harmonics of coefficients f32[N, K, 3] in unit directions f32[N, 3]."""
    basis = harmonics(direction, sh.shape[1])
    return sum((basis[k][:, None] * sh[:, k] for k in range(sh.shape[1])), jnp.full_like(direction, 0.5))


def harmonics(direction: jax.Array, count: int) -> list[jax.Array]:
    """The first `count` real spherical harmonics, 1, 4, 9 or 16, f32[N] each, in unit directions f32[N, 3].

    In the order and with the signs of the published code of arXiv:2308.04079, on which its files depend: degree by
    degree, those of odd order negative.
    """
    x, y, z = jnp.moveaxis(direction, -1, 0)
    xx, yy, zz = x * x, y * y, z * z
    found = [jnp.full_like(x, C0), -0.4886025119 * y, 0.4886025119 * z, -0.4886025119 * x]
    found += [
        1.0925484306 * x * y, -1.0925484306 * y * z, 0.3153915653 * (2 * zz - xx - yy), -1.0925484306 * x * z,
        0.5462742153 * (xx - yy),
    ]  # fmt: skip
    found += [
        -0.5900435899 * y * (3 * xx - yy), 2.8906114426 * x * y * z, -0.4570457995 * y * (4 * zz - xx - yy),
        0.3731763326 * z * (2 * zz - 3 * xx - 3 * yy), -0.4570457995 * x * (4 * zz - xx - yy),
        1.4453057213 * z * (xx - yy), -0.5900435899 * x * (xx - 3 * yy),
    ]  # fmt: skip
    return found[:count]
