"""From raw samples to pictures: grids of tiles, scatter plots, PNG and GIF files.

Shapes: N samples, R rows, C columns, P panels, F frames; h, w and c are the height, width and channels of one image.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.report.words import strips
from jaxgen.runtime.files import write_bytes
from jaxgen.runtime.png import Origin, png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Limits = tuple[float, float] | tuple[tuple[float, float], tuple[float, float]]
"""(low, high) for both axes, or one such pair for x and one for y."""

READABLE = 96  # px; the same of tiles with texts below
TILE = 48  # px; smaller tiles are enlarged, as an 8x8 image would be hard to see on a page
WIDTH = 1600  # px; the largest width of a grid that is enlarged or laid out automatically
GREY = (160, 160, 160)  # stands out against white emoji and black digits alike
WHITE = (255, 255, 255)
MAX_FRAMES = 100
ACCEPTED = (
    "pictures are made of uint8[N, h, w, c] or [R, C, h, w, c] with c 1 or 3, and float[N, 2], [P, N, 2] or "
    "[R, C, N, 2]"
)


def grid(
    images: Any,
    cols: int | None = None,
    pad: int = 1,
    scale: int | None = None,
    background: tuple[int, int, int] | None = None,
    texts: Sequence[str] = (),
) -> np.ndarray:
    """Tiles in rows, enlarged by repeating pixels, with `pad` output pixels between and around them.

    Args:
      images: uint8[N, h, w, c], or uint8[R, C, h, w, c], whose rows and columns are kept; c is 1 or 3.
      cols: tiles per row of a flat list; by default about square, without empty cells if possible.
      pad: width of the separators in output pixels.
      scale: output pixels per pixel; by default the least with tiles of 48 px, as far as the grid stays within 1600 px.
      background: colour of separators and empty cells, in [0, 255]; by default grey, and white with texts.
      texts: one for each image, written below it.

    Returns: uint8[R * (scale * h + pad) + pad, C * (scale * w + pad) + pad, 3], higher by the texts.
    Raises: UserError for another shape or dtype, or another number of texts.
    """
    images = np.asarray(images)
    if not _is_images(images, (4, 5)):
        raise UserError(f"no grid can be made of {_describe(images)}: {ACCEPTED}; decode the samples first")
    h, w, c = images.shape[-3:]
    if images.ndim == 5:
        if cols not in (None, images.shape[1]):
            raise UserError(f"cols={cols} was given for {images.shape[1]} columns of images: leave it out, or reshape")
        cols = images.shape[1]
    images = images.reshape(-1, h, w, c)
    if texts and len(texts) != len(images):
        raise UserError(f"{len(texts)} texts were given for {len(images)} images: give one for each")
    tile = READABLE if texts else TILE
    if scale is None and cols is None:
        least = -(-tile // min(h, w)) if texts else 1
        cols = _columns(len(images), least * h, least * w, pad)
    cols = cols or _columns(len(images), h, w, pad)
    rows = -(-len(images) // cols)
    if scale is None:
        scale = max(1, min(-(-tile // min(h, w)), (WIDTH - pad) // cols // w))
    background = background or (WHITE if texts else GREY)
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    if texts:
        below = strips(texts, scale * w, background)
        tiles = np.concatenate([np.broadcast_to(tiles, (*tiles.shape[:3], 3)), below], axis=1)
    H, W = tiles.shape[1] + pad, scale * w + pad
    canvas = np.empty((rows * H + pad, cols * W + pad, 3), np.uint8)
    canvas[:] = background
    for i, tile in enumerate(tiles):
        y, x = i // cols * H + pad, i % cols * W + pad
        canvas[y : y + H - pad, x : x + W - pad] = tile  # one channel broadcasts to three
    return canvas


def _columns(n: int, h: int, w: int, pad: int) -> int:
    """Columns of a grid about square in pixels, or up to twice as wide if that avoids empty cells; within WIDTH."""
    square = math.ceil(math.sqrt(n * h / w))
    cols = next((k for k in range(square, 2 * square + 1) if n % k == 0), min(square, n))
    return max(1, min(cols, (WIDTH - pad) // (w + pad)))


def scatter(points: Any, limits: Limits | None = None) -> np.ndarray:
    """A scatter plot with axes of equal scale and transparent points, so that density shows.

    Args:
      points: float[N, 2]; or float[P, N, 2], P panels, 8 per row; or float[R, C, N, 2], R rows of C panels.
      limits: of the axes; by default the square around all finite points of all panels.

    Returns: uint8[H, W, 3]. Each panel counts its points that are not finite in a corner.
    Raises: UserError for another shape or dtype.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = np.asarray(points)
    if not _is_points(points):
        raise UserError(f"no scatter plot can be made of {_describe(points)}: {ACCEPTED}")
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
            count = f"{(~finite).sum()} not finite"
            ax.text(0.02, 0.97, count, color="#b3261e", size=9, va="top", transform=ax.transAxes)
    margin = 36 / side  # px for the tick labels
    figure.subplots_adjust(margin / cols, margin / rows, 1 - 0.02 / cols, 1 - 0.02 / rows, 0.06, 0.06)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _square(points: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """((x0, x1), (y0, y1)): the square around the finite points of float[..., 2], with a margin of 5 %."""
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        return (-1.0, 1.0), (-1.0, 1.0)
    low, high = points.min(0), points.max(0)
    half = 0.55 * (high - low).max() or 1.0  # a single point has no extent
    x, y = (low + high) / 2
    return (float(x - half), float(x + half)), (float(y - half), float(y + half))


def _is_images(raw: np.ndarray, ndims: Sequence[int]) -> bool:
    return raw.dtype == np.uint8 and raw.ndim in ndims and raw.shape[-1] in (1, 3) and raw.size > 0


def _is_points(raw: np.ndarray) -> bool:
    return np.issubdtype(raw.dtype, np.floating) and raw.ndim in (2, 3, 4) and raw.shape[-1] == 2 and raw.size > 0


def picture(raw: Any, limits: Limits | None = None, texts: Sequence[str] = ()) -> np.ndarray:
    """The picture of raw samples: images as a grid, points as a scatter plot.

    Args:
      raw: uint8[h, w, c], [N, h, w, c] or [R, C, h, w, c]; or float[N, 2], [P, N, 2] or [R, C, N, 2].
      limits: of the axes of a scatter plot.
      texts: one for each image, written below it.

    Returns: uint8[H, W, 3]. Raises: UserError for anything else.
    """
    raw = np.asarray(raw)
    if _is_images(raw, (3, 4, 5)):
        return grid(raw[None] if raw.ndim == 3 else raw, texts=texts)
    if _is_points(raw):
        return scatter(raw, limits)
    raise UserError(
        f"no picture can be made of {_describe(raw)}: {ACCEPTED}; decode the samples, or save them as an array"
    )


def _describe(raw: np.ndarray) -> str:
    return f"{raw.dtype}{list(raw.shape)}"


def save_picture(
    path: Path | str,
    raw: Any,
    limits: Limits | None = None,
    texts: Sequence[str] = (),
    origin: Origin | None = None,
) -> None:
    """Writes a picture of raw samples to `path` atomically, and creates missing folders.

    Args:
      path: ends in .png for one picture, or in .gif for an animation of about 4 s that loops.
      raw: as for `picture`. For .gif it has an additional leading axis F of frames, of which at most 100 are kept,
        evenly spaced and including the last.
      limits: of the axes of a scatter plot.
      texts: one for each image of a .png, written below it.
      origin: where the picture comes from, which a .png then holds; `jaxgen inspect` reads it.

    Raises: UserError for another suffix, shape or dtype.
    """
    from PIL import Image

    path, raw = Path(path), np.asarray(raw)
    if path.suffix == ".png":
        data = png_bytes(Image.fromarray(picture(raw, limits, texts)), origin and {"picture": path.name, **origin})
    elif path.suffix == ".gif":
        if raw.ndim < 3 or not len(raw):
            raise UserError(f"no animation can be made of {_describe(raw)}: put an axis of frames first; {ACCEPTED}")
        raw = raw[np.linspace(0, len(raw) - 1, min(len(raw), MAX_FRAMES)).round().astype(int)]
        # All frames share their axes: if these moved with the points, they would hide the motion.
        if limits is None and _is_points(raw[0]):
            limits = _square(raw)
        first, *rest = _indexed([picture(frame, limits) for frame in raw])
        each = max(20, round(3000 / max(1, len(rest)), -1))  # ms; GIF counts in hundredths of a second
        duration = [each] * len(rest) + [1000]
        buffer = io.BytesIO()
        first.save(buffer, "GIF", save_all=True, append_images=rest, loop=0, optimize=False, duration=duration)
        data = buffer.getvalue()
    else:
        raise UserError(f"{path.name!r} ends in {path.suffix!r}: pictures are .png or .gif")
    write_bytes(path, data)


def _indexed(frames: Sequence[np.ndarray]) -> list["Picture"]:
    """Pillow images of frames uint8[H, W, 3], with a shared palette: with separate palettes the GIF would flicker."""
    from PIL import Image

    if all((f == f[..., :1]).all() for f in frames):
        return [Image.fromarray(f[..., 0]) for f in frames]  # 256 greys are exact
    rng = np.random.default_rng(0)
    # Half of the pixels come from the last frame, which is shown longest; the other frames share the rest.
    sizes = [40_000 // len(frames) + 256] * len(frames) + [40_000]
    drawn = zip([*frames, frames[-1]], sizes, strict=True)
    pixels = np.concatenate([f.reshape(-1, 3)[rng.integers(f.size // 3, size=k)] for f, k in drawn])
    # 255 colours: the last one is transparency, with which Pillow stores pixels that did not change.
    palette = Image.fromarray(pixels[None]).quantize(255, method=Image.Quantize.MEDIANCUT, kmeans=2)
    # No dithering: within an enlarged pixel it would look like texture, which the samples do not have.
    return [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
