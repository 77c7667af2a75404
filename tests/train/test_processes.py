"""Runs of several processes: two or eight on this machine, that meet over loopback."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT
from picture_folders import write_noise

from jaxgen.experiment import on_images, presets
from jaxgen.report import read_metrics
from jaxgen.runs.folder import RunFolder
from jaxgen.train.loop import train

VAE, GPT = (presets(EXPERIMENTS[name])["smoke"] for name in ("vae", "gpt"))


def start(folder, *flags, program=("experiments/vae.py",), count=2):
    """So many processes, which share the devices of a mesh."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *program, "smoke", "--device", "cpu", "--out", str(folder), *flags]
    command += ["--coordinator", f"localhost:{port}", "--num-processes", str(count), "--process-id"]
    quick = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]  # not the tests' own four
    environment = {**os.environ, "XLA_FLAGS": " ".join(quick)}
    pipes = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [subprocess.Popen([*command, str(i)], cwd=ROOT, **pipes) for i in range(count)]


def finish(processes, code=0):
    said = [process.communicate(timeout=300)[0] for process in processes]
    for process, words in zip(processes, said):
        assert process.returncode == code, words
    return said


def losses(folder):
    return read_metrics(folder / "metrics.jsonl")["loss"][1]


def test_two_processes_train_and_one_goes_on_and_back(tmp_path):
    train(VAE, tmp_path / "straight")
    half = ("--steps", "10")
    # Two, each reading its rows of the batch alone, then one, then two on another mesh.
    first, second = finish(start(tmp_path / "run", "--mesh", "data=2,fsdp=2", "--preload", "0", *half))
    assert "report" in first and "report" not in second
    train(dataclasses.replace(VAE, steps=15, save_every=5, sample_every=5, log_every=5), tmp_path / "run")
    finish(start(tmp_path / "run", "--mesh", "fsdp=4"))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "straight"), rtol=1e-5)
    assert (tmp_path / "run" / "pictures" / "000000020" / "samples.png").exists()


@pytest.mark.slow
def test_eight_processes_train_and_two_or_one_go_on(tmp_path):
    """Eight hosts of one device each hold an eighth of the parameters; a smaller pod goes on with what they saved."""

    def go_on(mesh, steps, count):
        every = (flag for name in ("save", "sample", "log") for flag in (f"--{name}-every", "5"))
        flags = ("--mesh", mesh, "--steps", str(steps), *every)
        return finish(start(tmp_path / "run", *flags, program=("experiments/gpt.py",), count=count))

    train(GPT, tmp_path / "straight")
    said = go_on("fsdp=8", 5, 8)
    assert ["report" in words for words in said] == [True] + 7 * [False]
    go_on("data=4,fsdp=2", 10, 8)
    go_on("data=2", 15, 2)
    train(GPT, tmp_path / "run")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "straight"), rtol=1e-4)


READS = """
import json, runpy, sys
from jaxgen.data import image_folder
feed = sys.modules["jaxgen.data.feed"]
image_folder.IN_MEMORY = 0
taken, read = feed.take, image_folder._read
log = open(f"{OUT}/reads{sys.argv[-1]}", "w", buffering=1)
def take(arrays, indices, whole):
    print(json.dumps(["rows", indices.tolist()]), file=log)
    return taken(arrays, indices, whole)
def decode(data, file):
    print(json.dumps(["decoded", str(file)]), file=log)
    return read(data, file)
feed.take, image_folder._read = take, decode
sys.argv[0] = "experiments/vae.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_two_processes_read_each_their_half_of_a_folder_that_one_decodes(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))
    write_noise(tmp_path / "pictures", 40, 4)
    # Five batches of 8 are an epoch, and a call.
    flags = ("--images", str(tmp_path / "pictures"), "--batch-size", "8", "--preload", "0", "--data.flip")
    program = ("-c", f"OUT = {str(tmp_path)!r}" + READS)
    finish(start(tmp_path / "run", "--mesh", "data=4", *flags, program=program))
    logs = [[json.loads(line) for line in (tmp_path / f"reads{i}").read_text().splitlines()] for i in range(2)]
    own = on_images(VAE, str(tmp_path / "pictures"))
    own = dataclasses.replace(own, batch_size=8, data=dataclasses.replace(own.data, flip=True))
    batches = np.stack([own.data.indices_at(own.seed, step, 8) for step in range(20)]).reshape(4, 5, 8)
    for log, rows in zip(logs, (slice(4), slice(4, 8))):
        found = [value for what, value in log if what == "rows"]
        assert sorted(found) == sorted(batches[:, :, rows].reshape(4, -1).tolist())
    assert sorted(np.concatenate([batches[0].reshape(-1), batches[1].reshape(-1)])) == sorted([*range(40)] * 2)
    decoded = [[value for what, value in log if what == "decoded"] for log in logs]
    assert not set(decoded[0]) & set(decoded[1]), "one decodes, the other waits"
    trained = [name for name in decoded[0] + decoded[1] if "train" in name.split("/")]
    assert len(trained) == len(set(trained)) == 40
    train(own, tmp_path / "alone")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "alone"), rtol=1e-5)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_with_what_was_saved(tmp_path):
    long = ("--mesh", "data=4", "--steps", "100000", "--save-every", "50000", "--sample-every", "100000")
    processes = start(tmp_path / "run", *long)
    for line in processes[0].stdout:
        if line.startswith("step"):
            break
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [143, 143]
    assert all("the same command goes on" in words for words in said)
    (step,) = [int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir()]
    assert len(losses(tmp_path / "run")) == step


def test_a_refusal_ends_every_process(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("...")
    said = finish(start(tmp_path / "run", "--mesh", "data=4"), code=2)
    assert "not empty" in said[0]
    assert "another process" in said[1]


@pytest.mark.slow
def test_an_error_in_the_main_process_ends_every_process(tmp_path):
    """What it is to read first is a folder."""
    RunFolder(tmp_path / "run").create(VAE)
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    processes = start(tmp_path / "run", "--mesh", "data=4")
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert "metrics.jsonl is a folder" in said[0]
    assert "another process" in said[1]


FULL = """
import runpy, shutil, sys
real = shutil.disk_usage
if sys.argv[-1] == "1":
    shutil.disk_usage = lambda folder: real(folder)._replace(free=0)
sys.argv[0] = "experiments/vae.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_full_disk_of_one_process_ends_every_process(tmp_path):
    said = finish(start(tmp_path / "run", "--mesh", "data=4", program=("-c", FULL)), code=2)
    assert "another process" in said[0]
    assert "0.0 MiB of space are free" in said[1]
