"""Splats: one program for all of training, slots that change hands, whole views, and runs of PLY files."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from PIL import Image
from scene_files import blender

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.core.capabilities import RadianceField, RendersViews
from jaxgen.data import AnalyticScene, WholeViews, rays
from jaxgen.data.whole_views import cameras_of
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.metrics.image import ssim, unit_ssim
from jaxgen.models.splats import Splats
from jaxgen.ops.cameras import camera
from jaxgen.ops.densification import EMPTY, Densification, is_splat
from jaxgen.weights import ply

COPYING = {"gradient": 1e-7, "small": 1.0}
SMOKE = presets(EXPERIMENTS["splats"])["smoke"]


def test_an_example_is_a_view_and_its_camera():
    scene = AnalyticScene(size=12, train_views=3, test_views=2, samples=1)
    found, views = WholeViews(scene=scene).arrays("test"), scene.views("test")
    np.testing.assert_array_equal(found["x"], rays.composite(views.pixels))
    np.testing.assert_array_equal(found["alpha"][..., 0], views.pixels[..., 3])
    assert found["cond"].shape == (2, 18)
    np.testing.assert_allclose(found["cond"][1, :12].reshape(3, 4), views.poses[1], rtol=1e-6)
    np.testing.assert_allclose(found["cond"][:, 12:], np.c_[views.intrinsics, views.near, views.far], rtol=1e-6)
    assert WholeViews(scene=scene).depth("test").shape == (2, 12, 12)


def test_a_lens_is_refused():
    views = AnalyticScene(size=12, train_views=3, test_views=2, samples=1).views("test")
    bent = np.stack([camera(f=9.0, cx=6, cy=6), camera(f=9.0, cx=6, cy=6, k1=0.1)])
    assert cameras_of(dataclasses.replace(views, intrinsics=bent * [[1], [0]])).shape == (2, 18)
    with pytest.raises(UserError, match="picture 1 was taken through a lens"):
        cameras_of(dataclasses.replace(views, intrinsics=bent))


def test_similarity_of_floats_is_that_of_levels():
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (2, 14, 17, 3)).astype(np.uint8) for _ in range(2))
    np.testing.assert_allclose(unit_ssim(*(jnp.asarray(i / 255, jnp.float32) for i in (a, b))), ssim(a, b), atol=1e-5)


@pytest.fixture(scope="module")
def trained():
    """States before and after 20 steps, five in a call, and how many programs that took."""
    model, data, codec = SMOKE.model, SMOKE.data, SMOKE.codec
    model = dataclasses.replace(model, densification=dataclasses.replace(model.densification, **COPYING))
    state = core.init(model, core.run_key(0, core.INIT), data.batch_at(0, 0, 5), codec)
    before, states, metrics = core.train_steps._cache_size(), [jax.device_get(state)], []
    for call in range(4):
        batches = [data.batch_at(0, step, 5) for step in range(5 * call, 5 * call + 5)]
        batches = jax.tree.map(lambda *a: np.stack(a), *batches)
        state, said = core.train_steps(model, state, core.run_key(0, core.TRAIN), batches, codec)
        states.append(jax.device_get(state))
        metrics.append(jax.device_get(said))
    return model, states, metrics, core.train_steps._cache_size() - before


def test_one_program_trains_while_splats_multiply(trained):
    model, states, metrics, programs = trained
    count = [int(is_splat(s.params["splats"]["opacity"]).sum()) for s in states]
    assert programs == 1
    # Steps 10 and 15 fill slots.
    assert count[0] == count[1] == 64 and 100 < count[2] <= count[3] == count[4] <= model.capacity
    assert [int(m["splats"][-1]) for m in metrics] == count[1:]
    assert all(np.all(m["dropped"] == 0) for m in metrics)


def test_slots_that_change_hands_lose_their_moments(trained):
    """At step 10: a copy has no moments, its original some; statistics begin anew. Reset opacities are low."""
    _, states, _, _ = trained
    old, new = (s.params["splats"] for s in states[1:3])
    fresh = ~np.asarray(is_splat(old["opacity"])) & np.asarray(is_splat(new["opacity"]))
    moments = jax.tree.leaves(states[2].opt_state)
    moments = [m for m in moments if m.ndim == 2 and m.shape[1:] == (4,)]
    assert fresh.sum() >= 5 and len(moments) == 2
    for m in moments:
        np.testing.assert_array_equal(m[fresh], 0)
        assert np.any(m[~fresh])
    np.testing.assert_array_equal(states[2].extra["gradient"], 0)
    assert np.any(states[1].extra["gradient"] > 0)
    assert np.all(new["opacity"] <= np.log(0.01 / 0.99) + 1e-5)


def test_empty_slots_stay_as_they_are(trained):
    _, states, _, _ = trained
    old, new = (s.params["splats"] for s in states[:2])
    empty = ~np.asarray(is_splat(old["opacity"]))
    for name in old:
        np.testing.assert_array_equal(old[name][empty], new[name][empty])
    assert np.all(new["opacity"][empty] == EMPTY)


def test_harmonics_count_by_the_step():
    model = Splats(shape=(16, 16, 3), capacity=4, initial=4, degree=2, degree_every=10)
    params = {name: jnp.ones((4, *shape)) for name, shape in {"sh0": (3,), "sh": (8, 3), "mean": (3,)}.items()}
    params |= {"log_scale": params["mean"], "quaternion": jnp.ones((4, 4)), "opacity": jnp.zeros(4)}
    for step, count in ((0, 1), (9, 1), (10, 4), (25, 9), (99, 9)):
        assert float(jnp.sum(model.gaussians(params, jnp.int32(step)).sh)) == count * 12
    whole = dataclasses.replace(model, degree_every=0)
    assert float(jnp.sum(whole.gaussians(params, jnp.int32(0)).sh)) == 9 * 12


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shape": (16, 16, 1)}, "pictures"),
        ({"initial": 200}, "no more than"),
        ({"shape": (8, 16, 3)}, "set similarity to 0"),
        ({"densification": Densification(faint=0.1)}, "all would be removed"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    with pytest.raises(UserError, match=said):
        dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, **settings))


def test_data_of_another_size_is_refused():
    experiment = dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, shape=(32, 16, 3)))
    with pytest.raises(UserError, match=r"pass --model\.shape 16 16 3"):
        experiment.check()
    with pytest.raises(UserError, match="whole pictures are expected"):
        dataclasses.replace(SMOKE, data=SMOKE.data.scene).check()


def test_a_ply_file_makes_a_run_that_is_rendered(tmp_path):
    """With the pictures that it is of, and with cameras of its own; the run's file is the same once more."""
    assert isinstance(SMOKE.model, RendersViews) and not isinstance(SMOKE.model, RadianceField)
    rng = np.random.default_rng(0)
    shapes = {"mean": (3,), "sh0": (3,), "opacity": (), "log_scale": (3,), "quaternion": (4,), "sh": (3, 3)}
    splats = {name: rng.normal(0, 0.5, (20, *shape)).astype(np.float32) for name, shape in shapes.items()}
    ply.write(tmp_path / "a.ply", {**splats, "log_scale": splats["log_scale"] - 2})
    blender(tmp_path / "scene", ((16, 12),) * 3)
    run, alone, file, again = (str(tmp_path / name) for name in ("run", "alone", "a.ply", "again.ply"))
    commands.call(["weights", "import-ply", file, run, "--folder", str(tmp_path / "scene")])
    commands.call(["render", run, "--turntable", "2"])
    (view,) = json.loads((tmp_path / "run" / "render" / "views.json").read_text())["views"]
    assert set(view) == {"psnr", "ssim"} and 0 < view["psnr"] < 30
    with Image.open(tmp_path / "run" / "render" / "turntable.gif") as film:
        assert getattr(film, "n_frames", 1) == 2
    with pytest.raises(UserError, match="no density at points"):
        commands.call(["render", run, "--lattice", "8"])
    commands.call(["weights", "export-ply", run, again])
    assert (tmp_path / "again.ply").read_bytes() == (tmp_path / "a.ply").read_bytes()
    commands.call(["weights", "import-ply", file, alone])
    commands.call(["render", alone, "--limit", "1"])
    with Image.open(tmp_path / "alone" / "render" / "view000.png") as picture:
        assert picture.size == (256, 256) and np.asarray(picture).std() > 1
