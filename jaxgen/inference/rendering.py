"""Renders a trained scene: held-out views with their errors, a film around it, and the mesh of a radiance field."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Le

from jaxgen.core.capabilities import RadianceField, RendersViews
from jaxgen.core.ranges import OptionalCount
from jaxgen.core.types import TrainState
from jaxgen.data.rays import PosedViews, Views, composite
from jaxgen.data.whole_views import cameras_of
from jaxgen.errors import UserError
from jaxgen.experiment import Experiment
from jaxgen.inference.held_out import mean_and_error, plus_minus
from jaxgen.inference.images import save_image
from jaxgen.metrics.image import SSIM_SMALLEST, psnr, ssim
from jaxgen.ops.cameras import columns, view_rays
from jaxgen.ops.volume import Rendered
from jaxgen.report import save_picture, write_report
from jaxgen.runs.environment import environment
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import Trained
from jaxgen.runtime.files import check_output, write_bytes
from jaxgen.runtime.png import Origin

SHOWN = 4  # views in the report's picture


@dataclass(frozen=True)
class Rendering:
    """Settings of rendering."""

    split: Literal["test", "train"] = "test"
    """Whose views are rendered and measured."""
    limit: OptionalCount = 0
    """Only the first so many views; all when 0."""
    turntable: Annotated[int, Ge(0), Le(10_000)] = 0
    """Frames of turntable.gif, a film around the scene. Of LLFF's and COLMAP's scenes the camera sways instead."""
    size: Annotated[int, Ge(0), Le(8_192)] = 0
    """Width of the film in pixels; that of the pictures when 0."""
    lattice: Annotated[int, Ge(0), Le(2_048)] = 0
    """Points along each side of the lattice for marching cubes, which writes mesh.ply and needs scikit-image; no mesh
    when 0."""
    level: float = 10.0
    """Density of the mesh's surface, per unit of length of the scene."""

    def problem(self) -> str | None:
        return "lattice is 1: 2 or more are expected, or 0 for no mesh" if self.lattice == 1 else None


class View(NamedTuple):
    """A picture to render. size: H, W; the other fields as those of `Views`, of one view."""

    size: tuple[int, int]
    pose: np.ndarray
    intrinsics: np.ndarray
    near: float
    far: float
    planar: bool

    @property
    def rays(self) -> np.ndarray:
        """f32[H * W, 9]."""
        return view_rays(self.pose, self.intrinsics, self.size, self.near, self.far, self.planar)

    @property
    def camera(self) -> np.ndarray:
        """f32[1, 18]. Raises UserError where it has a lens."""
        one = (np.asarray(a)[None] for a in (self.pose, self.intrinsics, self.near, self.far, self.planar))
        return cameras_of(Views(np.empty((1, *self.size, 4), np.uint8), *one))


def check(experiment: Experiment, options: Rendering) -> None:
    """Raises UserError for a run that has no scene to show."""
    model, name = experiment.model, type(experiment.model).__name__
    if not isinstance(model, RadianceField | RendersViews) or not isinstance(experiment.data, PosedViews):
        raise UserError(f"{name} is no radiance field: name a run of experiments/nerf.py or experiments/splats.py")
    if options.lattice and not isinstance(model, RadianceField):
        raise UserError(f"{name} has no density at points to make a mesh of: leave --lattice out")
    if options.lattice:
        _marching_cubes()


def _shows(trained: Trained) -> RadianceField | RendersViews:
    """The run's model. Raises UserError where it shows no scene."""
    check(trained.experiment, Rendering())
    assert isinstance(trained.model, RadianceField | RendersViews)
    return trained.model


def scene_of(trained: Trained) -> PosedViews:
    """The run's data. Raises UserError where these are no views of a scene."""
    check(trained.experiment, Rendering())
    assert isinstance(trained.experiment.data, PosedViews)
    return trained.experiment.data


@partial(jax.jit, static_argnums=0)
def rendered(model: RadianceField, state: TrainState, rays: jax.Array) -> Rendered:
    """What is seen along rays f32[N, 9]: one program for all of one picture."""
    return model.render(state, rays)


@partial(jax.jit, static_argnums=(0, 3))
def rendered_views(model: RendersViews, state: TrainState, cameras: jax.Array, size: tuple[int, int]) -> Rendered:
    """What cameras f32[N, 18] see: one program for all pictures of one size."""
    return model.render_views(state, cameras, size)


