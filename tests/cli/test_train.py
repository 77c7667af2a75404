"""`jaxgen train`: the scripts by name, from a checkout and from a wheel; meshes chosen by themselves."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import jax
import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen import __main__ as commands
from jaxgen.cli import train as command
from jaxgen.core.mesh import Layout
from jaxgen.errors import UserError
from jaxgen.experiment import AUTO, presets
from jaxgen.train.auto_mesh import convolution_share, cpu_devices, settled


def smoke(name):
    return presets(EXPERIMENTS[name])["smoke"]


def test_a_script_is_found_by_its_name(tmp_path, capsys):
    commands.call(["train", "vae", "smoke", "--out", str(tmp_path / "run"), "--no-compilation-cache"])
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["experiment"] == "vae"
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["vea", "smoke"], "did you mean vae"),
        (["vae", "digts"], "did you mean digits"),
        (["nowhere/mine.py", "smoke"], "is no file"),
        ([], "no script was named"),
    ],
)
def test_what_is_not_there_is_told(args, words, capsys):
    with pytest.raises(UserError, match=words):
        commands.call(["train", *args])


def test_the_list_shows_every_script_and_preset(capsys):
    commands.call(["train", "--list"])
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split(":")[0] for line in lines if not line.startswith(" ")}
    assert shown == set(EXPERIMENTS)
    assert sum(line.startswith("    ") for line in lines) == sum(len(presets(s)) for s in EXPERIMENTS.values())


def test_the_list_shows_what_was_measured(tmp_path):
    (tmp_path / "vae.py").write_text(EXPERIMENTS["vae"].read_text())
    (tmp_path / "results.json").write_text(json.dumps({"vae": {"digits": "nelbo 1 nat"}}))
    assert "    digits               nelbo 1 nat" in command.listing(tmp_path).splitlines()


def test_a_wheel_trains(tmp_path):
    """Built from the checkout and installed alone into a folder; the checkout is not on the path."""
    pip = [sys.executable, "-m", "pip", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("jaxgen-*.whl")
    site = tmp_path / "site"
    install = [*pip, "install", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    where = "import jaxgen; from jaxgen.cli.train import scripts_folder as f; print(jaxgen.__file__, f())"
    env = {**os.environ, "PYTHONPATH": str(site)}
    ask = [sys.executable, "-c", where]
    said = subprocess.run(ask, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert said.stdout.split() == [str(site / "jaxgen" / "__init__.py"), str(site / "jaxgen" / "scripts")]
    run = [sys.executable, "-m", "jaxgen", "train", "vae", "smoke", "--steps", "10", "--out", "run"]
    done = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert (site / "jaxgen" / "py.typed").exists()


# --- meshes -----------------------------------------------------------------------------------------------------


def test_convolutions_are_split_over_a_cpu_and_products_are_not():
    assert convolution_share(smoke("dcgan")) > 0.5 > convolution_share(smoke("gpt"))
    convolved, why = settled(replace(smoke("dcgan"), mesh=AUTO))
    assert convolved.mesh == f"data={len(jax.devices())}" and "convolutions" in why
    multiplied, why = settled(replace(smoke("gpt"), mesh=AUTO))
    assert multiplied.mesh == "data=1" and Layout.make(multiplied.mesh) is None


def test_bad_input_is_told_before_a_mesh_is_chosen(tmp_path):
    bad = ["train", "vae", "smoke", "--mesh", "auto", "--model.shape", "28", "28", "1", "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"examples have shape \(8, 8, 1\)"):
        commands.call(bad)
    assert not (tmp_path / "run").exists()


def test_a_chosen_mesh_is_recorded(tmp_path, capsys):
    commands.call(["train", "vae", "smoke", "--mesh", "auto", "--out", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["mesh"] == "data=1"
    assert "mesh auto: data=1" in json.loads((tmp_path / "run" / "environment.json").read_text())["mesh"]
    assert "mesh auto: data=1" in capsys.readouterr().out


def test_the_number_of_devices_divides_the_batch():
    experiment = smoke("dcgan")
    odd = replace(experiment, mesh=AUTO, batch_size=experiment.batch_size // 4 * 4 + 2)
    assert settled(odd)[0].mesh == "data=2"


@pytest.mark.parametrize("mesh", ["", "data=2", "data=1"])
def test_what_is_fixed_stays(mesh):
    experiment = replace(smoke("vae"), mesh=mesh)
    assert settled(experiment) == (experiment, "")


def test_several_accelerators_are_all_used_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert settled(smoke("vae"))[0].mesh == f"data={len(jax.devices())}"
    assert settled(replace(smoke("vae"), mesh="data=1"))[0].mesh == "data=1"


def test_a_cpu_is_split_into_its_cores_for_auto():
    assert cpu_devices(AUTO) == os.cpu_count()
    assert (cpu_devices(""), cpu_devices("data=3,fsdp=2")) == (1, 6)


def test_adapters_are_trained_instead_of_what_a_preset_trains():
    """The preset of Stable Diffusion trains its U-Net: beside adapters that would be all of it."""
    preset = presets(EXPERIMENTS["text_to_image"])["sd15"]
    assert preset.trainable

    def read(*flags):
        given = ["--init", "runs/sd", *flags]
        return command.flags_of(preset, given, "text_to_image.py sd15", None, command.Options)[0].trainable

    assert read() == preset.trainable
    assert read("--lora.rank", "8") == ""
    assert read("--lora.rank", "8", "--trainable", "norm") == "norm"
