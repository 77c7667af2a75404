"""Pictures: grids against their tiles by the pixel, scatter plots, PNG and GIF files read back."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxgen.errors import UserError
from jaxgen.report import grid, picture, save_picture, scatter

rng = np.random.default_rng(0)


def images(*shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def ungrid(canvas, rows, cols, h, w, pad, scale):
    """The tiles uint8[rows, cols, h, w, 3] of a grid, after checking that enlarged pixels are uniform."""
    out = np.empty((rows, cols, h, w, 3), np.uint8)
    for r, c, i, j in np.ndindex(rows, cols, h, w):
        y, x = pad + r * (h * scale + pad) + i * scale, pad + c * (w * scale + pad) + j * scale
        block = canvas[y : y + scale, x : x + scale].reshape(-1, 3)
        assert (block == block[0]).all()
        out[r, c, i, j] = block[0]
    return out


@pytest.mark.parametrize("c", [1, 3])
@pytest.mark.parametrize("pad, scale, cols", [(1, 1, 3), (0, 2, 5), (3, 4, 2)])
def test_grid_puts_every_pixel_where_it_belongs(c, pad, scale, cols):
    x = images(5, 4, 6, c)
    rows = -(-5 // cols)
    canvas = grid(x, cols=cols, pad=pad, scale=scale, background=(9, 8, 7))
    assert canvas.dtype == np.uint8
    assert canvas.shape == (rows * (4 * scale + pad) + pad, cols * (6 * scale + pad) + pad, 3)
    tiles = ungrid(canvas, rows, cols, 4, 6, pad, scale).reshape(-1, 4, 6, 3)
    np.testing.assert_array_equal(tiles[:5], np.broadcast_to(x, (5, 4, 6, 3)))
    assert (tiles[5:] == (9, 8, 7)).all()
    if pad:  # separators: the first rows and columns, and those between the first two tiles
        assert (canvas[:pad] == (9, 8, 7)).all() and (canvas[:, :pad] == (9, 8, 7)).all()
        assert (canvas[:, pad + 6 * scale : 2 * pad + 6 * scale] == (9, 8, 7)).all()


def test_grid_keeps_rows_and_columns():
    x = images(2, 3, 8, 8, 1)
    canvas = grid(x)
    assert canvas.shape == (2 * 49 + 1, 3 * 49 + 1, 3)  # 8 px are enlarged six times
    np.testing.assert_array_equal(ungrid(canvas, 2, 3, 8, 8, 1, 6), np.broadcast_to(x, (2, 3, 8, 8, 3)))
    np.testing.assert_array_equal(canvas, grid(x.reshape(6, 8, 8, 1), cols=3))
    with pytest.raises(UserError, match="cols=4"):
        grid(x, cols=4)


@pytest.mark.parametrize("given, shape", [
    ((64, 28, 28, 1), (8 * 57 + 1, 8 * 57 + 1, 3)),  # 28 px doubled
    ((10, 48, 48, 3), (2 * 49 + 1, 5 * 49 + 1, 3)),  # no empty cells
    ((7, 48, 48, 3), (3 * 49 + 1, 3 * 49 + 1, 3)),
    ((64, 256, 256, 1), (11 * 257 + 1, 6 * 257 + 1, 3)),  # no wider than 1600 px
    ((1, 60, 8, 8, 3), (1 * 25 + 1, 60 * 25 + 1, 3)),
    ((1, 100, 8, 8, 3), (1 * 9 + 1, 100 * 9 + 1, 3)),
])  # fmt: skip
def test_grid_chooses_a_layout(given, shape):
    assert grid(np.zeros(given, np.uint8)).shape == shape


def test_scatter_puts_points_where_they_are():
    points = np.array([[-1.0, 0.5]] * 50 + [[np.nan, 0.0]])
    a = scatter(points, limits=(-2, 2))
    assert a.dtype == np.uint8 and a.shape == (720, 720, 3)
    blank = scatter(np.array([[9.0, 9.0]] * 50 + [[np.nan, 0.0]]), limits=(-2, 2))
    y, x = np.nonzero((a != blank).any(-1))
    # Axes from 36 px to 2 % of the right and upper edges; y grows upwards.
    left, right, top, bottom = 36, 0.98 * 720, 0.02 * 720, 720 - 36
    assert abs(x.mean() - (left + 0.25 * (right - left))) < 8
    assert abs(y.mean() - (bottom - 0.625 * (bottom - top))) < 8
    np.testing.assert_array_equal(a, scatter(points, limits=((-2, 2), (-2, 2))))
    assert (a != scatter(points)).any()


def test_scatter_panels_and_degenerate_points():
    assert scatter(rng.normal(size=(2, 3, 20, 2))).shape == (800, 1200, 3)
    assert scatter(rng.normal(size=(4, 20, 2)).astype(np.float16)).shape == (400, 1600, 3)
    assert scatter(rng.normal(size=(9, 5, 2))).shape == (400, 1600, 3)  # 8 in a row
    for points in (np.full((3, 2), np.nan), np.ones((1, 2))):
        scatter(points)


def test_picture_dispatches_on_dtype_and_shape():
    x, points = images(4, 8, 8, 3), rng.normal(size=(30, 2))
    for shown, expected in ((x, grid(x)), (x[0], grid(x[:1])), (points, scatter(points))):
        np.testing.assert_array_equal(picture(shown), expected)


@pytest.mark.parametrize("raw", [
    np.zeros((4, 8, 8, 2), np.uint8), np.zeros((4, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8),
    np.zeros((4, 8), np.int32), np.zeros((5, 3)), np.zeros((0, 2)), np.zeros(2), "text",
])  # fmt: skip
def test_unknown_shapes_are_one_line_errors(raw, tmp_path):
    for show in (picture, grid, scatter, lambda x: save_picture(tmp_path / "a.png", x)):
        with pytest.raises(UserError, match=r"uint8\[N, h, w, c\]") as error:
            show(raw)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_png_is_exact_deterministic_and_atomic(tmp_path):
    x = images(3, 3, 8, 8, 3)
    for name in ("a/a.png", "b/a.png"):
        save_picture(tmp_path / name, x)
        assert os.listdir((tmp_path / name).parent) == ["a.png"]  # no temporary file is left
    with Image.open(tmp_path / "a/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), grid(x))
    assert (tmp_path / "a/a.png").read_bytes() == (tmp_path / "b/a.png").read_bytes()
    points = rng.normal(size=(50, 2))
    save_picture(tmp_path / "p.png", points)
    save_picture(tmp_path / "q.png", points)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    with pytest.raises(UserError, match=r"png or \.gif"):
        save_picture(tmp_path / "a.jpg", x)


def frames_of(path):
    with Image.open(path) as image:
        frames, times = [], []
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")).astype(int))
            times.append(image.info["duration"])
        return np.stack(frames), times, image.info["loop"]


GREYS, FEW_COLOURS = images(7, 4, 8, 8, 1), images(20, 3)[rng.integers(20, size=(7, 4, 8, 8))]


@pytest.mark.parametrize("x", [GREYS, FEW_COLOURS])
def test_gif_of_few_colours_is_exact_and_holds_its_last_frame(x, tmp_path):
    save_picture(tmp_path / "a.gif", x)
    frames, times, loop = frames_of(tmp_path / "a.gif")
    np.testing.assert_array_equal(frames, np.stack([grid(f) for f in x]))
    assert times == [500] * 6 + [1000] and loop == 0


def test_gif_keeps_colours(tmp_path):
    """A smooth colour field that dissolves into noise, a hard case for one palette."""
    ramp = np.linspace(0, 1, 16)
    field = np.stack(np.broadcast_arrays(ramp[:, None], ramp, 1 - ramp[:, None] * ramp), -1)
    t = np.linspace(0, 1, 6)[:, None, None, None, None]
    x = (255 * (t * field + (1 - t) * rng.random((6, 4, 16, 16, 3)))).round().astype(np.uint8)
    save_picture(tmp_path / "a.gif", x)
    frames, times, _ = frames_of(tmp_path / "a.gif")
    error = np.abs(frames - np.stack([grid(f) for f in x]))
    assert len(frames) == 6 and sum(times) == 4000
    # 255 colours in a cube of 256: a ball of one colour has radius about 25.
    assert error.mean() < 14 and error[-1].mean() < 7, (error.mean(), error[-1].mean())


def test_gif_of_points_rows_and_many_frames(tmp_path):
    save_picture(tmp_path / "points.gif", np.linspace(0, 1, 3)[:, None, None] * rng.normal(size=(40, 2)))
    assert frames_of(tmp_path / "points.gif")[0].shape == (3, 720, 720, 3)
    save_picture(tmp_path / "rows.gif", images(2, 1, 3, 8, 8, 3))
    assert frames_of(tmp_path / "rows.gif")[0].shape == (2, 50, 148, 3)
    x = images(150, 1, 4, 4, 1)
    save_picture(tmp_path / "long.gif", x)
    frames, _, _ = frames_of(tmp_path / "long.gif")
    assert len(frames) == 100
    np.testing.assert_array_equal(frames[-1], grid(x[-1]))
    save_picture(tmp_path / "one.gif", x[:1])
    with pytest.raises(UserError, match="frames"):
        save_picture(tmp_path / "a.gif", np.zeros((4, 2)))
