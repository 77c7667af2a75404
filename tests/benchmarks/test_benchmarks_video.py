"""The benchmark of clips on an untrained run: what is given is kept, and every field is written."""

import json

import numpy as np
import pytest
import video
from conftest import EXPERIMENTS
from small_runs import smoke_run

from jaxgen.experiment import Experiment, presets
from jaxgen.models.classifier import Classifier
from jaxgen.nets.video import ClipEncoder
from jaxgen.runs.checkpoint import Checkpoints
from jaxgen.runs.restore import initial_state, open_run


def test_psnr_is_of_the_frames_to_come():
    rng = np.random.default_rng(0)
    clips, guess = rng.integers(0, 256, (2, 3, 5, 4, 4, 1), dtype=np.uint8)
    guess[:, :2] = clips[:, :2]
    squares = (guess.astype(float) - clips)[:, 2:] ** 2
    expected = 10 * np.log10(255**2 / squares.mean(axis=(1, 2, 3, 4)))
    np.testing.assert_allclose(video.of_future(guess, clips, 2), expected, rtol=1e-5)
    each = video.by_frame(guess, clips)
    np.testing.assert_allclose(each[:, 2:], 10 * np.log10(255**2 / squares.mean(axis=(2, 3, 4))), rtol=1e-5)
    np.testing.assert_array_equal(each[:, :2], 60)


@pytest.mark.slow
def test_a_run_is_measured(tmp_path):
    run = smoke_run("video_diffusion", tmp_path / "run")
    data = presets(EXPERIMENTS["video_diffusion"])["smoke"].data
    judge = Experiment(
        model=Classifier(shape=(4, 12, 12, 1), trunk=ClipEncoder(channels=(4, 4)), num_classes=10, num_features=8),
        data=data,
    )
    folder = open_run(judge, tmp_path / "judge", None, judge.codec)
    with Checkpoints(folder.checkpoints) as checkpoints:
        checkpoints.save(initial_state(judge, judge.codec))
    out = tmp_path / "video.json"
    video.main([
        str(run), "--classifier", str(tmp_path / "judge"), "--num", "12", "--samples", "20", "--batch", "8", "--out",
        str(out),
    ])  # fmt: skip
    written = json.loads(out.read_text())
    result = written["result"]
    assert written["provenance"]["versions"]["jax"] and result["given"] == 2 and result["clips"] == 12
    assert result["given_kept"] is True
    assert result["gain"]["mean"] == pytest.approx(
        result["continuation_psnr"]["mean"] - result["copy_psnr"]["mean"], abs=1e-6
    )
    assert len(result["psnr_by_frame"]["copy"]) == 2
    assert result["scores"]["fd_movingdigits_cnn"] > result["scores"]["fd_movingdigits_cnn_held_out"] >= 0
    assert {"video-continued.gif", "video-samples.gif"} <= {path.name for path in tmp_path.iterdir()}
