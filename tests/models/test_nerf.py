"""Radiance fields: rendering against a loop; skipping and chunks change nothing; regressions of the sketch; pictures
of a run."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.core.configuration import check_fields
from jaxgen.data import AnalyticScene
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference import rendering
from jaxgen.inference.sampling import in_frames
from jaxgen.models.nerf import NeRF, ProposalNeRF
from jaxgen.nets.hashgrid import HashField, HashGrid
from jaxgen.nets.nerf import NeRFMLP, ProposalMLP
from jaxgen.ops.cameras import columns
from jaxgen.ops.occupancy import Occupancy
from jaxgen.optim import Adam
from jaxgen.train import loop

SCENE = AnalyticScene(size=16, train_views=8, test_views=2, samples=1)
MLP = NeRFMLP(depth=2, width=16, skip=1, position_frequencies=3, direction_frequencies=2)
PLAIN = NeRF(network=MLP, coarse=12, fine=0, bound=1.0)
GRID = Occupancy(resolution=4, budget=4, cells=64, warmup=0)


def batch(num: int = 48, seed: int = 0) -> dict[str, jax.Array]:
    raw = SCENE.batch_at(seed, 0, num)
    return {**raw, "x": jnp.asarray(raw["x"], jnp.float32) / 255}


def started(model: NeRF, seed: int = 0):
    """A state with densities of order one."""
    state = core.init(model, jax.random.key(seed), batch())
    return state.replace(params=jax.tree.map(lambda a: 1.5 * a, state.params))


def even(params, bias: float):
    """Parameters of a constant field: empty at -50, opaque at 50."""
    zero = jax.tree.map(jnp.zeros_like, params)["field"]
    return {"field": {**zero, "density": {**zero["density"], "bias": jnp.array([bias])}}}


@pytest.fixture(scope="module")
def plain():
    return started(PLAIN)


show = jax.jit(lambda model, state, rays: model.render(state, rays), static_argnums=0)


def test_a_picture_is_what_a_loop_over_samples_sees(plain):
    rays = batch(5)["cond"]
    seen = show(PLAIN, plain, rays)
    origin, direction, near, far, _ = (np.asarray(c, np.float64) for c in columns(rays))
    points, lengths = [], []
    for i in range(5):
        with np.errstate(divide="ignore"):
            ends = np.sort([(-1 - origin[i]) / direction[i], (1 - origin[i]) / direction[i]], axis=0)
        enters, leaves = max(near[i], ends[0].max()), min(far[i], ends[1].min())
        enters, leaves = (enters, leaves) if enters < leaves else (far[i], far[i])
        edges = np.linspace(enters, leaves, 13)
        lengths.append(edges)
        points.append(origin[i] + direction[i] * ((edges[1:] + edges[:-1]) / 2)[:, None])
    x = jnp.array(np.stack(points), jnp.float32)
    d = jnp.broadcast_to(jnp.array(direction, jnp.float32)[:, None], x.shape)
    sigma, rgb = MLP.apply({"params": plain.params["field"]}, x, d)
    for i in range(5):
        left, colour = 1.0, np.zeros(3)
        for j in range(12):
            alpha = 1 - np.exp(-float(sigma[i, j]) * (lengths[i][j + 1] - lengths[i][j]))
            colour += left * alpha * np.asarray(rgb[i, j])
            left *= 1 - alpha
        np.testing.assert_allclose(seen.rgb[i], colour + left, atol=1e-4)
        np.testing.assert_allclose(seen.opacity[i], 1 - left, atol=1e-4)
    assert np.max(seen.opacity) > 0.1


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_any_chunk_gives_the_same_picture(plain, chunk):
    rays = batch(48)["cond"]
    seen = show(dataclasses.replace(PLAIN, chunk=chunk), plain, rays)
    for a, b in zip(seen, show(PLAIN, plain, rays)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_skipping_changes_nothing_where_there_is_something(plain):
    """With all cells occupied, the dense picture, though a call fits four points a ray; with none, the background."""
    rays, skipping = batch(48)["cond"], dataclasses.replace(PLAIN, occupancy=GRID, chunk=20)
    full = plain.replace(extra={"occupancy": jnp.full((4, 4, 4), 9.0)}, step=jnp.array(100))
    for a, b in zip(show(skipping, full, rays), show(PLAIN, plain, rays)):
        np.testing.assert_allclose(a, b, atol=1e-5)
    empty = full.replace(extra={"occupancy": jnp.zeros((4, 4, 4))})
    seen = show(skipping, empty, rays)
    np.testing.assert_array_equal(seen.rgb, 1)
    np.testing.assert_array_equal(seen.opacity, 0)


def test_skipping_leaves_out_rays_that_do_not_fit(plain):
    """In training: of 48 rays of 12 samples, 4 points each fit, all of the first rays' that meet the box."""
    model = dataclasses.replace(PLAIN, occupancy=GRID)
    state = plain.replace(extra={"occupancy": jnp.full((4, 4, 4), 9.0)})
    data = batch(48)
    (_, numbers), grads = jax.jit(jax.value_and_grad(model.loss, has_aux=True))(
        state.params, state, core.sample_keys(3, 48), data
    )
    met = np.asarray(jnp.diff(jnp.stack(model._ends(jnp.array(data["cond"]))), axis=0)[0] > 0)
    expected = np.mean(np.cumsum(12 * met) <= 48 * 4)
    # Jitter can take the first or the last interval's length.
    assert abs(float(numbers["whole"]) - expected) <= 3 / 48
    assert 0 < numbers["whole"] < 1
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_a_proposal_is_moved_by_its_bound_alone():
    """The picture's error trains the field alone, the bound the proposal alone."""
    small = ProposalMLP(depth=1, width=8, frequencies=3)
    model = ProposalNeRF(network=MLP, proposal=small, coarse=8, fine=8, bound=1.0, interlevel_weight=0.0)
    state, data = started(model), batch()
    bound = dataclasses.replace(model, interlevel_weight=1.0)
    without, with_bound = (
        jax.jit(jax.grad(m.loss, has_aux=True))(state.params, state, core.sample_keys(3, len(data["x"])), data)[0]
        for m in (model, bound)
    )
    assert all(np.all(g == 0) for g in jax.tree.leaves(without["proposal"]))
    assert all(np.any(g != 0) for g in jax.tree.leaves(with_bound["proposal"]))
    assert all(np.any(g != 0) for g in jax.tree.leaves(without["field"]))
    for a, b in zip(*(jax.tree.leaves(g["field"]) for g in (without, with_bound))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("random_background", [False, True])
def test_a_background_that_is_not_white(plain, random_background):
    """An empty field explains what is transparent before any background; data that hides alpha is refused."""
    model = dataclasses.replace(PLAIN, background=(0.0, 0.5, 1.0), random_background=random_background)
    empty = even(plain.params, -50.0)
    state = plain.replace(params=empty)
    data = {"x": jnp.ones((48, 3)), "cond": batch()["cond"], "alpha": np.zeros((48, 1), np.uint8)}
    assert model.loss(empty, state, core.sample_keys(0, len(data["x"])), data)[1]["mse"] < 1e-6
    assert np.max(model.evaluate(state, core.sample_keys(0, 48), data)["mse"]) < 1e-6
    del data["alpha"]
    with pytest.raises(UserError, match="other than white needs data with alpha"):
        model.check(data)


def test_points_alone_have_no_cones():
    with pytest.raises(UserError, match="HashField takes points alone"):
        check_fields(
            NeRF(network=HashField(HashGrid(levels=2, log2_table=4)), coarse=4, fine=4, shared=True, cone=True)
        )


def test_cones_of_one_network():
    """mip-NeRF's two passes share parameters."""
    data = batch()
    cone = NeRF(network=MLP, coarse=8, fine=8, shared=True, cone=True, coarse_weight=0.1, bound=1.0)
    state = started(cone)
    assert set(state.params) == {"field"}
    loss, numbers = jax.jit(cone.loss)(state.params, state, core.sample_keys(0, len(data["x"])), data)
    assert np.isfinite(loss) and loss > numbers["mse"]
    both = NeRF(network=MLP, coarse=8, fine=8, bound=1.0)
    assert set(core.abstract_state(both, data).params) == {"coarse", "fine"}
    # A wider cone sees a smoother field.
    rays = jnp.array(data["cond"])
    narrow, wide = (show(cone, state, rays.at[:, 8].set(r)).rgb for r in (1e-4, 1.0))
    assert np.max(np.abs(narrow - wide)) > 1e-3


def test_a_transparent_pixel_has_a_background_of_its_own(plain):
    """An empty field explains it whatever that is; without random backgrounds white paint would too."""
    model = dataclasses.replace(PLAIN, random_background=True)
    empty, paint = even(plain.params, -50.0), even(plain.params, 50.0)
    rays = batch()["cond"]
    data = {"x": jnp.ones((48, 3)), "cond": rays, "alpha": np.zeros((48, 1), np.uint8)}
    loss = jax.jit(lambda params: model.loss(params, plain, core.sample_keys(0, len(data["x"])), data)[1]["mse"])
    assert loss(empty) < 1e-10
    assert loss(paint) > 0.01


# --- the sketch's bugs --------------------------------------------------------------------------------------------


def test_regression_colour_layer_takes_the_directions_it_is_given():
    """A network of the sketch was made for 256 + 24 inputs and given 256 + 60, as directions had the frequencies of
    positions; here each has its own."""
    for position, direction in ((10, 4), (4, 10), (0, 0)):
        net = NeRFMLP(depth=2, width=256, position_frequencies=position, direction_frequencies=direction)
        x = jax.ShapeDtypeStruct((7, 3), jnp.float32)
        (sigma, rgb), variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x, x)
        assert (sigma.shape, rgb.shape) == ((7,), (7, 3))
        assert variables["params"]["Dense_0"]["kernel"].shape[0] == 3 + 6 * position
        assert variables["params"]["Colour_0"]["Dense_0"]["kernel"].shape[0] == 256 + 3 + 6 * direction


