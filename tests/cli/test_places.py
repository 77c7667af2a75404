"""Commands on folders that cannot be written: refused before compute, or the numbers first and then one line."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from small_runs import smoke_run

from jaxgen import __main__ as commands
from jaxgen.core import compiled


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return smoke_run("vae", tmp_path_factory.mktemp("places") / "vae")


def jaxgen(monkeypatch, *argv) -> int:
    monkeypatch.setattr("sys.argv", ["jaxgen", *map(str, argv)])
    try:
        commands.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.mark.parametrize("place", ["/dev/null", "/proc/run", "FILE", "FILE/run", "LOOP"])
@pytest.mark.parametrize("command", ["sample RUN --num 2 --out", "export RUN --out"])
def test_out_is_refused_before_compute(command, place, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    place = place.replace("FILE", str(tmp_path / "file")).replace("LOOP", str(tmp_path / "loop"))
    monkeypatch.setattr(compiled, "sample", lambda *_: pytest.fail("computed something before complaining"))
    assert jaxgen(monkeypatch, *command.replace("RUN", str(run)).split(), place) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cannot write to '{place}'")


def test_numbers_are_printed_before_they_are_written(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").mkdir()  # which no file can replace
    assert jaxgen(monkeypatch, "evaluate", tmp_path / "run", "--limit", 20) == 2
    out, err = capsys.readouterr()
    assert "nelbo" in out
    (line,) = err.splitlines()
    assert line.startswith(f"error: cannot write to {tmp_path / 'run' / 'evaluation.json'}")


READ_ONLY = """
D={folder} O={out}
mount -t tmpfs none $D && cp -r {run} $D/run && mkdir $D/home && mount -o remount,ro $D || exit 77
cd {root}; export HOME=$D/home; unset JAXGEN_CACHE
for command in "sample $D/run --num 2 --out $O/samples" "evaluate $D/run --limit 9" "report $D/run" \
  "export $D/run --platforms cpu --out $O/export" "train vae smoke --out $D/new"; do
  {python} -m jaxgen $command > $O/out 2> $O/err; echo "$? $(wc -l < $O/err)"; cat $O/out $O/err >&2
done
"""


@pytest.mark.slow
def test_commands_on_a_read_only_disk(run, tmp_path):
    """With a home that is read-only too: two lines at most, of the cache and of what cannot be written."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a disk")
    (tmp_path / "disk").mkdir()
    script = READ_ONLY.format(folder=tmp_path / "disk", run=run, root=ROOT, out=tmp_path, python=sys.executable)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAXGEN")}
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode == 77:
        pytest.skip("a disk cannot be mounted here")
    assert done.stdout.splitlines() == ["0 1", "2 2", "2 1", "0 1", "2 2"], done.stderr
    assert "Traceback" not in done.stderr
    assert "nelbo" in done.stderr
    assert (tmp_path / "samples" / "samples.safetensors").exists() and (tmp_path / "export" / "sample.py").exists()
