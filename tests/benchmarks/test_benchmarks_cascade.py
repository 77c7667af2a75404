"""benchmarks/cascade.py: retrieval of captions that are known, and what small pictures are enlarged by beside runs."""

import cascade
import numpy as np
import pytest


def test_prompts_are_found_again_among_all(monkeypatch):
    """Twelve pictures at their texts' places but two that are swapped; a caption that stands twice is right twice."""
    captions = [f"emoji {i}" for i in range(11)] + ["emoji 0"]
    order = [0, 2, 1, *range(3, 11), 0]
    monkeypatch.setattr(cascade, "embed_images", lambda judge, x: np.eye(12, dtype=np.float32)[order])
    vectors = np.eye(12, dtype=np.float32)
    monkeypatch.setattr(cascade, "embed_texts", lambda judge, texts: vectors[[int(t.split()[1]) for t in texts]])
    found = cascade.found_again(None, np.zeros((12, 2, 2, 3), np.uint8), captions)
    assert set(found) == {f"{way}_r{k}" for way in ("image_to_text", "text_to_image") for k in (1, 10)}
    assert found["text_to_image_r1"]["mean"] == pytest.approx(10 / 12)
    assert found["text_to_image_r1"]["stderr"] == pytest.approx(np.sqrt(10 / 12 * 2 / 12 / 12))


def test_bicubic_enlargement_keeps_what_is_flat_and_what_is_straight():
    ramp = np.broadcast_to(np.arange(0, 80, 10, dtype=np.uint8).reshape(1, 1, 8, 1), (2, 8, 8, 3)).copy()
    large = cascade.bicubic(ramp, 16)
    assert large.shape == (2, 16, 16, 3) and large.dtype == np.uint8
    # Away from the edges, pixel j of twice as many lies at j / 2 - 1 / 4.
    expected = 10 * (np.arange(4, 12) / 2 - 0.25)
    np.testing.assert_allclose(large[0, 5, 4:12, 0], expected, atol=0.51)
    np.testing.assert_array_equal(cascade.bicubic(np.full((1, 4, 4, 1), 200, np.uint8), 8), 200)
