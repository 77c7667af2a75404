"""Folders of scenes in every layout, with pictures of one colour each."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxgen.data import SceneFolder
from jaxgen.data.analytic import shade, trace
from jaxgen.ops import cameras

POSE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]])


def blender(folder, sizes=((8, 6), (8, 6), (8, 6)), poses=None, alpha=255, missing=()):
    """A scene with one picture of one colour for each size, width by height, the last one held out."""
    poses = poses or [POSE] * len(sizes)
    for split, which in (("train", range(len(sizes) - 1)), ("test", [len(sizes) - 1])):
        (folder / split).mkdir(parents=True)
        frames = []
        for i in which:
            if i not in missing:
                Image.new("RGBA", sizes[i], (10, 20, 30, alpha)).save(folder / split / f"r_{i}.png")
            frames.append({"file_path": f"./{split}/r_{i}", "transform_matrix": np.asarray(poses[i]).tolist()})
        text = json.dumps({"camera_angle_x": 0.8, "frames": frames})
        (folder / f"transforms_{split}.json").write_text(text)
    return SceneFolder(folder=str(folder))


def around(num: int) -> list[np.ndarray]:
    """Poses f64[3, 4] that look at (3, -2, 1) from distances about 10, with y up."""
    centre = np.array([3.0, -2, 1])
    angles = 2 * np.pi * np.arange(num) / num
    positions = [[10 * np.sin(a), 3 + np.cos(3 * a), 10 * np.cos(a)] for a in angles]
    return [cameras.look_at(centre + p, centre, np.array([0.0, 1, 0])) for p in positions]


def capture(folder: Path, num: int = 9, frame: dict[str, Any] | None = None, **shared: Any) -> SceneFolder:
    """transforms.json alone, of `num` pictures of 8 x 6. frame: fields of frame 1; shared: those of the file."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for i, pose in enumerate(around(num)):
        Image.new("RGB", (8, 6), (0, i, 0)).save(folder / "images" / f"{i}.png")
        matrix = np.concatenate([pose, [[0, 0, 0, 1]]]).tolist()
        frames.append({"file_path": f"images/{i}.png", "transform_matrix": matrix, **(frame or {} if i == 1 else {})})
    scene = {"fl_x": 10.0, "w": 8, "h": 6, **shared, "frames": frames[::-1]}
    (folder / "transforms.json").write_text(json.dumps({k: v for k, v in scene.items() if v != "absent"}))
    return SceneFolder(folder=str(folder))


def photograph(pose: np.ndarray, local: np.ndarray) -> np.ndarray:
    """Colours uint8[N, 4] of the analytic scene in unit directions f64[N, 3] of a camera's axes."""
    d = local @ pose[:, :3].T
    rays = np.concatenate([np.tile(pose[:, 3], (len(d), 1)), d, np.tile([2.0, 6.0, 0.0], (len(d), 1))], axis=-1)
    distance, which = trace(rays)
    there = np.isfinite(distance)
    pixels = np.zeros((len(d), 4))
    pixels[there, :3] = shade(rays[there, :3] + d[there] * distance[there, None], d[there], which[there])
    pixels[there, 3] = 1
    return np.rint(255 * pixels).astype(np.uint8)


# --- COLMAP ---------------------------------------------------------------------------------------------------------

MODELS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4, "OPENCV_FISHEYE": 5}


def quaternion(turn: np.ndarray) -> np.ndarray:
    """(w, x, y, z) of a rotation f64[3, 3], as an eigenvector: independent of the reader's formula."""
    a, b, c = turn
    q = np.array(
        [
            [a[0] - b[1] - c[2], b[0] + a[1], c[0] + a[2], c[1] - b[2]],
            [b[0] + a[1], b[1] - a[0] - c[2], c[1] + b[2], a[2] - c[0]],
            [c[0] + a[2], c[1] + b[2], c[2] - a[0] - b[1], b[0] - a[1]],
            [c[1] - b[2], a[2] - c[0], b[0] - a[1], a[0] + b[1] + c[2]],
        ]
    )
    values, vectors = np.linalg.eigh(q)
    x, y, z, w = vectors[:, np.argmax(values)]
    return np.array([w, x, y, z])


def colmap(folder, camera="PINHOLE 16 12 20 22 8 6", num=9):
    """A scene in text, and its poses."""
    (folder / "images").mkdir(parents=True)
    poses, lines = [], ["# Image list", "# POINTS2D"]
    for i in range(num):
        Image.new("RGB", (8, 6), (0, i, 0)).save(folder / "images" / f"{i}.png")
        poses.append(cameras.look_at([0.3 * i - 1, 0.1 * (i % 4), 4.0], [0.2, 0, 0], [0, 1, 0.1]))
        to_world = poses[-1] * [1, -1, -1, 1]
        w2c = to_world[:, :3].T
        shift = -w2c @ to_world[:, 3]
        lines += [" ".join(map(str, (i + 1, *quaternion(w2c), *shift, 1, f"{i}.png"))), ""]
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (sparse / "images.txt").write_text("\n".join(lines) + "\n")
    (sparse / "cameras.txt").write_text(f"# Camera list\n1 {camera}\n")
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    text = "".join(f"{i} {x} {y} {z} 0 0 0 0.5\n" for i, (x, y, z) in enumerate(points))
    (sparse / "points3D.txt").write_text(text)
    return SceneFolder(folder=str(folder)), np.stack(poses)


def to_binary(folder: Path) -> None:
    """Text files of a folder as `colmap` writes them, with points of pictures and tracks added, as binary ones."""

    def lines(name: str) -> list[list[str]]:
        text = (folder / name).read_text()
        return [line.split() for line in text.splitlines() if line and line[0] != "#"]

    data = b""
    for key, model, width, height, *numbers in lines("cameras.txt"):
        head = struct.pack("<iiQQ", int(key), MODELS[model], int(width), int(height))
        data += head + struct.pack(f"<{len(numbers)}d", *map(float, numbers))
    (folder / "cameras.bin").write_bytes(struct.pack("<Q", len(lines("cameras.txt"))) + data)
    data = b""
    for i, (key, *numbers, camera, name) in enumerate(lines("images.txt")):
        data += struct.pack("<i7di", int(key), *map(float, numbers), int(camera)) + name.encode() + b"\0"
        data += struct.pack("<Q", i) + i * struct.pack("<ddq", 1.5, 2.5, -1)
    (folder / "images.bin").write_bytes(struct.pack("<Q", len(lines("images.txt"))) + data)
    data = b""
    for i, (key, x, y, z, *_) in enumerate(lines("points3D.txt")):
        data += struct.pack("<Q3d3Bd", int(key), float(x), float(y), float(z), 1, 2, 3, 0.5)
        data += struct.pack("<Q", i % 3) + i % 3 * struct.pack("<ii", 1, 2)
    (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(lines("points3D.txt"))) + data)
    for name in ("cameras.txt", "images.txt", "points3D.txt"):
        (folder / name).unlink()
