"""Scores by a trained CLIP: features, distances and CLIP scores against NumPy, SciPy and Pillow."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
from conftest import EXPERIMENTS
from messages import one_line
from PIL import Image

from jaxgen import __main__ as commands
from jaxgen.data import Captioned, ImageFolder
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.sampling import draw
from jaxgen.runs.captions import caption_tokens
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.scoring import features, texts
from jaxgen.scoring.records import Scoring, score_run
from jaxgen.train.loop import train

COLOURS = {
    "red": (230, 20, 20), "green": (20, 190, 20), "blue": (20, 20, 230), "yellow": (230, 220, 20),
    "turquoise": (30, 210, 220), "black": (15, 15, 15), "white": (240, 240, 240), "light pink": (250, 170, 200),
}  # fmt: skip
NAMES = tuple(sorted(COLOURS))
TEMPLATE = "a {} field"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A CLIP of fields of eight colours, whose text network sees all tokens at once, and a conditional VAE and an
    unconditional one, hardly trained."""
    folder, rng = tmp_path_factory.mktemp("clip"), np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for name, colour in COLOURS.items():
            place = folder / "fields" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(np.array(colour) + rng.normal(0, 12, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
                (place / f"{i}.txt").write_text(TEMPLATE.format(name) if i % 2 else f"dark {name}")
    data = ImageFolder(folder=str(folder / "fields"), size=16)
    clip = presets(EXPERIMENTS["clip"])["smoke"]
    text = clip.model.network.text
    text = text.clone(window=24, body=text.body.clone(causal=False), end=257)
    model = replace(clip.model, network=clip.model.network.clone(text=text))
    captioned = Captioned(data=data, tokenizer="bytes", window=24, template=TEMPLATE)
    often = {"steps_per_call": 50, "log_every": 250, "save_every": 250, "sample_every": 250}
    train(replace(clip, model=model, data=captioned, batch_size=32, steps=250, **often), folder / "clip")
    for name, classes in (("cvae", len(NAMES)), ("vae", 0)):
        vae = presets(EXPERIMENTS["cvae"])["smoke"]
        fitted = vae.model.fitted((16, 16, 3), classes)
        train(replace(vae, model=fitted, data=data if classes else replace(data, label="none")), folder / name)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(runs):
    return restore(RunFolder(runs / "clip"))


@pytest.fixture(scope="module")
def network(clip):
    return features.of_run(clip)


def evaluate(runs, name, *flags, metrics="clip_score", num=64):
    given = ["--metrics", metrics, "--num", str(num), "--classifier", str(runs / "clip"), "--batch", "16"]
    commands.call(["evaluate", str(runs / name), *given, *flags])
    return json.loads((runs / name / "scores.json").read_text())


def unit(x):
    return x / np.sqrt(np.sum(x**2, axis=-1, keepdims=True))


def normalized(clip, images):
    """As section 2.4 of the paper has pictures: in [0, 1], then by mean and deviation of each channel."""
    return (images.astype(np.float64) / 255 - clip.model.mean) / clip.model.deviation


def of_pixels(clip, pixels):
    """Image features of normalized pixels: the tower's output times its projection."""
    params = clip.state.sampling_params["network"]
    out = clip.model.network.image.apply({"params": params["image"]}, np.asarray(pixels, np.float32))
    return np.asarray(out, np.float64) @ np.asarray(params["image_projection"]["kernel"], np.float64)


def of_words(clip, words):
    """Unit vectors of texts, one by one and without any padding, which no mask need hide."""
    params = clip.state.sampling_params["network"]
    kernel = np.asarray(params["text_projection"]["kernel"], np.float64)
    found = {}
    for said in set(words):
        tokens = np.array([[256, *said.encode(), 257]], np.int32)
        out = clip.model.network.text.apply({"params": params["text"]}, tokens)
        found[said] = unit(np.asarray(out, np.float64)[0] @ kernel)
    return np.stack([found[said] for said in words])


def test_features_are_those_of_normalized_pictures(clip, network):
    images = clip.experiment.data.arrays("test")["x"]
    found, expected = network.apply(images)["features"], of_pixels(clip, normalized(clip, images))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    assert np.ptp(np.linalg.norm(found, axis=1)) > 0.01  # of any norm
    # Pictures that are not scaled, or not normalized, are seen to be so.
    wrong = {"255": images, "signed": images / 127.5 - 1, "unit": images / 255.0,
             "mean alone": images / 255.0 - clip.model.mean}  # fmt: skip
    for name, pixels in wrong.items():
        assert np.abs(of_pixels(clip, pixels) - expected).max() > 0.1, name


def test_pictures_of_any_size_are_resized_as_pillow_does(clip, network):
    """The middle square, antialiased; grey ones have three like channels."""
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    small = np.empty((3, 16, 16, 3), np.float32)
    for i, image in enumerate(images[:, :, 5:45].astype(np.float32)):
        for channel in range(3):
            whole = Image.fromarray(image[:, :, channel])
            small[i, :, :, channel] = np.asarray(whole.resize((16, 16), Image.Resampling.BICUBIC))
    expected = of_pixels(clip, normalized(clip, small))
    np.testing.assert_allclose(network.apply(images)["features"], expected, rtol=5e-3, atol=5e-3)
    grey = network.apply(images[..., :1])["features"]
    np.testing.assert_allclose(grey, network.apply(np.repeat(images[..., :1], 3, axis=3))["features"], atol=1e-5)
    with pytest.raises(UserError, match=r"takes uint8\[B, H, W, 3\]") as error:
        network.apply(images[..., :2])
    one_line(error)


def test_distances_are_those_of_scipy(runs, clip):
    """And named for the features: FID is Inception's alone."""
    cvae = restore(RunFolder(runs / "cvae"))
    records = evaluate(runs, "cvae", metrics="fid,kid,prdc", num=80)[-3:]
    found = {name: value for record in records for name, value in record["values"].items()}
    images = draw(cvae, 0, 80, cvae.model.sample_cond(80, cvae.examples), batch=16)
    a, b = (of_pixels(clip, normalized(clip, x)) for x in (images, cvae.experiment.data.arrays("train")["x"]))
    c, d = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c @ d)
    distance = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2) + np.trace(c + d - 2 * np.real(root))
    assert found["fd_fields_clip"] == pytest.approx(distance, rel=1e-2)
    x, y, size = a, b, 16
    within = [((k := (z @ z.T / size + 1) ** 3).sum() - np.trace(k)) / (len(z) * (len(z) - 1)) for z in (x, y)]
    mmd = sum(within) - 2 * ((x @ y.T / size + 1) ** 3).mean()
    assert found["kd_fields_clip"] == pytest.approx(mmd, rel=0.1)
    assert {"precision_fields_clip", "coverage_fields_clip"} <= set(found)
    assert not any(name.startswith(("fid", "kid")) for name in found)
    facts = records[0]["protocol"]["features"]
    assert facts["network"] == "fields_clip" and len(facts["weights"]) == 16
    assert facts["features"] == "before normalization" and "Pixels" in facts["codec"]["type"]
    seen = facts["preprocessing"]
    assert seen["shape"] == [16, 16, 3] and "antialiased" in seen["resize"]
    assert tuple(seen["mean"]) == clip.model.mean and tuple(seen["deviation"]) == clip.model.deviation


