"""Numbers of speech against what is counted by hand and by slow recursions; the recogniser on a real voice."""

import functools
import itertools
import math

import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.metrics import speech
from jaxgen.metrics.recognition import bigrams


def slow_warping(cost: np.ndarray) -> float:
    @functools.cache
    def best(i: int, j: int) -> float:
        ways = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        before = [best(*way) for way in ways if min(way) >= 0]
        return cost[i, j] + (min(before) if before else 0.0)

    return best(cost.shape[0] - 1, cost.shape[1] - 1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1), (5, 5), (7, 4), (4, 9)])
def test_warping_is_the_best_path(shape: tuple[int, int]):
    cost = np.random.default_rng(sum(shape)).random(shape)
    total, path = speech.dynamic_time_warping(cost)
    assert total == pytest.approx(slow_warping(cost))
    assert total == pytest.approx(cost[tuple(path.T)].sum())
    assert path[0].tolist() == [0, 0] and path[-1].tolist() == [shape[0] - 1, shape[1] - 1]
    assert {tuple(step) for step in np.diff(path, axis=0)} <= {(1, 0), (0, 1), (1, 1)}


def test_warping_finds_a_stretched_copy():
    x = np.random.default_rng(0).normal(size=(12, 3))
    places = np.sort(np.concatenate([np.arange(12), [2, 2, 7]]))
    cost = np.abs(x[:, None] - x[None, places]).sum(-1)
    total, path = speech.dynamic_time_warping(cost)
    assert total == 0 and [i for i, _ in path] == places.tolist()


def test_cepstra_are_cosine_sums():
    mel = np.random.default_rng(1).normal(size=(2, 8))
    for k, found in enumerate(speech.cepstra(mel, 4).T, 1):
        slow = [sum(row[n] * math.cos(math.pi * k * (n + 0.5) / 8) for n in range(8)) / 8 for row in mel]
        np.testing.assert_allclose(found, slow)
    cosines = np.cos(np.pi * np.arange(1, 8)[:, None] * (np.arange(8) + 0.5) / 8)
    np.testing.assert_allclose(2 * speech.cepstra(mel, 7) @ cosines, mel - mel.mean(axis=1, keepdims=True))


def test_distortion_is_its_formula_and_blind_to_loudness_and_length():
    mel = np.random.default_rng(2).normal(size=(20, 16))
    assert speech.mel_cepstral_distortion(mel, mel) == pytest.approx(0, abs=1e-5)
    assert speech.mel_cepstral_distortion(mel + 3, mel) == pytest.approx(0, abs=1e-5)
    assert speech.mel_cepstral_distortion(np.repeat(mel, 2, axis=0), mel) == pytest.approx(0, abs=1e-5)
    # Both constant over time, and apart by 0.1 in the first cepstrum alone.
    wave = 2 * 0.1 * np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    found = speech.mel_cepstral_distortion(np.tile(mel[0] + wave, (5, 1)), np.tile(mel[0], (7, 1)))
    assert found == pytest.approx(10 / math.log(10) * math.sqrt(2) * 2 * 0.1)
    # The decibels of magnitudes, 20 / ln 10 of a log: so is the wave's root mean square, which one cepstrum holds.
    assert found == pytest.approx(20 / math.log(10) * np.sqrt(np.mean(wave**2)))


def test_alignments():
    diagonal = np.repeat(np.eye(5), 3, axis=0)
    assert speech.alignment(diagonal) == (1.0, 1.0, 1.0)
    assert speech.alignment(np.full((4, 5), 0.2)) == (pytest.approx(0.2), 1.0, 0.2)
    back = np.eye(8)[[0, 1, 2, 1, 2, 6, 6]]  # one step back, and one of four symbols
    assert speech.alignment(back) == (1.0, pytest.approx(4 / 6), 7 / 8)
    assert speech.alignment(np.array([[0.3, 0.7]])) == (pytest.approx(0.7), 1.0, 1.0)


def test_stops():
    found = speech.stop_error_rate([100, 69, 141, 140, 70, 100], [100] * 6, [True] * 5 + [False])
    assert found == pytest.approx(3 / 6)


def slow_distance(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(
        slow_distance(a[1:], b) + 1, slow_distance(a, b[1:]) + 1, slow_distance(a[1:], b[1:]) + (a[0] != b[0])
    )  # fmt: skip


def test_edit_distance_is_its_recursion():
    words = ["", "a", "ab", "ba", "abc", "bca", "aabb", "cabba"]
    for a, b in itertools.product(words, words):
        assert speech.edit_distance(a, b) == slow_distance(a, b)


def test_error_rates():
    assert speech.words_of("Dr. Smith's 2 well-known cats!") == ["doctor", "smith's", "two", "well", "known", "cats"]
    truths, found = ["One two, three.", "Hello there"], ["one too three", "there you are"]
    # One substituted; one left out and two added.
    assert speech.error_rate(truths, found) == pytest.approx(4 / 5)
    assert speech.error_rate(["abc d"], ["abd"], "character") == pytest.approx(2 / 5)
    assert speech.error_rate(truths, truths, "character") == 0
    assert speech.error_rate(truths, ["", ""]) == 1
    with pytest.raises(ValueError):
        speech.error_rate(truths, found[:1])


def test_pairs_of_words_have_probabilities_that_sum_to_one():
    sentences = [["the", "cat", "sat"], ["the", "dog"], ["a", "cat"]]
    lines = bigrams(sentences).split("\n")
    assert lines[1:3] == ["ngram 1=7", "ngram 2=9"]
    place = lines.index("\\2-grams:")
    single = {line.split()[1]: (float(line.split()[0]), float(line.split()[2])) for line in lines[5 : place - 1]}
    double = {tuple(line.split()[1:]): float(line.split()[0]) for line in lines[place + 1 : place + 10]}
    words = [word for word in single if word != "<s>"]
    assert sum(10 ** single[word][0] for word in words) == pytest.approx(1, abs=1e-4)
    for v in (v for v in single if v != "</s>"):
        ways = [double.get((v, w), single[w][0] + single[v][1]) for w in words]
        assert sum(10**way for way in ways) == pytest.approx(1, abs=1e-4)
    # (2 - 1/2) / 3 of what begins with <s>, and the rest by how often `the` is there: 2 of 10.
    assert 10 ** double["<s>", "the"] == pytest.approx(1.5 / 3 + 0.5 * 2 / 3 * 2 / 10, abs=1e-4)


def test_a_recogniser_hears_which_of_two_texts_is_said():
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    pytest.importorskip("espeakng_loader", reason="needs the extra speech")
    from jaxgen.metrics.recognition import recogniser
    from jaxgen.runtime.espeak import spoken

    texts = ("seven yellow elephants are walking", "please show me another picture")
    heard = recogniser(texts)
    for text, other in (texts, texts[::-1]):
        found = heard(*spoken(text, "en-us+f2"))
        assert speech.error_rate([text], [found]) < 0.5 < speech.error_rate([other], [found])
    assert heard(np.zeros(8000, np.float32), 16_000) in ("", *" ".join(texts).split())
    with pytest.raises(UserError, match="no word of the texts has a pronunciation"):
        recogniser(("xqzt",))
