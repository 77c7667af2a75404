"""Splats as PLY files in the layout of the published code of arXiv:2308.04079, which viewers read.

A vertex is a splat: x, y, z; nx, ny, nz, which are 0; f_dc_0 to 2, the constant harmonic of r, g, b; f_rest_*, the
others, all of r first; opacity, a logit; scale_0 to 2, logarithms; rot_0 to 3, a quaternion w, x, y, z of any length.
"""

import math
from pathlib import Path

import numpy as np

from jaxgen.errors import UserError
from jaxgen.runtime.files import write_bytes
from jaxgen.runtime.reading import read_bytes

TYPES = {
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "char": "i1", "int8": "i1", "uchar": "u1",
    "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2", "int": "<i4", "int32": "<i4",
    "uint": "<u4", "uint32": "<u4",
}  # fmt: skip
LONGEST_HEAD = 1 << 16
NAMES = {
    "mean": ("x", "y", "z"),
    "sh0": tuple(f"f_dc_{i}" for i in range(3)),
    "opacity": ("opacity",),
    "log_scale": tuple(f"scale_{i}" for i in range(3)),
    "quaternion": tuple(f"rot_{i}" for i in range(4)),
}
"""The properties of each array, the harmonics above the constant one beside them."""


def write(file: Path, splats: dict[str, np.ndarray]) -> None:
    """splats: f32 arrays by the names of `ops.densification.Params`, of N splats."""
    number = len(splats["mean"])
    rest = splats.get("sh", np.zeros((number, 0, 3), np.float32)).transpose(0, 2, 1).reshape(number, -1)
    parts = [
        (NAMES["mean"], splats["mean"]),
        (("nx", "ny", "nz"), np.zeros((number, 3), np.float32)),
        (NAMES["sh0"], splats["sh0"]),
        (tuple(f"f_rest_{i}" for i in range(rest.shape[1])), rest),
        (NAMES["opacity"], splats["opacity"][:, None]),
        (NAMES["log_scale"], splats["log_scale"]),
        (NAMES["quaternion"], splats["quaternion"]),
    ]
    names = [name for group, _ in parts for name in group]
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {number}"]
    head += [f"property float {name}" for name in names] + ["end_header", ""]
    write_bytes(file, "\n".join(head).encode() + np.concatenate([a for _, a in parts], axis=1).astype("<f4").tobytes())


def read(file: Path) -> dict[str, np.ndarray]:
    """The inverse of `write`; properties may come in any order, and others are left out.

    Raises UserError for a file that is no binary PLY of splats, is cut off, or has numbers that are not finite.
    """
    data = read_bytes(file)
    end = data.find(b"end_header", 0, LONGEST_HEAD)
    if not data.startswith(b"ply") or end < 0:
        raise UserError(f"{file} is no PLY file: pass point_cloud.ply of a trained scene of splats")
    number, kind = _head(data[:end].decode("ascii", "replace"), file)
    start = data.find(b"\n", end) + 1
    if len(data) < start + number * kind.itemsize:
        raise UserError(f"{file} ends within its {number} splats: copy it again")
    rows = np.frombuffer(data, kind, number, start)
    missing = [name for group in NAMES.values() for name in group if name not in (kind.names or ())]
    if missing or not number:
        raise UserError(f"{file} has {number} points, without {', '.join(missing[:3]) or 'any'}: splats are expected")
    found = {key: np.stack([rows[name] for name in group], axis=-1) for key, group in NAMES.items()}
    found["opacity"] = found["opacity"][:, 0]
    rest = sum(name.startswith("f_rest_") for name in kind.names or ())
    if rest not in (0, 9, 24, 45) or any(f"f_rest_{i}" not in (kind.names or ()) for i in range(rest)):
        raise UserError(f"{file} has {rest} coefficients f_rest_*: 0, 9, 24 or 45 are expected")
    if rest:
        found["sh"] = np.stack([rows[f"f_rest_{i}"] for i in range(rest)], axis=-1)
        found["sh"] = found["sh"].reshape(number, 3, rest // 3).transpose(0, 2, 1)
    found = {key: np.ascontiguousarray(a, np.float32) for key, a in found.items()}
    if not all(np.isfinite(a).all() for a in found.values()):
        raise UserError(f"{file} has numbers that are not finite: remove those splats")
    return found


def degree(splats: dict[str, np.ndarray]) -> int:
    """Of the harmonics of splats."""
    return math.isqrt(1 + splats["sh"].shape[1]) - 1 if "sh" in splats else 0


def _head(text: str, file: Path) -> tuple[int, np.dtype]:
    """How many vertices follow, and what each is."""
    number, fields = -1, []
    for line in text.splitlines()[1:]:
        match line.split():
            case ["format", form, *_] if form != "binary_little_endian":
                raise UserError(f"{file} has the format {form}: a binary_little_endian PLY file is expected")
            case ["element", "vertex", count] if number < 0 and count.isdecimal() and len(count) < 10:
                number = int(count)
            case ["element", *_] if number < 0:
                raise UserError(f"{file} begins with something else than vertices: splats are expected")
            case ["element", *_]:
                break
            case ["property", name_of_type, name] if name_of_type in TYPES:
                fields.append((name, TYPES[name_of_type]))
            case ["property", *_]:
                raise UserError(f"{file} has the line {line!r:.60}, which no splat has: numbers are expected")
    if number < 0 or not fields or len({name for name, _ in fields}) != len(fields):
        raise UserError(f"{file} names no vertices with numbers of different names: splats are expected")
    return number, np.dtype(fields)