@pytest.mark.slow
def test_the_clip_score_is_that_of_numpy(runs, clip):
    """Of a class-conditional model: the names of the classes, in the CLIP's template."""
    cvae = restore(RunFolder(runs / "cvae"))
    record = evaluate(runs, "cvae")[-1]
    found = record["values"]
    cond = np.arange(64) // 8
    said = [TEMPLATE.format(NAMES[c]) for c in cond]
    u, v = of_pixels(clip, normalized(clip, draw(cvae, 0, 64, cond, batch=16))), of_words(clip, said)
    scores = 2.5 * np.maximum(np.sum(unit(u) * v, axis=1), 0)
    assert found["clip_score_fields_clip"] == pytest.approx(scores.mean(), rel=1e-3)
    assert found["clip_score_stderr_fields_clip"] == pytest.approx(scores.std(ddof=1) / 8, rel=1e-2)
    real = cvae.experiment.data.arrays("test")
    u, v = of_pixels(clip, normalized(clip, real["x"])), of_words(clip, [TEMPLATE.format(n) for n in NAMES])
    cosines = unit(u) @ v.T
    own = cosines[np.arange(40), real["cond"]]
    assert found["clip_score_real_fields_clip"] == pytest.approx((2.5 * np.maximum(own, 0)).mean(), rel=1e-3)
    right = np.argmax(cosines, axis=1) == real["cond"]
    assert found["text_r1_real_fields_clip"] == pytest.approx(right.mean(), abs=1 / 40)
    assert record["protocol"]["texts"]["num"] == 8 and record["protocol"]["template"] == TEMPLATE
    assert not any(name.startswith("text_r10") for name in found)  # of eight texts the right one is always there
    assert record["protocol"]["reference"]["split"] == "test" and record["metric"] == "clip_score_fields_clip"
    # A scale: what belongs together is nearer than what does not.
    apart = found["clip_score_real_fields_clip"] - found["clip_score_mismatched_fields_clip"]
    assert apart > 5 * found["clip_score_mismatched_stderr_fields_clip"] > 0
    assert found["text_r1_real_fields_clip"] > 0.5