def test_regression_a_field_without_density_still_learns(plain):
    """A ReLU of what is below zero everywhere has no gradient: such a scene stays empty for ever."""
    bias = {**plain.params["field"]["density"], "bias": jnp.array([-8.0])}
    params = {"field": {**plain.params["field"], "density": bias}}
    x = jax.random.uniform(jax.random.key(0), (200, 3), minval=-1)
    raw = MLP.apply({"params": params["field"]}, x, x)[0]
    assert np.all(raw > 0) and np.max(raw) < 0.1  # below where a ReLU would end
    data = batch()
    grads = jax.jit(jax.grad(lambda p: PLAIN.loss(p, plain, core.sample_keys(0, len(data["x"])), data)[0]))(params)
    assert np.linalg.norm(grads["field"]["density"]["kernel"]) > 0
    model = dataclasses.replace(PLAIN, optimizer=Adam(lr=0.05))
    state = core.init(model, jax.random.key(0), batch()).replace(params=params)
    calls = jax.tree.map(lambda a: np.repeat(np.asarray(a)[None], 40, axis=0), batch())
    state, metrics = core.train_steps(model, state, jax.random.key(1), calls)
    assert metrics["mse"][-1] < 0.7 * metrics["mse"][0]


def test_the_skip_is_at_the_fifth_layer():
    x = jax.ShapeDtypeStruct((1, 3), jnp.float32)
    params = jax.eval_shape(NeRFMLP().init, jax.random.key(0), x, x)["params"]
    inputs = [params[f"Dense_{i}"]["kernel"].shape[0] for i in range(8)]
    assert inputs == [63, 256, 256, 256, 256, 256 + 63, 256, 256]
    assert presets(EXPERIMENTS["nerf"])["blender"].model.network == NeRFMLP()


