"""The benchmark of anomalies: its data, its baselines, and a family of it."""

import json

import anomaly
import numpy as np
import pytest

from jaxgen.data import Digits
from jaxgen.errors import UserError


def test_one_class_has_the_pictures_of_that_class():
    whole = Digits().load("test")
    some = anomaly.OneClass(whole=Digits(), label=3).load("test")
    assert some.keys() == {"x"}
    np.testing.assert_array_equal(some["x"], whole["x"][whole["cond"] == 3])


@pytest.mark.parametrize("score", anomaly.BASELINES.values(), ids=anomaly.BASELINES)
def test_a_baseline_knows_what_is_far_from_a_line(score):
    """Points about a line in space: those off it score higher, and the training points themselves score low."""
    rng = np.random.default_rng(0)
    along = rng.normal(size=(300, 1))
    train = np.concatenate([along, along], axis=1) + 0.01 * rng.normal(size=(300, 2))
    train = np.concatenate([train, 0.01 * rng.normal(size=(300, 30))], axis=1)
    off = train[:50] + np.array([1.0, -1.0, *[0.2] * 30])
    assert anomaly.auroc(score(train[:150], train[150:]), score(train[:150], off)) > 0.99


def test_a_family_and_the_baselines_are_measured(tmp_path):
    out = tmp_path / "found.json"
    few = ["--seconds", "0.05", "--num", "60", "--batch", "60"]
    anomaly.main(["digits", "--families", "vae", *few, "--out", str(out)])
    rows = {row["case"]: row for row in json.loads(out.read_text())["results"]}
    assert rows.keys() == {*anomaly.BASELINES, "vae"}
    assert rows["vae"]["score"] == "iwae"
    assert all(len(row["auroc"]) == 10 for row in rows.values())
    assert rows["nearest neighbour"]["mean"] > 0.95  # digits are easy for it


@pytest.mark.parametrize(
    ("args", "words"), [(["digits", "--families", "gan"], "not measured"), (["cats"], "no preset")]
)
def test_wrong_input_is_refused(tmp_path, args, words):
    with pytest.raises(UserError, match=words):
        anomaly.main([*args, "--out", str(tmp_path / "x.json")])
