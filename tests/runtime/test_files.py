"""Files are replaced whole or not at all; places that cannot be written are refused; the cache is private."""

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from jaxgen.errors import UserError
from jaxgen.inference.export import write_sampler
from jaxgen.inference.rendering import write_ply
from jaxgen.report import save_picture
from jaxgen.report.parts import write_page
from jaxgen.runs.folder import RunFolder
from jaxgen.runtime import cache
from jaxgen.runtime.files import check_output, disk_errors, replacing, write_bytes, write_tensors, write_text

NOISE = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)


@contextmanager
def full_after(nbytes: int) -> Iterator[None]:
    """Files end after so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sampler(folder: Path) -> None:
    exported = jax.export.export(jax.jit(lambda seed, index: jnp.zeros((4000,)) + seed + index))(
        jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((), jnp.uint32)
    )
    write_sampler(folder, exported, "samples " * 200, None)


OUTPUTS: dict[str, Callable[[Path], object]] = {
    "samples.safetensors": lambda file: write_tensors(file, {"x": NOISE}),
    "samples.png": lambda file: save_picture(file, NOISE),
    "turntable.gif": lambda file: save_picture(file, NOISE),
    "samples.txt": lambda file: write_text(file, "text " * 1000),
    "report.html": lambda file: write_page(file, "a run", ["<p>" + "x" * 4000 + "</p>"]),
    "mesh.ply": lambda file: write_ply(file, np.zeros((99, 3)), np.zeros((99, 3), int), np.zeros((99, 3), np.uint8)),
    "evaluation.json": lambda file: RunFolder(file.parent).write_json(file.name, list(range(1000))),
    "sample.py": lambda file: sampler(file.parent),
    "flatbuffers.zip": lambda file: sampler(file.parent),
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("before", [None, b"the old one"])
def test_an_output_on_a_full_disk_is_whole_or_absent(name, before, tmp_path):
    file = tmp_path / "folder" / name
    if before is not None:
        write_bytes(file, before)
    said = pytest.raises(UserError, match=r"File too large.*the same command goes on")
    with full_after(2048), said as error, disk_errors():
        OUTPUTS[name](file)
    assert str(file.parent) in str(error.value) and "\n" not in str(error.value)
    there = sorted(p.name for p in file.parent.iterdir())
    assert not [p for p in there if p.startswith(".")]
    if name not in ("sample.py", "flatbuffers.zip"):  # of an export, files before are whole
        assert there == ([] if before is None else [name])
    if before is not None:
        assert file.read_bytes() == before
    OUTPUTS[name](file)
    assert file.read_bytes() != before


def test_an_export_is_cut_at_the_file_that_is_too_large(tmp_path):
    with full_after(1 << 12), pytest.raises(OSError) as error:
        sampler(tmp_path)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename in {str(tmp_path / name) for name in ("sampler.bin", "flatbuffers.zip")}


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing(tmp_path / "a" / "file") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert not list((tmp_path / "a").iterdir())
    name = "x" * 255  # as long as a name can be
    write_text(tmp_path / name, "whole")
    assert (tmp_path / name).read_text() == "whole"


def places(folder: Path) -> dict[str, Path]:
    """Places that no output can have, made in a folder."""
    (folder / "file").write_text("")
    (folder / "loop").symlink_to("loop")
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")
    os.mkfifo(folder / "pipe")
    (folder / "to-file").symlink_to("file")
    (folder / "to-proc").symlink_to("/proc")
    pipe, proc = folder / "pipe", folder / "to-proc"
    return {
        "a file": folder / "file", "below a file": folder / "file" / "run", "far below": folder / "file" / "a" / "b",
        "null": Path("/dev/null"), "below null": Path("/dev/null/run"), "dev": Path("/dev"), "in dev": Path("/dev/r"),
        "proc": Path("/proc/self"), "new in proc": Path("/proc/run"), "sys": Path("/sys/run"), "loop": folder / "loop",
        "below a loop": folder / "loop" / "run", "two links": folder / "one" / "run", "pipe": pipe,
        "below a pipe": pipe / "run", "link to a file": folder / "to-file", "link out": proc / "r",
        "long": folder / ("x" * 300), "longer": folder / "/".join(["y" * 200] * 30), "NUL": folder / "a\0b",
        "dots": folder / "file" / ".." / "file",
    }  # fmt: skip


def test_places_that_no_folder_can_have(tmp_path):
    hostile = places(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name, path in hostile.items():
        with pytest.raises(UserError, match=r"cannot write to .*choose another with --out") as error:
            check_output(path, folder=True)
        assert "\n" not in str(error.value), name
    assert len(hostile) > 20
    assert sorted(tmp_path.rglob("*")) == before


def test_places_that_files_and_folders_can_have(tmp_path):
    (tmp_path / "there").mkdir()
    for path in (tmp_path, tmp_path / "new", tmp_path / "new" / "newer", Path("relative"), Path("/dev/shm/run")):
        check_output(path, folder=True)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "new" / "file"):
        check_output(path, folder=False)
    for path in (tmp_path / "there", Path("/dev/null"), Path("/dev/stdout"), tmp_path / "file" / "x"):
        with pytest.raises(UserError, match="name another file"):
            check_output(path, folder=False)


def test_a_folder_of_somebody_else_is_refused():
    """By a process without root's rights."""
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        code = f"""
import os
from pathlib import Path
from jaxgen.runtime.files import check_output
os.setgid(65534); os.setuid(65534)
check_output(Path({folder!r}) / "run", folder=True)"""
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "may not be written to" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_the_cache_is_private_whatever_the_umask(umask, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "a" / "cache"))
    before = os.umask(umask)
    try:
        folder = cache.private_folder("xla")
    finally:
        os.umask(before)
    assert folder == tmp_path / "a" / "cache" / "xla"
    for path in (tmp_path / "a", tmp_path / "a" / "cache", tmp_path / "a" / "cache" / "xla"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_is_done_without(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "file"))
    assert cache.private_folder("xla") is None
    assert cache.private_folder("xla") is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "going on without it" in line
    monkeypatch.delenv("JAXGEN_CACHE")
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    assert cache.cache_folder().name == f"jaxgen-cache-{os.getuid()}"