# --- learning -----------------------------------------------------------------------------------------------------


def test_a_hash_grid_learns_the_scene_and_what_of_it_is_empty():
    model = NeRF(
        network=HashField(HashGrid(levels=4, log2_table=10, coarsest=4, finest=24), width=16, hidden=8), coarse=24,
        fine=0, bound=1.0, random_background=True, optimizer=Adam(lr=2e-2, eps=1e-15),
        occupancy=Occupancy(resolution=16, budget=16, cells=1024, every=2, warmup=40),
    )  # fmt: skip
    scene = dataclasses.replace(SCENE, train_views=24)
    codec = presets(EXPERIMENTS["ngp"])["smoke"].codec
    state = core.init(model, jax.random.key(0), scene.batch_at(0, 0, 192), codec)
    batches = jax.tree.map(lambda *a: np.stack(a), *[scene.batch_at(0, i, 192) for i in range(200)])
    state, metrics = core.train_steps(model, state, jax.random.key(1), batches, codec)
    metrics = jax.device_get(metrics)
    assert metrics["occupied"][0] == 1 and metrics["occupied"][-1] < 0.5
    assert metrics["whole"][-20:].mean() > metrics["whole"][:20].mean()
    test = scene.arrays("test")
    seen = show(model, state, test["cond"])
    error = np.mean((np.asarray(seen.rgb) - test["x"] / 255) ** 2)
    assert -10 * np.log10(error) > 16
    depth = scene.depth("test").reshape(-1)
    hit = np.isfinite(depth)
    assert np.median(np.abs(seen.depth[hit] - depth[hit]) / depth[hit]) < 0.05
    assert np.mean(seen.opacity[hit]) > 0.8 and np.mean(seen.opacity[~hit]) < 0.25


# --- settings -----------------------------------------------------------------------------------------------------


def test_bad_settings_are_told():
    with pytest.raises(UserError, match="set fine 0"):
        check_fields(NeRF(occupancy=GRID))
    with pytest.raises(UserError, match="needs a fine pass"):
        check_fields(ProposalNeRF(fine=0))
    data = batch()
    with pytest.raises(UserError, match="data with alpha"):
        dataclasses.replace(PLAIN, random_background=True).check({"x": data["x"], "cond": data["cond"]})
    with pytest.raises(UserError, match=r"conditions none: colours \(3,\) and rays"):
        PLAIN.check({"x": data["x"]})
    with pytest.raises(UserError, match=r"f32\[N, 9\]"):
        PLAIN.check_cond(jnp.zeros((4, 3)))


