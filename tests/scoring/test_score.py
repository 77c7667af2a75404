"""Scores of runs: what they say of themselves, that an interrupted one goes on, and what may be lined up."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from PIL import Image
from safetensors.numpy import load_file

from jaxgen import __main__ as commands
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference import sampling
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.scoring import features, scores
from jaxgen.scoring.records import check_asked, line_up
from jaxgen.train.loop import train
from jaxgen.weights import KINDS


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A classifier, a VAE and a DDPM of digits, all hardly trained."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("classifier", "vae", "ddpm"):
        train(presets(EXPERIMENTS[name])["smoke"], folder / name)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))


def evaluate(runs, name, *flags, num=64, metrics="fid,kid,is,prdc,memorization,classes"):
    given = ["--metrics", metrics, "--num", str(num), "--classifier", str(runs / "classifier"), "--batch", "8"]
    commands.call(["evaluate", str(runs / name), *given, *flags])
    return json.loads((runs / name / "scores.json").read_text())


def values(records):
    return {name: value for record in records for name, value in record["values"].items()}


def test_a_score_says_how_it_was_taken(runs):
    """And is named for the features it rests on: FID is Inception's alone."""
    records = evaluate(runs, "ddpm", num=96)[-6:]
    assert {r["metric"] for r in records} == {
        f"{name}_digits_cnn" for name in ("fd", "kd", "score", "prdc", "memorization", "classes")
    }
    assert not any(name.startswith(("fid", "kid", "is_")) for name in values(records))
    assert all(np.isfinite(value) for value in values(records).values())
    for record in records:
        protocol, subject = record["protocol"], record["subject"]
        assert protocol["num"] == 96
        assert protocol["features"]["network"] == "digits_cnn"
        assert len(protocol["features"]["weights"]) == len(protocol["reference"]["hash"]) == 16
        assert protocol["reference"]["split"] == "train"
        assert (subject["parameters"], subject["step"], subject["seed"], subject["first_sample"]) == ("ema", 20, 0, 0)
        assert "Ancestral" in subject["sampler"]["type"]
        assert {"jax", "jaxgen"} <= set(record["environment"]["versions"])


@pytest.mark.parametrize("flags", [("--batch", "13"), ("--batch", "15", "--mesh", "data=4")])
def test_batches_and_meshes_do_not_matter(runs, flags):
    first = values(evaluate(runs, "vae")[-6:])
    second = values(evaluate(runs, "vae", *flags)[-6:])
    for name, value in first.items():
        # A level of a sample, where rounding meets a half, moves the memorization z-score of a tie.
        assert second[name] == pytest.approx(value, rel=2e-3, abs=1e-3), name


def test_an_interrupted_score_goes_on(runs, monkeypatch):
    """Only the parts that are missing are drawn; the number is that of a straight one."""
    straight = values(evaluate(runs, "vae", num=200)[-6:])
    (folder,) = [f for f in (runs / "vae" / "scores").iterdir() if len(list(f.iterdir())) == 3]
    parts = sorted(folder.iterdir())
    parts[2].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:100])  # cut short
    seen, drawn = [], sampling.drawn
    monkeypatch.setattr("jaxgen.scoring.records.drawn", lambda *a, **k: (seen.append(a[2]), drawn(*a, **k))[1])
    again = values(evaluate(runs, "vae", num=200)[-6:])
    assert [(r.start, r.stop) for r in seen] == [(80, 160), (160, 200)]
    assert again == straight


def test_real_data_scores_nearly_nothing_against_itself(runs):
    """All of the training split is at distance 0 from itself, and no sample is."""
    same = values(evaluate(runs, "vae", "--of", "train", num=10**6, metrics="fid,prdc")[-2:])
    other = values(evaluate(runs, "vae", num=1437, metrics="fid,prdc")[-2:])
    assert abs(same["fd_digits_cnn"]) < 1e-3 < 0.1 < other["fd_digits_cnn"]
    assert same["precision_digits_cnn"] == same["recall_digits_cnn"] == same["coverage_digits_cnn"] == 1


def test_only_like_is_lined_up(runs, capsys):
    for name in ("vae", "ddpm"):
        (runs / name / "scores.json").unlink(missing_ok=True)
        evaluate(runs, name, num=40, metrics="fid")
    heads, rows = line_up([runs / "vae", runs / "ddpm"])
    assert heads == ["run", "scored", "num", "fd_digits_cnn"]
    assert "VAE step 20 (params), seed 0" in rows[0]
    assert rows[1][1].startswith("DDPM step 20 (ema, Ancestral")
    commands.call(["compare", str(runs / "vae"), str(runs / "ddpm")])
    assert "fd_digits_cnn" in capsys.readouterr().out
    for name in ("vae", "ddpm"):
        (runs / name / "scores.json").unlink()
    evaluate(runs, "vae", num=40, metrics="fid")
    evaluate(runs, "ddpm", num=48, metrics="fid")
    with pytest.raises(UserError, match=r"cannot be lined up: num: 40 there, 48 here"):
        line_up([runs / "vae", runs / "ddpm"])
    (runs / "ddpm" / "scores.json").unlink()
    evaluate(runs, "ddpm", "--reference", "test", num=40, metrics="fid")
    with pytest.raises(UserError, match=r"reference\.split: train there, test here"):
        line_up([runs / "vae", runs / "ddpm"])


