"""The scores that a run keeps, beside files that hold something else."""

import json

import pytest

from jaxgen.errors import UserError
from jaxgen.runs.folder import RunFolder
from jaxgen.scoring.records import keep, load

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