def render_view(trained: Trained, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture uint8[H, W, 3], its depth f32[H, W] as a distance, and its opacity f32[H, W]."""
    model, state, size = _shows(trained), trained.state, view.size
    if isinstance(model, RendersViews):
        seen = rendered_views(model, state, view.camera, size)
    else:
        seen = rendered(model, state, view.rays)
    rgb, depth, opacity = (np.asarray(a) for a in (trained.codec.decode(seen.rgb), seen.depth, seen.opacity))
    return rgb.reshape(*size, 3), depth.reshape(size), opacity.reshape(size)


def render_run(trained: Trained, options: Rendering, out: Path, lpips: Any = None, origin: Origin | None = None) -> str:
    """Renders into `out` and the run's report, and returns a summary of a few lines.

    lpips: f32[B] of two batches of pictures, where its weights are named. origin: where the pictures come from.
    """
    check_output(out, folder=True)
    run, step, model = trained.run, trained.step, _shows(trained)
    pictures = run.pictures(step)
    numbers, shown = _views(trained, options, out, lpips, origin)
    save_picture(pictures / f"{options.split}_views.png", shown, origin=origin)
    count = _count(scene_of(trained).views(options.split), options)
    said = {name: mean_and_error(values) for name, values in numbers.items()}
    facts = {"split": options.split, "num": count, "of": "whole views", "step": step}
    facts |= {"parameters": trained.state.sampling_field, **({"lpips": lpips.provenance} if lpips else {})}
    if said:  # of scenes without pictures there is nothing to compare with, and other numbers may be there
        run.write_json("evaluation.json", {**facts, "metrics": said, "environment": environment()})
    each = [{name: float(v[i]) for name, v in numbers.items()} for i in range(count)]
    RunFolder(out).write_json("views.json", {**facts, "views": each})
    lines = [f"step {step}, {count} views of {options.split}: {out}"]
    lines += [f"{name:20} {plus_minus(value)}" for name, value in said.items()]
    if options.turntable:
        film = turntable(trained, options.turntable, options.size)
        for folder in (out, pictures):
            save_picture(folder / "turntable.gif", film)
        lines.append(f"turntable of {len(film)} frames: {out / 'turntable.gif'}")
    if options.lattice and isinstance(model, RadianceField):
        vertices, faces, colours = mesh(model, trained.state, options.lattice, options.level)
        write_ply(out / "mesh.ply", vertices, faces, colours)
        lines.append(f"mesh of {len(vertices)} vertices and {len(faces)} triangles: {out / 'mesh.ply'}")
    lines.append(f"report: {write_report(run.path)}")
    return "\n".join(lines)


def _views(
    trained: Trained, options: Rendering, out: Path, lpips: Any, origin: Origin | None
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The numbers of each view, f64[V] by name, and for the report uint8[4, V, H, W, 3]: rows of what was to be seen,
    of what is, of depth and of opacity. Each picture is also written by itself. Of a scene without pictures there are
    no numbers and three rows."""
    data, model = scene_of(trained), _shows(trained)
    views = data.views(options.split)
    if lpips and not data.pictured:
        raise UserError(f"{trained.name} is a scene without pictures to compare its views with: leave --lpips out")
    if lpips and views.counted is not None:
        raise UserError("LPIPS compares neighbourhoods of pixels, which the masks of this scene cut: leave --lpips out")
    count = _count(views, options)
    true = data.depth(options.split)
    numbers: dict[str, list[float]] = {}
    rows: list[list[np.ndarray]] = []
    for i in range(count):
        view = view_of(views, i)
        picture, depth, opacity = render_view(trained, view)
        grey = [_grey(a) for a in (_bright(depth, opacity, view.rays), opacity)]
        save_image(picture, out / f"view{i:03}.png", origin)
        for name, image in zip(("depth", "opacity"), grey):
            save_image(image, out / f"{name}{i:03}.png", origin)
        seen = [picture, *(np.repeat(a, 3, axis=-1) for a in grey)]
        if not data.pictured:
            rows += [seen] if i < SHOWN else []
            continue
        wanted = composite(views.pixels[i], model.background)
        counted = None if views.counted is None else views.counted[i]
        for name, value in _measured(picture, wanted, counted, lpips).items():
            numbers.setdefault(name, []).append(value)
        if true is not None:
            numbers.setdefault("depth_error", []).append(depth_error(depth, true[i]))
        if i < SHOWN:
            rows.append([wanted, *seen])
    return {name: np.array(values) for name, values in numbers.items()}, np.stack([np.stack(r) for r in zip(*rows)])


def _count(views: Views, options: Rendering) -> int:
    """Of views that are rendered."""
    return min(options.limit or len(views.pixels), len(views.pixels))


def _measured(picture: np.ndarray, wanted: np.ndarray, counted: np.ndarray | None, lpips: Any) -> dict[str, float]:
    """PSNR, SSIM of pictures that are large enough, and LPIPS where given, of two pictures uint8[H, W, 3].

    Where only some pixels count, bool[H, W], the PSNR over them alone: SSIM compares neighbourhoods, which masks cut.
    """
    if counted is not None:
        pair = [jnp.asarray((image * counted[..., None])[None]) for image in (picture, wanted)]
        # The mean error is that over all pixels, and it is 0 for those that do not count.
        return {"psnr": float(psnr(*pair)[0]) + 10 * math.log10(counted.mean())}
    pair = [jnp.asarray(image[None]) for image in (picture, wanted)]
    measures: dict[str, Any] = {"psnr": psnr} | ({"ssim": ssim} if min(picture.shape[:2]) >= SSIM_SMALLEST else {})
    measures |= {lpips.name: lpips} if lpips else {}
    return {name: float(measure(*pair)[0]) for name, measure in measures.items()}


def depth_error(depth: np.ndarray, true: np.ndarray) -> float:
    """Median over pixels with something in them, which have a finite true depth, of the relative error."""
    there = np.isfinite(true)
    return float(np.median(np.abs(depth[there] - true[there]) / true[there])) if there.any() else math.nan


def view_of(views: Views, i: int) -> View:
    """The view of this number, to be rendered."""
    return View(views.size, views.poses[i], views.intrinsics[i], views.near[i], views.far[i], views.planar[i])


def _bright(depth: np.ndarray, opacity: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Depth as brightness f32[H, W]: near is bright, nothing is black."""
    near, far = (a.reshape(depth.shape) for a in columns(rays)[2:4])
    return opacity * (far - depth) / (far - near)


def _grey(values: np.ndarray) -> np.ndarray:
    """f32[H, W] in [0, 1] as uint8[H, W, 1]."""
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)[..., None]


def turntable(trained: Trained, frames: int, width: int = 0) -> np.ndarray:
    """uint8[F, H, W, 3]: the scene along the data's way around it, by its first held-out camera's lens; width in
    pixels, that of the pictures when 0."""
    data = scene_of(trained)
    views = data.views("test")
    scale = width / views.size[1] if width else 1.0
    size = (max(1, round(views.size[0] * scale)), max(1, round(views.size[1] * scale)))
    lens = np.concatenate([views.intrinsics[0, :4] * scale, views.intrinsics[0, 4:]])
    ends = (views.near.min(), views.far.max(), views.planar[0])
    return np.stack([render_view(trained, View(size, pose, lens, *ends))[0] for pose in data.camera_path(frames)])


# --- mesh ---------------------------------------------------------------------------------------------------------


def _marching_cubes() -> Any:
    try:
        from skimage.measure import marching_cubes  # pyright: ignore[reportMissingImports]: an extra
    except ImportError as error:
        raise UserError("a mesh needs scikit-image: pip install 'jaxgen[mesh]'") from error
    return marching_cubes


@partial(jax.jit, static_argnums=0)
def _at(model: RadianceField, state: TrainState, x: jax.Array, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    return model.at_points(state, x, d)


def mesh(
    model: RadianceField, state: TrainState, points: int, level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The surface where the density is `level`, on a lattice of `points` a side: vertices f32[V, 3], triangles
    i32[F, 3] that turn counter-clockwise seen from outside, and the vertices' colours uint8[V, 3], along the normal.

    Raises UserError when the density does not cross the level.
    """
    side = np.linspace(-model.bound, model.bound, points, dtype=np.float32)
    layers = []
    for x in side:
        layer = np.stack(np.meshgrid([x], side, side, indexing="ij"), axis=-1).reshape(-1, 3)
        layers.append(np.asarray(_at(model, state, layer, np.zeros_like(layer))[0]).reshape(points, points))
    density = np.stack(layers)
    if not density.min() < level < density.max():
        raise UserError(
            f"the density goes from {density.min():.3g} to {density.max():.3g}, the mesh is asked for at {level:g}: "
            "pass a --level between"
        )
    # Logarithms: between two points the density of a surface grows by factors, and the crossing would stick to one.
    logs, level = np.log(density + 1e-6), np.log(level + 1e-6)
    vertices, faces, normals, _ = _marching_cubes()(logs, level, spacing=(side[1] - side[0],) * 3)
    # Its triangles turn clockwise seen from where the density is low.
    vertices, faces = (vertices - model.bound).astype(np.float32), faces[:, ::-1]
    inwards = _inwards(vertices, faces, normals).astype(np.float32)
    # In one shape whatever the count, so that one program does.
    block = points * points
    padded = [np.resize(a, (-(-len(a) // block) * block, 3)).reshape(-1, block, 3) for a in (vertices, inwards)]
    colours = np.concatenate([np.asarray(_at(model, state, *pair)[1]) for pair in zip(*padded)])[: len(vertices)]
    return vertices, faces.astype(np.int32), np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8)


def _inwards(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Directions of length one into the solid at each vertex, f64[V, 3], by the triangles' own turn."""
    corners = vertices[faces]
    outwards = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros(normals.shape)
    for i in range(3):
        np.add.at(total, faces[:, i], outwards)
    length = np.linalg.norm(total, axis=-1, keepdims=True)
    return -np.where(length > 1e-12, total / np.maximum(length, 1e-12), normals)


def write_ply(file: Path, vertices: np.ndarray, faces: np.ndarray, colours: np.ndarray) -> None:
    """A mesh with vertex colours as a binary PLY file."""
    head = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    points = np.empty(len(vertices), [("place", "<f4", 3), ("colour", "u1", 3)])
    points["place"], points["colour"] = vertices, colours
    triangles = np.empty(len(faces), [("count", "u1"), ("corners", "<i4", 3)])
    triangles["count"], triangles["corners"] = 3, faces
    write_bytes(file, head.encode() + points.tobytes() + triangles.tobytes())
