"""Picture files that writers of pictures do not write, and the memory that a process took to read what harms."""

import struct
import zlib

PEAK = """
def peak():
    with open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""
"""Code of a process: the most memory that it has taken, in KiB. `ru_maxrss` would begin with that of its parent."""


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int = 8, kind: int = 0, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG with this head, pixel data and chunks between them. kind: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6
    RGBA. rows: each begins with the byte of its filter."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