def test_pixels_make_pictures():
    raw = np.arange(2 * 150 * 3).reshape(2, 150, 3).astype(np.uint8)
    assert in_frames(raw, (6, 10)).shape == (2, 2, 6, 10, 3)
    np.testing.assert_array_equal(in_frames(raw, (6, 10))[1, 1, 0], raw[1, 60:70])
    assert in_frames(raw[:, :25], (6, 10)).shape == (2, 1, 2, 10, 3)
    assert in_frames(raw[0, :4], (6, 10)).shape == (1, 1, 4, 3)
    assert in_frames(raw, None) is raw


# --- what a run shows ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ball:
    """Density 100 within half a unit, falling off fast; colours are the direction that one looks in."""

    bound: float = 1.0

    def at_points(self, state, x, d):
        return 100 * jax.nn.sigmoid(40 * (0.5 - jnp.linalg.norm(x, axis=-1))), (d + 1) / 2


def test_the_mesh_of_a_ball(tmp_path):
    pytest.importorskip("skimage")
    vertices, faces, colours = rendering.mesh(Ball(), None, 32, 50.0)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=-1), 0.5, atol=0.02)
    # Triangles turn outwards, so that they hold a volume that is positive, and that of the ball.
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    np.testing.assert_allclose(np.sum(a * np.cross(b, c)) / 6, 4 / 3 * np.pi * 0.125, rtol=0.05)
    np.testing.assert_allclose(colours / 255, (1 - vertices / 0.5) / 2, atol=0.06)
    rendering.write_ply(tmp_path / "mesh.ply", vertices, faces, colours)
    head, _, body = (tmp_path / "mesh.ply").read_bytes().partition(b"end_header\n")
    assert f"element vertex {len(vertices)}\n".encode() in head
    first = np.frombuffer(body[: 15 * len(vertices)], [("x", "<f4", 3), ("c", "u1", 3)])
    last = np.frombuffer(body[15 * len(vertices) :], [("n", "u1"), ("i", "<i4", 3)])
    np.testing.assert_array_equal(first["x"], vertices)
    np.testing.assert_array_equal(first["c"], colours)
    np.testing.assert_array_equal(last["i"], faces)
    assert np.all(last["n"] == 3)
    with pytest.raises(UserError, match="pass a --level between"):
        rendering.mesh(Ball(), None, 8, 1000.0)


def opened(file) -> tuple[np.ndarray, int]:
    """The pixels of a picture, and its number of frames."""
    with Image.open(file) as image:
        return np.asarray(image), getattr(image, "n_frames", 1)


def test_render_shows_views_a_film_and_a_mesh(tmp_path, capsys):
    pytest.importorskip("skimage")
    experiment = dataclasses.replace(presets(EXPERIMENTS["ngp"])["smoke"], best="test/mse")
    loop.train(experiment, tmp_path / "run")
    pictures = tmp_path / "run" / "pictures" / "000000020"
    # Views of 16 x 16, three pixels to each of theirs, and lines between them.
    assert opened(pictures / "samples.png")[0].shape == (3 * 16 + 2, 3 * 16 + 2, 3)
    assert opened(pictures / "views.png")[0].shape == (4 * (3 * 16 + 1) + 1, 3 * 16 + 2, 3)
    level = ["--lattice", "12", "--level", "0.3"]
    commands.call(["render", str(tmp_path / "run"), "--turntable", "3", "--size", "24", *level])
    assert "psnr" in capsys.readouterr().out
    out, number = tmp_path / "run" / "render", json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert opened(out / "depth001.png")[0].shape == opened(out / "opacity001.png")[0].shape == (16, 16)
    assert opened(out / "turntable.gif")[1] >= 2
    assert (out / "mesh.ply").stat().st_size > 500
    assert (number["num"], set(number["metrics"])) == (2, {"psnr", "ssim", "depth_error"})
    each = json.loads((out / "views.json").read_text())["views"]
    written = opened(out / "view000.png")[0].astype(np.float64)
    truth = experiment.data.arrays("test")["x"][:256].reshape(16, 16, 3)
    np.testing.assert_allclose(each[0]["psnr"], 10 * np.log10(255**2 / np.mean((written - truth) ** 2)), rtol=1e-4)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Turntable" in page and "Test views" in page and "depth_error" in page
    with pytest.raises(UserError, match="lattice is 1"):
        commands.call(["render", str(tmp_path / "run"), "--lattice", "1"])


def test_render_needs_a_radiance_field():
    with pytest.raises(UserError, match="VAE is no radiance field"):
        rendering.check(presets(EXPERIMENTS["vae"])["smoke"], rendering.Rendering())


def test_a_mesh_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(UserError, match=r"pip install 'jaxgen\[mesh\]'"):
        rendering.check(presets(EXPERIMENTS["ngp"])["smoke"], rendering.Rendering(lattice=8))
