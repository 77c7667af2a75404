"""Every field of every preset, and every option of every command, tried with values that it cannot have."""

import dataclasses
import time

import pytest
from conftest import EXPERIMENTS
from field_values import VALUES, leaves, with_value

from jaxgen.cli.app import AppOptions
from jaxgen.cli.compress import CompressOptions
from jaxgen.cli.diff import DiffOptions
from jaxgen.cli.ema import EmaOptions
from jaxgen.cli.evaluate import EvaluateOptions
from jaxgen.cli.export import ExportOptions
from jaxgen.cli.render import RenderOptions
from jaxgen.cli.sample import SampleOptions, WriteOptions
from jaxgen.cli.speak import SpeakOptions
from jaxgen.cli.sweep import SweepOptions
from jaxgen.cli.train import Options, train_preset
from jaxgen.core.configuration import check_fields, fits, range_of
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.editing import Edit
from jaxgen.scoring.records import Scoring

COMMANDS = (
    AppOptions, CompressOptions, DiffOptions, EmaOptions, EvaluateOptions, ExportOptions, Options, RenderOptions,
    SampleOptions, SpeakOptions, SweepOptions, WriteOptions,
)  # fmt: skip
LONGEST = 5.0
"""CPU seconds within which settings are accepted or refused."""
UNBOUNDED = {
    "scale", "psi", "shift", "low", "high", "real", "log_sigma_mean", "log_tan_mean", "logit_mean", "level", "mean",
    "silence",
}  # fmt: skip
"""Numbers of which every finite value has a meaning."""


def every_preset():
    for script, file in EXPERIMENTS.items():
        for name, experiment in presets(file).items():
            yield f"{script} {name}", experiment


def test_every_number_of_every_preset_and_command_has_a_range():
    values = [*every_preset(), *((kind.__name__, kind()) for kind in (*COMMANDS, Edit, Scoring))]
    without = {
        (type_.__name__, path)
        for _, value in values
        for path, hint, type_ in leaves(value)
        if hint in (int, float) and path.rpartition(".")[2] not in UNBOUNDED
    }
    assert not without
    assert any(range_of(hint) for _, hint, _ in leaves(values[0][1]))


@pytest.mark.parametrize("script", EXPERIMENTS)
def test_fields_take_what_their_annotation_says(script):
    """Some 46,000 values in all. What does not fit is refused as the experiment is made, by the field's whole name."""
    tried = set()
    for experiment in presets(EXPERIMENTS[script]).values():
        for path, hint, kind in leaves(experiment):
            for value in VALUES:
                if (kind, path, repr(value)) in tried:
                    continue
                tried.add((kind, path, repr(value)))
                if fits(value, hint):
                    continue
                with pytest.raises(UserError) as error:
                    with_value(experiment, path, value)
                assert str(error.value).startswith(f"{path} is ") and "\n" not in str(error.value)
    assert len(tried) > 500


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
def test_options_take_what_their_annotation_says(kind):
    for path, hint, _ in leaves(kind()):
        for value in VALUES:
            changed = with_value(kind(), path, value)
            if fits(value, hint):
                if not getattr(changed, "problem", str)():
                    check_fields(changed)
            else:
                with pytest.raises(UserError, match=f"^{path} is "):
                    check_fields(changed)


