"""The benchmark of few labels and generated pictures: its data, and what it refuses."""

import augmentation
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxgen.data import Digits
from jaxgen.errors import UserError
from jaxgen.models.conditions import NO_CLASS

FEW = augmentation.FewLabels(labels=10, seed=3)


def test_ten_of_each_class_keep_their_label():
    """They are repeated, so that as many examples have a label as have none."""
    whole, few = Digits().load("train"), FEW.load("train")
    kept = few["cond"] != NO_CLASS
    assert np.sum(kept) == np.sum(~kept) == len(whole["x"]) - 100
    known = np.unique(few["x"][kept].reshape(np.sum(kept), -1), axis=0)
    assert len(known) == 100
    every = {image.tobytes(): label for image, label in zip(whole["x"], whole["cond"])}
    assert all(every[image.tobytes()] == label for image, label in zip(few["x"][kept], few["cond"][kept]))
    assert not {image.tobytes() for image in few["x"][~kept]} & {image.tobytes() for image in few["x"][kept]}
    np.testing.assert_array_equal(FEW.load("test")["cond"], Digits().load("test")["cond"])


def test_without_others_the_labelled_ones_are_left():
    alone = augmentation.FewLabels(labels=10, seed=3, others=False).load("train")
    few = FEW.load("train")
    np.testing.assert_array_equal(alone["x"], few["x"][few["cond"] != NO_CLASS][: len(alone["x"])])


def test_samples_that_repeat_the_labelled_pictures_are_told():
    whole, options = Digits().load("train"), augmentation.Options()
    known = augmentation.labelled(whole["cond"], 10, seed=3)
    assert augmentation.near_labelled(whole["x"][known], 3, options) == 1
    assert augmentation.near_labelled(whole["x"][~known][:200], 3, options) == 0


def test_samples_join_as_many_labelled_pictures(tmp_path):
    """The labelled ones are repeated, so that samples do not drown them."""
    made = {"x": np.full((300, 8, 8, 1), 7, np.uint8), "cond": np.arange(300, dtype=np.int32) % 10}
    save_file(made, tmp_path / augmentation.SAMPLES)
    known = augmentation.FewLabels(labels=10, seed=3, others=False)
    both = augmentation.WithSamples(known=known, run=str(tmp_path)).load("train")
    assert len(both["x"]) == len(both["cond"]) == 600
    assert np.sum(np.all(both["x"] == 7, axis=(1, 2, 3))) == 300


def test_a_model_without_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="told classes"):
        augmentation.main(["--script", "vae", "--out", str(tmp_path / "x.json")])
