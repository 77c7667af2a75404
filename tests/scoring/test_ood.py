"""Scores of what is unlike the data: the statistic, the sets, and the benchmark over runs."""

import json

import numpy as np
import ood
import pytest
from conftest import EXPERIMENTS

from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train import loop


def test_auroc_is_of_the_outside_above_the_inside():
    assert ood.auroc(np.array([0.0, 1.0]), np.array([2.0, 3.0, 4.0])) == 1
    assert ood.auroc(np.array([0.0, 1.0]), np.array([1.0])) == 0.75


def test_other_images_have_the_datas_shape():
    others = ood.others((28, 28, 1), 50)
    assert set(others) == {"emoji", "emoji_inverted", "uniform"}
    for name, images in others.items():
        assert images.dtype == np.uint8, name
        assert images.shape == (50, 28, 28, 1), name
    # Emoji are drawn over white, which shows in the corners; inverted they have a digit's dark ground.
    assert np.median(others["emoji"][:, 0, 0]) == 255
    np.testing.assert_array_equal(others["emoji_inverted"], 255 - others["emoji"])
    assert others["uniform"].mean() == pytest.approx(127.5, abs=3)
    assert ood.others((16, 16, 3), 5)["emoji"].shape == (5, 16, 16, 3)


@pytest.mark.slow
def test_benchmark(tmp_path):
    """Two runs of one data set, each by a score of its own."""
    runs = {}
    for name in ("ebm", "vae"):
        runs[name] = tmp_path / name
        loop.train(presets(EXPERIMENTS[name])["smoke"], runs[name])
    out = tmp_path / "ood.json"
    ood.main([str(runs["ebm"]), str(runs["vae"]), "--num", "40", "--batch", "16", "--out", str(out)])
    rows = json.loads(out.read_text())["results"]
    assert [(row["run"], row["score"]) for row in rows] == [("ebm", "energy"), ("vae", "iwae")]
    for row in rows:
        assert row["num"] == {"test": 40, "emoji": 40, "emoji_inverted": 40, "uniform": 40}
        assert set(row["auroc"]) == {"emoji", "emoji_inverted", "uniform"}
        assert all(0 <= value <= 1 for value in row["auroc"].values())
    # Twenty steps are enough to find noise unlikely.
    assert rows[1]["auroc"]["uniform"] > 0.7
    with pytest.raises(UserError, match="did you mean energy"):
        ood.main([f"{runs['ebm']}:enrgy", "--num", "8", "--batch", "8", "--out", str(out)])