# What was accepted, or ended in a traceback, before fields had ranges: by script, flag and value.
WRONG = (
    *(("vae", flag, value) for flag, values in {
        "model.optimizer.lr": ("nan", "inf", "-1"), "model.optimizer.b1": ("1", "nan", "-0.1"), "steps": ("0", "-1"),
        "model.optimizer.b2": ("1.5",), "model.optimizer.clip": ("nan", "-1"), "model.accumulate": ("0", "-3"),
        "model.optimizer.warmup": ("-5",), "model.ema-decay": ("nan", "2", "1"), "model.beta": ("nan", "-1"),
        "model.latent": ("0", "-8", "1000000000"), "model.encoder.hidden": ("0", "-1"), "num-samples": ("-4", "0"),
        "model.importance-samples": ("0",), "preload": ("-1",), "profile": ("-1",), "max-hours": ("nan", "inf", "-1"),
        "seed": ("-1", "4294967296", "18446744073709551616"), "seeds": ("0", "1000000"), "model.shape": ("0", "8 8 -1"),
        "batch-size": ("0", "-2"), "keep": ("0",), "steps-per-call": ("0",), "num-processes": ("0",),
    }.items() for value in values),
    ("wgan_gp", "model.gradient-penalty", "nan"), ("dcgan", "model.latent", "0"), ("dit", "model.network.patch", "0"),
    ("dit", "model.network.heads", "0"), ("dit", "model.network.heads", "-2"), ("dit", "model.network.width", "-8"),
    ("gpt", "model.network.body.depth", "0"), ("gpt", "model.network.body.dropout", "1.5"),
    ("gpt", "model.decoding.temperature", "nan"), ("gpt", "model.decoding.top-p", "nan"),
    ("gpt", "model.decoding.tokens", "1000000001"), ("nsf", "model.flow.step.transform.bins", "0"),
    ("glow", "model.flow.levels", "0"), ("glow", "codec.bits", "99"), ("ddpm", "model.ode-steps", "-3"),
    ("pixelcnn_pp", "model.likelihood.components", "0"), ("stylegan2", "model.generator.style", "0"),
    ("ddpm", "model.schedule.num-steps", "0"), ("ddpm", "model.schedule.num-steps", "1000000000"),
    ("score_matching", "model.schedule.sigma-min", "0"), ("score_matching", "model.sampler.each", "-3"),
    ("edm", "model.sampler.steps", "0"), ("vqvae", "model.codebook.size", "0"), ("ebm", "model.chain.steps", "0"),
)  # fmt: skip


@pytest.mark.parametrize(("script", "flag", "value"), WRONG, ids=[" ".join(wrong) for wrong in WRONG])
def test_a_wrong_flag_is_one_line_and_writes_nothing(script, flag, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        train_preset(script, presets(EXPERIMENTS[script]), None, ["smoke", f"--{flag}", *value.split()], script)
    line = str(error.value)
    assert line.startswith(f"{flag.replace('-', '_')} is ") and "\n" not in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["x", "", "1.5.1", "0x10", "1_0_", "--steps"])
def test_flags_of_another_type_are_named_whole_at_any_width(value, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    with pytest.raises(UserError, match=r"--model\.optimizer\.weight-decay.*see vae smoke --help"):
        arguments = ["smoke", "--model.optimizer.weight-decay", value]
        train_preset("vae", presets(EXPERIMENTS["vae"]), None, arguments, "vae")
    with pytest.raises(UserError, match=r"Expected one of \('float32', 'bfloat16'\); see"):
        train_preset("vae", presets(EXPERIMENTS["vae"]), None, ["smoke", "--precision", "f64"], "vae")


def test_help_shows_ranges(capsys):
    with pytest.raises(SystemExit):
        train_preset("vae", presets(EXPERIMENTS["vae"]), None, ["smoke", "--help"], "vae")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--model.latent INT from 1 to 65,536" in shown and "--model.ema-decay FLOAT from 0 below 1" in shown


@pytest.mark.slow
def test_settings_in_range_are_traced_or_refused_at_once(smoke):
    """No traceback, whatever settings are in range by themselves, and no wait."""
    experiment = smoke
    if getattr(experiment.codec, "run", ""):
        pytest.skip("the smoke preset is of codes of another run")
    experiment.check()  # reads the data
    seen = set()
    for path, hint, kind in leaves(experiment):
        for value in (0, 1, 10**9):
            key = (kind, path.rpartition(".")[2], value)
            if key in seen or not fits(value, hint):
                continue
            seen.add(key)
            began = time.process_time()
            try:
                with_value(experiment, path, value).check()
            except UserError as error:
                assert "\n" not in str(error)
            assert time.process_time() - began < LONGEST, (path, value)
    assert seen


def test_a_state_that_no_machine_holds_is_refused_before_a_folder_is_made(tmp_path):
    experiment = presets(EXPERIMENTS["gpt"])["smoke"]
    body = dataclasses.replace(experiment.model.network.body, width=65_536, depth=1_000)
    network = dataclasses.replace(experiment.model.network, body=body)
    with pytest.raises(UserError, match="GiB of memory are here"):
        dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, network=network)).check()
