"""Ablations: means over seeds, the signal of two lines, what is changed, one study from end to end."""

import json

import ablations
import numpy as np
import pytest
from ablations import STUDIES, experiment_of, over_seeds, signal

from jaxgen.core.configuration import differences, to_json
from jaxgen.errors import UserError
from jaxgen.ops.gan import Minimax, Wasserstein


def test_variants_differ_in_the_model_alone():
    for name, study in STUDIES.items():
        settings = [to_json(experiment_of(study, variant, 0, 1)) for variant in study.variants]
        changed = {path for other in settings[1:] for path in differences(settings[0], other)}
        assert all(str(path).startswith("model.") for path in changed), name
        assert len(changed) >= (len(settings) > 1)
        assert all(one["steps"] == pytest.approx(study.steps, rel=0.1) for one in settings)


def test_means_over_seeds():
    rows = [{"study": "ema", "variant": "none", "numbers": {"last": 4.0 + s, "averaged": 2.0}} for s in range(3)]
    (found,) = over_seeds(rows)
    assert found["seeds"] == 3 and found["averaged"] == {"mean": 2.0, "ci95": 0.0}
    assert found["last"]["mean"] == 5 and found["last"]["ci95"] == pytest.approx(4.302653 / np.sqrt(3))


def test_wasserstein_tells_of_a_distance_that_jensen_shannon_does_not():
    far = 4.0
    assert signal(Wasserstein(), 10.0, far, 0, 1000) == pytest.approx(1, abs=0.25)
    assert abs(signal(Minimax(), 0.0, far, 0, 1000)) < 0.02


def test_a_study_that_is_not_there():
    with pytest.raises(UserError, match="did you mean ema"):
        ablations.main(["emma"])


@pytest.mark.slow
def test_a_study_from_end_to_end(tmp_path):
    out = tmp_path / "found.json"
    args = ["clipping", "--seeds", "2", "--shorter", "50", "--folder", str(tmp_path / "runs"), "--out", str(out)]
    ablations.main(args)
    record = json.loads(out.read_text())
    assert record["unfinished"] and len(record["results"]) == 8
    assert {row["seeds"] for row in record["over_seeds"]} == {2}
    assert all(row["bits_per_dim"]["mean"] > 0 for row in record["over_seeds"])
    assert out.with_suffix(".png").stat().st_size > 1000