def test_scores_of_two_checkpoints_are_two_rows(runs):
    for name in ("vae", "ddpm"):
        (runs / name / "scores.json").unlink(missing_ok=True)
        evaluate(runs, name, num=40, metrics="fid,kid")
    evaluate(runs, "vae", "--step", "10", num=40, metrics="fid")
    evaluate(runs, "vae", "--of", "test", num=40, metrics="fid")
    _, rows = line_up([runs / "vae", runs / "ddpm"])
    scored = [row[1].partition(" (")[0] for row in rows]
    assert scored == ["VAE step 20", "VAE step 10", "real test", "DDPM step 20"]
    assert [row[4] == "-" for row in rows] == [False, True, True, False]
    assert len({row[3] for row in rows}) == 4


def test_recall_is_of_every_class():
    """Samples come class by class, and so does this reference: its first half would miss half of the classes."""
    rng = np.random.default_rng(0)
    classes = {num: {"features": np.repeat(np.eye(8), num // 8, axis=0) * 50 + rng.normal(size=(num, 8))}
               for num in (400, 800)}  # fmt: skip
    network = features.Network("", None, {})
    for samples, real in ((400, 800), (800, 400)):
        record = scores.scores(["prdc"], network, classes[samples], classes[real], None)[0]
        assert record["settings"] == {"k": 5, "num_each": 400}
        assert min(record["values"]["recall"], record["values"]["coverage"]) > 0.8


def test_how_many_samples_are_of_the_class_that_was_asked_for(runs):
    """As counted by hand."""
    train(presets(EXPERIMENTS["cvae"])["smoke"], runs / "cvae")
    found = values(evaluate(runs, "cvae", metrics="asked"))["asked_class_digits_cnn"]
    commands.call(["sample", str(runs / "cvae"), "--num", "64", "--out", str(runs / "drawn")])
    images = load_file(runs / "drawn" / "samples.safetensors")["x"]
    labels = features.of_run(restore(RunFolder(runs / "classifier"))).apply(images)["logits"].argmax(axis=1)
    assert found == pytest.approx(np.mean(labels == np.arange(64) * 10 // 64))
    with pytest.raises(UserError, match="needs samples of a model of classes"):
        evaluate(runs, "vae", metrics="asked")
    model = presets(EXPERIMENTS["cvae"])["smoke"].model
    with pytest.raises(UserError, match="own 10 classes, and emoji_cnn tells 9"):
        check_asked(model, features.Network("emoji_cnn", None, {}, num_classes=9), "samples")


def test_the_same_score_twice_is_one_record(runs):
    (runs / "vae" / "scores.json").unlink(missing_ok=True)
    evaluate(runs, "vae", num=24, metrics="fid")
    assert len(evaluate(runs, "vae", num=24, metrics="fid")) == 1
    assert len(evaluate(runs, "vae", "--seed", "1", num=24, metrics="fid")) == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--metrics", "fdi"), "did you mean fid"),
        (("--metrics", "fid", "--num", "1"), "at least 2"),
        (("--metrics", "fid,is", "--num", "9"), "is needs at least 10"),
        (("--metrics", "prdc", "--num", "5"), "prdc needs at least 6"),
        (("--metrics", "memorization", "--reference", "test"), "leave it at train"),
        (("--metrics", "fid", "--weights", "w.safetensors"), "one of the two"),
        (("--metrics", "fid", "--classifier", ""), "one of the two"),
        (("--metrics", "fid", "--classifier", "", "--weights", "nowhere.safetensors"), "nowhere.safetensors"),
    ],
)
def test_bad_requests_are_refused_before_any_compute(flags, words, runs, monkeypatch):
    monkeypatch.setattr(features.Network, "apply", None, raising=False)
    with pytest.raises(UserError, match=words):
        commands.call(["evaluate", str(runs / "vae"), "--classifier", str(runs / "classifier"), *flags])


def test_a_classifier_of_other_images_is_refused(runs, tmp_path):
    emoji = presets(EXPERIMENTS["classifier"])["emoji"]
    train(dataclasses.replace(emoji, steps=50, batch_size=8, num_samples=4), tmp_path / "emoji")
    with pytest.raises(UserError, match=r"takes uint8\[B, 32, 32, 3\]"):
        commands.call(["evaluate", str(runs / "vae"), "--metrics", "fid", "--classifier", str(tmp_path / "emoji")])
    with pytest.raises(UserError, match="is a run of VAE"):
        commands.call(["evaluate", str(runs / "vae"), "--metrics", "fid", "--classifier", str(runs / "vae")])


def test_a_classifier_sees_images_of_other_sizes_at_its_own(runs):
    """Resized by Pillow's bicubic filter, a channel at a time and in floating point."""
    network = features.of_run(restore(RunFolder(runs / "classifier")))
    images = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 1), np.uint8)
    grey = [Image.fromarray(one[..., 0].astype(np.float32)) for one in images]
    small = [np.asarray(one.resize((8, 8), Image.Resampling.BICUBIC)) for one in grey]
    trained = restore(RunFolder(runs / "classifier"))
    model, codec = trained.experiment.model, trained.codec
    x = codec.encode({"x": jnp.clip(jnp.asarray(np.stack(small))[..., None], 0, 255)}, jax.random.key(0))["x"]
    expected, _ = model.classify(trained.state.sampling_params, x)
    np.testing.assert_allclose(network.apply(images)["features"], expected, rtol=1e-4, atol=1e-4)
    assert network.provenance["resize"] == "clean to 8"
    with pytest.raises(UserError, match=r"uint8\[6, 20, 10, 1\], the classifier .* takes uint8\[B, 8, 8, 1\]"):
        network.apply(images[:, :, :10])


def test_inception_needs_weights_of_inception(tmp_path):
    with pytest.raises(UserError, match="jaxgen weights convert inception"):
        features.inception(tmp_path / "none.safetensors", "tf1")
    assert "inception" in KINDS
