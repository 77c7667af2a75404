"""Views of cameras inside compiled functions, against those of ops.cameras; the ball that bounds a scene."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.ops import cameras
from jaxgen.ops.views import ball_crossing, view_rays


def test_a_view_has_the_rays_of_its_camera():
    size, focal = (3, 4), 5.0
    poses = [cameras.on_sphere(azimuth, 0.4, 3.0) for azimuth in (0.1, 2.0)]
    given = np.stack([[*pose.reshape(-1), focal / size[1]] for pose in poses])
    found = view_rays(jnp.asarray(given, jnp.float32), size)
    for i, pose in enumerate(poses):
        rays = cameras.view_rays(pose, np.array([focal, focal, 2.0, 1.5]), size, 0.0, 1.0)
        wanted = cameras.columns(rays)
        for got, name in zip(found, ("origin", "direction", "radius")):
            np.testing.assert_allclose(got[i], getattr(wanted, name), atol=1e-6, err_msg=name)


def test_rays_are_within_the_ball_between_its_crossings():
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(200, 3)) * 2
    direction = rng.normal(size=(200, 3)) - np.where(np.arange(200)[:, None] < 100, 1.5 * origin, 0)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    centre, radius = np.array([0.3, -0.2, 0.1]), 0.9
    near, far = (np.asarray(a, np.float64) for a in jax.jit(ball_crossing, static_argnums=3)(
        jnp.asarray(origin, jnp.float32), jnp.asarray(direction, jnp.float32), jnp.asarray(centre, jnp.float32), radius
    ))  # fmt: skip
    # Truth by looking: a fine walk along each ray.
    t = np.linspace(0, 8, 8001)
    for i in range(200):
        inside = t[np.linalg.norm(origin[i] + t[:, None] * direction[i] - centre, axis=1) < radius]
        if len(inside) > 2:
            np.testing.assert_allclose((near[i], far[i]), (inside[0], inside[-1]), atol=3e-3)
        elif len(inside) == 0:
            assert far[i] - near[i] < 0.1
    assert np.sum(far - near > 0.1) > 20 and np.sum(far == near) > 20