@pytest.mark.slow
def test_samples_of_prompts_are_scored_by_them(runs, clip):
    """The samples of the CLIP itself, which climb towards the held-out captions, also those whose pictures are not
    among a run's few examples; and the held-out pictures."""
    found = evaluate(runs, "clip", num=12)[-1]["values"]
    captions = clip.experiment.data.captions("test")
    said = list(captions[:12])
    assert len(clip.examples["x"]) == 8
    cond = caption_tokens(clip, said)
    images = draw(clip, 0, 12, cond, batch=12)
    scores = 2.5 * np.maximum(np.sum(unit(of_pixels(clip, normalized(clip, images))) * of_words(clip, said), axis=1), 0)
    # Ascent takes steps of length one along gradients, whose rounding another batch changes.
    assert found["clip_score_fields_clip"] == pytest.approx(scores.mean(), rel=2e-2)
    assert "text_r10_fields_clip" in found  # sixteen captions differ
    real = evaluate(runs, "clip", "--of", "test", num=1000)[-1]["values"]
    for name in ("clip_score", "text_r1", "text_r5"):
        assert real[f"{name}_fields_clip"] == pytest.approx(real[f"{name}_real_fields_clip"]), name


def test_padding_is_hidden_from_the_network(clip, network, monkeypatch):
    """A text's vector is that of the text alone, whatever else is embedded with it."""
    words = [TEMPLATE.format(name) for name in NAMES]
    tokens = network.texts.tokens(words)
    alone = of_words(clip, words)
    np.testing.assert_allclose(network.texts.embed(tokens), alone, atol=1e-4)
    forgotten = network.texts.embed({**tokens, "text_mask": np.ones_like(tokens["text_mask"])})
    assert np.abs(forgotten - alone).max() > 1e-2
    monkeypatch.setattr(features, "TEXTS", 3)
    np.testing.assert_allclose(features.of_run(clip).texts.embed(tokens), alone, atol=1e-4)


def test_pictures_look_for_texts_and_not_texts_for_pictures():
    """As loops count it, of pictures and texts where the two differ."""
    rng = np.random.default_rng(3)
    vectors, own = unit(rng.normal(size=(12, 6))), rng.integers(0, 12, 60)
    rows = {"features": vectors[own] + rng.normal(0, 0.6, (60, 6))}

    def tokens(said):
        return {"text": np.array([[int(n)] for n in said]), "text_mask": np.ones((len(said), 1), bool)}

    known = features.TextNetwork("{}", tokens, lambda tokens: vectors[tokens["text"][:, 0]])
    network = features.Network("colours", None, {}, None, False, known)
    said = [str(n) for n in own]
    values = texts.clip_score(network, rows, said, rows, said)["values"]
    near = rows["features"] @ vectors.T  # lengths of pictures change no order of texts
    for k in (1, 5, 10):
        hits = [own[i] in np.argsort(-near[i])[:k] for i in range(60)]
        assert values[f"text_r{k}_colours"] == values[f"text_r{k}_real_colours"] == np.mean(hits)
    # Texts that nobody was asked for are looked among too.
    few = own < 9
    some = {"features": rows["features"][few]}
    said = [str(n) for n in own[few]]
    values = texts.clip_score(network, some, said, some, said, [str(n) for n in range(12)])["values"]
    hits = [n in np.argsort(-row)[:5] for n, row in zip(own[few], near[few])]
    assert values["text_r5_colours"] == np.mean(hits)
    said = [str(n) for n in own]
    values = texts.clip_score(network, rows, said, rows, said)["values"]
    swapped = [own[np.argmax(unit(rows["features"]) @ vectors[j])] == j for j in range(12)]
    assert np.mean(swapped) != values["text_r1_colours"]
    assert values["clip_score_colours"] == values["clip_score_real_colours"] > values["clip_score_mismatched_colours"]


def test_what_does_not_exist_is_left_out(runs, clip, network, capsys):
    """With the reason; where nothing is left, that is an error."""
    assert [r["metric"] for r in evaluate(runs, "vae", metrics="fid,is,clip_score")[-1:]] == ["fd_fields_clip"]
    said = "".join(capsys.readouterr())
    assert "is is left out: fields_clip tells no classes" in said
    assert "clip_score is left out: VAE of vae is asked for by no text" in said
    vae = restore(RunFolder(runs / "vae"))
    judge = features.Network("digits_cnn", None, {})
    for net, metrics, words in (
        (network, ["clip_score"], "asked for by no text; ask for another"),
        (network, ["classes", "asked"], "classes is left out"),
        (judge, ["clip_score"], "needs a CLIP: give --classifier RUN"),
    ):
        with pytest.raises(UserError, match=words) as error:
            score_run(vae, net, metrics, Scoring(num=8))
        one_line(error)


def test_weights_from_elsewhere_are_not_named_for_data_that_they_have_not_seen(clip):
    imported = replace(clip, state=clip.state.replace(step=np.int32(0)))
    assert features.of_run(imported).metric("clip_score_real") == "clip_score_real_clip"
    assert features.of_run(imported).provenance["weights"] == features.of_run(clip).provenance["weights"]
