"""The scores that a run keeps, beside files that hold something else."""

import json

import numpy as np
import pytest
from scipy import stats

from jaxgen.errors import UserError
from jaxgen.runs.folder import RunFolder
from jaxgen.scoring.records import keep, line_up, load

RECORD = {"metric": "fd", "values": {"fd": 1.0}, "protocol": {"num": 10}, "subject": {"of": "samples"}}


def test_newer_scores_replace_those_of_the_same_protocol_and_subject(tmp_path):
    newer, other = {**RECORD, "values": {"fd": 2.0}}, {**RECORD, "protocol": {"num": 20}}
    for records in ([RECORD], [other], [newer]):
        keep(RunFolder(tmp_path), records)
    assert load(tmp_path) == [other, newer]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        json.dumps([RECORD])[:-9],
        "{}",
        "3",
        "null",
        "[3]",
        '[{"metric": "fd"}]',
        "[" * 9999,
        "\0",
        '[{"metric": 1}]',
    ],
)
def test_scores_that_are_none_are_set_aside(text, tmp_path, capsys):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores\.json"):
        load(tmp_path)
    keep(RunFolder(tmp_path), [RECORD])
    assert load(tmp_path) == [RECORD]
    assert (tmp_path / "scores.unreadable.json").read_text() == text
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("it is now scores.unreadable.json")
    keep(RunFolder(tmp_path), [RECORD])
    assert not capsys.readouterr().err


def test_seeds_are_lined_up_by_their_mean_with_students_interval(tmp_path):
    """Of scores that were taken of all of them alike; a run of one seed stands beside them."""
    subject = {"of": "samples", "model": "VAE", "step": 20, "parameters": "ema", "sampler": None, "seed": 0}
    scores = {"three": [3.0, 4.0, 8.0], "one": [5.0]}
    for name, values in scores.items():
        for seed, value in enumerate(values):
            folder = tmp_path / name / f"seed{seed}" if len(values) > 1 else tmp_path / name
            own = {**subject, "run": folder.name, "experiment": f"hash {seed}"}
            records = [{**RECORD, "values": {"fd": value}, "subject": own}]
            if seed == 0:  # of one alone
                records.append({**records[0], "metric": "kd", "values": {"kd": 1.0}})
            keep(RunFolder(folder), records)
    heads, rows = line_up([tmp_path / name for name in scores])
    interval = stats.ttest_1samp(scores["three"], 0).confidence_interval(0.95)
    half = (interval.high - interval.low) / 2
    assert heads == ["run", "scored", "num", "fd"]
    assert rows[0][-1] == f"{np.mean(scores['three']):.4g} \u00b1 {half:.2g}" and rows[1][-1] == "5"
    assert rows[0][1].endswith("seed 0, 3 seeds") and rows[1][1].endswith("seed 0")
    (tmp_path / "three" / "seed1" / "scores.json").unlink()
    with pytest.raises(UserError, match=r"seed1 has no scores"):
        load(tmp_path / "three")
