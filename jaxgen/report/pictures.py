"""Raw samples to pictures: tile grids, scatter plots, PNG and GIF files.

Letters: N samples, R rows, C columns, h w c the height, width and channels of one image, F frames.
"""

import io
import math
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.files import write_bytes

TILE = 48  # px: below this an 8x8 image cannot be made out on a page
WIDTH = 1600  # px: a grid is not enlarged, nor a flat list of images laid out, beyond this
GREY = (160, 160, 160)  # stands out against white emoji and black digits alike
MAX_FRAMES = 100
SHOWN = (
    "shown are uint8[N, h, w, c] or [R, C, h, w, c] with c 1 or 3, and float[N, 2], [P, N, 2] or [R, C, N, 2]"
)


def grid(images, cols=None, pad=1, scale=None, background=GREY):
    """Tiles in rows, enlarged by repeating pixels, `pad` output pixels between and around them.

    Args:
      images: uint8[N, h, w, c], or uint8[R, C, h, w, c] whose rows and columns are kept; c is 1 or 3.
      cols: tiles in a row of a flat list; by default about square, without empty cells where N allows it.
      pad: width of the separators in output pixels.
      scale: output pixels to a pixel; by default the least that makes a tile 48 px, grid within 1600 px.
      background: colour in [0, 255]^3 of separators and empty cells.

    Returns: uint8[R * (scale * h + pad) + pad, C * (scale * w + pad) + pad, 3].
    Raises: UserError on any other shape or dtype.
    """
    images = np.asarray(images)
    if (
        images.dtype != np.uint8
        or images.ndim not in (4, 5)
        or images.shape[-1] not in (1, 3)
        or not images.size
    ):
        raise UserError(f"a grid of {_describe(images)} was asked for: {SHOWN}; decode the samples first")
    h, w, c = images.shape[-3:]
    if images.ndim == 5:
        if cols not in (None, images.shape[1]):
            raise UserError(
                f"cols={cols} was given for {images.shape[1]} columns of images: leave it out, or reshape"
            )
        cols = images.shape[1]
    images = images.reshape(-1, h, w, c)
    cols = cols or _columns(len(images), h, w, pad)
    rows = -(-len(images) // cols)
    if scale is None:
        scale = max(1, min(-(-TILE // min(h, w)), (WIDTH - pad) // cols // w))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    H, W = scale * h + pad, scale * w + pad
    canvas = np.empty((rows * H + pad, cols * W + pad, 3), np.uint8)
    canvas[:] = background
    for i, tile in enumerate(tiles):
        y, x = i // cols * H + pad, i % cols * W + pad
        canvas[y : y + H - pad, x : x + W - pad] = tile  # one channel broadcasts to three
    return canvas


def _columns(n, h, w, pad):
    """About a square in pixels; up to twice as wide if that leaves no empty cell; within WIDTH."""
    square = math.ceil(math.sqrt(n * h / w))
    cols = next((k for k in range(square, 2 * square + 1) if n % k == 0), min(square, n))
    return max(1, min(cols, (WIDTH - pad) // (w + pad)))


def scatter(points, limits=None):
    """Points on axes of equal scale, transparent so that density shows.

    Args:
      points: float[N, 2]; or float[P, N, 2], P panels, 8 in a row; or float[R, C, N, 2], R rows of C panels.
      limits: (low, high) of both axes, or ((low, high), (low, high)) of x and y; by default the square
        around every finite point of every panel.

    Returns: uint8[H, W, 3]. Points that are not finite are counted in the panel's corner.
    Raises: UserError on any other shape or dtype.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = np.asarray(points)
    if not _is_points(points):
        raise UserError(f"a scatter plot of {_describe(points)} was asked for: {SHOWN}")
    points = points.astype(np.float64)
    panels = points.reshape(-1, *points.shape[-2:])  # [P, N, 2]
    xlim, ylim = np.broadcast_to(_square(points) if limits is None else limits, (2, 2))
    cols = points.shape[1] if points.ndim == 4 else min(len(panels), 8)
    rows = -(-len(panels) // cols)
    side = 720 if len(panels) == 1 else int(np.clip(WIDTH // cols, 160, 400))
    figure = Figure(figsize=(cols * side / 100, rows * side / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for i, panel in enumerate(panels):
        ax = figure.add_subplot(rows, cols, i + 1)
        finite = np.isfinite(panel).all(-1)
        alpha = float(np.clip(20 / math.sqrt(len(panel)), 0.05, 0.7))
        ax.scatter(*panel[finite].T, s=side / 60, alpha=alpha, color="#2457a6", linewidths=0)
        ax.set(xlim=xlim, ylim=ylim, aspect="equal")
        ax.tick_params(labelsize=8, color="0.6", labelcolor="0.35")
        ax.tick_params(labelleft=i % cols == 0, labelbottom=i + cols >= len(panels))
        ax.spines[:].set_color("0.8")
        if not finite.all():
            said = f"{(~finite).sum()} not finite"
            ax.text(0.02, 0.97, said, color="#b3261e", size=9, va="top", transform=ax.transAxes)
    margin = 36 / side  # px for the tick labels
    figure.subplots_adjust(margin / cols, margin / rows, 1 - 0.02 / cols, 1 - 0.02 / rows, 0.06, 0.06)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _square(points):
    """((x0, x1), (y0, y1)): equal sides, a margin of 5 %, around the finite points of float[..., 2]."""
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        return (-1.0, 1.0), (-1.0, 1.0)
    low, high = points.min(0), points.max(0)
    half = 0.55 * (high - low).max() or 1.0  # one point alone still needs an axis
    return tuple((float(m - half), float(m + half)) for m in (low + high) / 2)


def _is_points(raw):
    return (
        np.issubdtype(raw.dtype, np.floating)
        and raw.ndim in (2, 3, 4)
        and raw.shape[-1] == 2
        and raw.size > 0
    )


def picture(raw, limits=None):
    """The picture of raw samples: uint8[..., h, w, c] as a grid, float[..., 2] as a scatter plot.

    Args:
      raw: uint8[h, w, c], [N, h, w, c] or [R, C, h, w, c]; or float[N, 2], [P, N, 2] or [R, C, N, 2].
      limits: of the axes, as `scatter` takes them.

    Returns: uint8[H, W, 3]. Raises: UserError on anything else.
    """
    raw = np.asarray(raw)
    if raw.dtype == np.uint8 and raw.ndim in (3, 4, 5) and raw.shape[-1] in (1, 3) and raw.size:
        return grid(raw[None] if raw.ndim == 3 else raw)
    if _is_points(raw):
        return scatter(raw, limits)
    raise UserError(
        f"no picture of {_describe(raw)} is known: {SHOWN}; decode the samples, or save them as an array"
    )


def _describe(raw):
    return f"{raw.dtype}{list(raw.shape)}"


def save_picture(path, raw, limits=None):
    """Writes raw samples to `path`, in one piece or not at all; missing folders are made.

    Args:
      path: ends in .png for one picture, in .gif for an animation of about 4 s that loops.
      raw: as `picture` takes it; for .gif with one more leading axis F of frames, of which at most
        100, evenly spaced and with the last, are kept.
      limits: of the axes, as `scatter` takes them.

    Raises: UserError on another ending or shape.
    """
    from PIL import Image

    path, raw, buffer = Path(path), np.asarray(raw), io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(picture(raw, limits)).save(buffer, format="PNG")
    elif path.suffix == ".gif":
        if raw.ndim < 3 or not len(raw):
            raise UserError(
                f"an animation of {_describe(raw)} was asked for: put an axis of frames first; {SHOWN}"
            )
        raw = raw[np.linspace(0, len(raw) - 1, min(len(raw), MAX_FRAMES)).round().astype(int)]
        # One square for all frames: axes that move with the points would hide their motion.
        if limits is None and _is_points(raw[0]):
            limits = _square(raw)
        first, *rest = _indexed([picture(frame, limits) for frame in raw])
        each = max(20, round(3000 / max(1, len(rest)), -1))  # ms; the format counts in hundredths of a second
        first.save(
            buffer,
            format="GIF",
            save_all=True,
            append_images=rest,
            loop=0,
            optimize=False,
            duration=[each] * len(rest) + [1000],
        )
    else:
        raise UserError(f"{path.name!r} ends in {path.suffix!r}: pictures are .png or .gif")
    write_bytes(path, buffer.getvalue())


def _indexed(frames):
    """uint8[F, H, W, 3] to Pillow images with one palette: one of their own each would flicker."""
    from PIL import Image

    if all((f == f[..., :1]).all() for f in frames):
        return [Image.fromarray(f[..., 0]) for f in frames]  # 256 greys: exact
    rng = np.random.default_rng(0)
    # Every frame counts alike except the last, which stays on the screen longest and counts for half.
    sizes = [40_000 // len(frames) + 256] * len(frames) + [40_000]
    pixels = np.concatenate(
        [
            f.reshape(-1, 3)[rng.integers(f.size // 3, size=k)]
            for f, k in zip([*frames, frames[-1]], sizes, strict=True)
        ]
    )
    # 255 colours: the one left is the transparency with which Pillow stores what did not change.
    palette = Image.fromarray(pixels[None]).quantize(255, method=Image.Quantize.MEDIANCUT, kmeans=2)
    # No dithering: inside an enlarged pixel it would show as texture that no sample has.
    return [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
