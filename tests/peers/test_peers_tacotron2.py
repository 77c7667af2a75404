"""Tacotron 2 beside a PyTorch restatement in NVIDIA's layout: parts, weights in and out, inference, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from peers.tacotron2 import Tacotron2 as Theirs  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

from jaxgen.core import TrainState, sample_keys  # noqa: E402
from jaxgen.errors import UserError  # noqa: E402
from jaxgen.models.tacotron2 import Tacotron2  # noqa: E402
from jaxgen.nets.tacotron2 import Tacotron2Net  # noqa: E402
from jaxgen.weights import tacotron2  # noqa: E402

torch.set_num_threads(1)
SIZES = {
    "vocab": 20, "bands": 5, "reduction": 2, "encoder": 12, "encoder_layers": 2, "encoder_size": 5, "prenet": (7, 6),
    "attention_rnn": 11, "attention": 8, "location_filters": 3, "location_size": 7, "decoder_rnn": 9, "postnet": 10,
    "postnet_layers": 3, "postnet_size": 3,
}  # fmt: skip
B, T, F = 3, 9, 14


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def theirs():
    """Every parameter and statistic random."""
    model = Theirs(**SIZES)
    for i, (name, p) in enumerate(model.state_dict().items()):
        noise = torch.tensor(normal(*p.shape, seed=100 + i))
        if name.endswith("running_var"):
            p.copy_(torch.exp(0.3 * noise))
        elif not name.endswith("num_batches_tracked"):
            p.copy_(1 + 0.3 * noise if p.ndim == 1 and "weight" in name else noise / max(1, p[0].numel()) ** 0.5)
    # So that it opens at different steps.
    model.decoder.gate_layer.linear_layer.weight.data *= 30
    return model.eval()


@pytest.fixture(scope="module")
def saved(theirs, tmp_path_factory):
    file = tmp_path_factory.mktemp("nvidia") / "tacotron2.safetensors"
    save_file({name: array.numpy().copy() for name, array in theirs.state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def ours(saved):
    network, params, stats = tacotron2.read(saved)
    return network, {"params": params, "batch_stats": stats}


@pytest.fixture(scope="module")
def masks():
    """By step, example and unit of the prenet: 0 or 2."""
    return (2.0 * (normal(F, B, sum(SIZES["prenet"]), seed=7) > 0)).astype(np.float32)


def mask_of(masks, rows=slice(None)):
    """`masks` as the restatement asks for it; all steps at once where the step is -1."""
    ends = np.cumsum((0, *SIZES["prenet"]))

    def mask(step, layer, x):
        every = torch.tensor(masks[:, rows, ends[layer] : ends[layer + 1]])
        return every[: x.shape[0]] if step < 0 else every[step]

    return mask


TEXT = np.random.default_rng(1).integers(1, 20, (B, T)).astype(np.int32)
MELS = normal(B, F, 5, seed=2)


def test_the_network_of_a_file_has_its_sizes(ours):
    assert ours[0] == Tacotron2Net(**SIZES)


def test_encoder(theirs, ours):
    network, variables = ours
    memory = network.apply(variables, TEXT, np.full(B, T), method="encode")
    with torch.no_grad():
        expected = theirs.encoder(theirs.embedding(torch.tensor(TEXT)).transpose(1, 2))
    np.testing.assert_allclose(memory.memory, expected, atol=1e-5)
    keys = theirs.decoder.attention_layer.memory_layer(expected).detach()
    np.testing.assert_allclose(memory.keys, keys, atol=1e-5)


def test_teacher_forcing_of_a_batch(theirs, ours, masks):
    """Mels before and after the postnet, gates, and the attention at each step."""
    network, variables = ours
    decoded, refined = network.apply(variables, TEXT, np.full(B, T), MELS, np.full(B, F), masks[: F // 2])
    with torch.no_grad():
        before, after, gates, weights = theirs(
            torch.tensor(TEXT), torch.full((B,), T), torch.tensor(MELS).transpose(1, 2), mask_of(masks)
        )
    np.testing.assert_allclose(decoded.frames, before.transpose(1, 2), atol=1e-4)
    np.testing.assert_allclose(refined, after.transpose(1, 2), atol=1e-4)
    np.testing.assert_allclose(decoded.gates, gates, atol=1e-4)
    np.testing.assert_allclose(decoded.alignment, weights, atol=1e-4)


def test_texts_of_different_lengths_are_those_alone(theirs, ours, masks):
    """One padded batch of ours beside each text by itself, which is all that theirs can do."""
    network, variables = ours
    lengths, frames = np.array([T, 4, 6]), np.array([F, 6, 10])
    decoded, refined = network.apply(variables, TEXT, lengths, MELS, frames, masks[: F // 2])
    for i, (n, f) in enumerate(zip(lengths, frames)):
        text, mels = torch.tensor(TEXT[i : i + 1, :n]), torch.tensor(MELS[i : i + 1, :f]).transpose(1, 2)
        with torch.no_grad():
            _, after, gates, weights = theirs(text, torch.tensor([n]), mels, mask_of(masks, slice(i, i + 1)))
        np.testing.assert_allclose(refined[i, :f], after[0].T, atol=1e-4)
        np.testing.assert_allclose(decoded.gates[i, : f // 2], gates[0], atol=1e-4)
        np.testing.assert_allclose(decoded.alignment[i, : f // 2, :n], weights[0], atol=1e-4)
        assert not np.any(refined[i, f:]) and not np.any(decoded.alignment[i, :, n:])


@pytest.mark.parametrize("threshold", [0.02, 0.06, 0.15, 0.999])
def test_inference_stops_where_theirs_does(theirs, ours, masks, threshold):
    network, variables = ours
    model = Tacotron2(network=network, max_frames=F, threshold=threshold)
    state = TrainState(
        step=jnp.int32(0), params={"network": variables["params"]}, opt_state={},
        extra={"network": {"batch_stats": variables["batch_stats"]}},
    )  # fmt: skip
    cond = {"text": TEXT, "length": np.array([T, 4, 6], np.int32)}
    spoken = jax.jit(lambda: model.spoken_by(state, cond, lambda step: jnp.asarray(masks)[step]))()
    for i, n in enumerate(cond["length"]):
        with torch.no_grad():
            _, after, gates, weights = theirs.inference(
                torch.tensor(TEXT[i : i + 1, :n]), F // 2, threshold, mask_of(masks, slice(i, i + 1))
            )
        assert int(spoken.length[i]) == after.shape[2]
        assert bool(spoken.stopped[i]) == bool(torch.sigmoid(gates[0, -1]) > threshold)
        np.testing.assert_allclose(spoken.mel[i, : after.shape[2]], after[0].T, atol=1e-4)
        np.testing.assert_allclose(spoken.alignment[i, : weights.shape[1], :n], weights[0], atol=1e-4)
    assert len(set(spoken.length.tolist())) > 1 or threshold == 0.999


def test_statistics_of_training_are_theirs(theirs, ours, masks):
    """After a batch of full rows, without dropout: means and unbiased variances, by a tenth."""
    network, variables = ours
    still = network.clone(dropout=0.0, rnn_dropout=0.0)
    masks = masks[: F // 2]
    _, changed = still.apply(
        variables, TEXT, np.full(B, T), MELS, np.full(B, F), masks, True, mutable=["batch_stats"]
    )  # fmt: skip
    again = Theirs(**SIZES)
    again.load_state_dict(theirs.state_dict())
    first = again.encoder.train().convolutions[0]
    with torch.no_grad():
        first(again.embedding(torch.tensor(TEXT)).transpose(1, 2))
    norm = changed["batch_stats"]["encoder_convs_0"]["norm"]
    np.testing.assert_allclose(norm["mean"], first[1].running_mean, atol=1e-5)
    np.testing.assert_allclose(norm["var"], first[1].running_var, atol=1e-5)


def test_weights_go_out_as_they_came_in(theirs, saved, ours, tmp_path):
    """Into their network, strictly, with the same mels; and to the bit into ours again."""
    network, variables = ours
    tacotron2.write(tmp_path / "out.safetensors", network, variables["params"], variables["batch_stats"])
    written = load_file(tmp_path / "out.safetensors")
    assert written.keys() == load_file(saved).keys()
    again = Theirs(**SIZES).eval()
    again.load_state_dict({name: torch.tensor(array) for name, array in written.items()}, strict=True)
    given = torch.tensor(TEXT), torch.full((B,), T), torch.tensor(MELS).transpose(1, 2), lambda *_: 1.0
    with torch.no_grad():
        for a, b in zip(again(*given), theirs(*given)):
            np.testing.assert_allclose(a, b, atol=1e-5)
    other, params, stats = tacotron2.read(tmp_path / "out.safetensors")
    assert other == network
    for a, b in zip(jax.tree.leaves((params, stats)), jax.tree.leaves((variables["params"], variables["batch_stats"]))):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_training_is_read(theirs, ours, tmp_path):
    """As NVIDIA's train.py saves it, with what else it has, by PyTorch's new and old formats."""
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    checkpoint = {"iteration": 7, "state_dict": theirs.state_dict(), "learning_rate": 1e-3}
    torch.save({**checkpoint, "optimizer": optimizer.state_dict()}, tmp_path / "checkpoint_7")
    torch.save(checkpoint, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("checkpoint_7", "old.pt"):
        network, params, stats = tacotron2.read(tmp_path / name)
        assert network == ours[0]
        for a, b in zip(jax.tree.leaves({"params": params, "batch_stats": stats}), jax.tree.leaves(ours[1])):
            np.testing.assert_array_equal(a, b)


def test_other_files_are_refused_in_a_line(saved, tmp_path):
    tensors = load_file(saved)
    for change, message in (
        ({"embedding.weight": None}, "embedding.weight of 2 axes"),
        ({"decoder.gate_layer.linear_layer.bias": None}, "lacks decoder.gate_layer"),
        ({"decoder.extra": tensors["embedding.weight"]}, "unknown decoder.extra"),
        ({"decoder.gate_layer.linear_layer.bias": np.full(1, np.nan, np.float32)}, "not finite"),
        ({"decoder.gate_layer.linear_layer.bias": np.zeros(3, np.float32)}, r"gate/bias is float32\[3\]"),
    ):
        wrong = {name: array for name, array in {**tensors, **change}.items() if array is not None}
        save_file(wrong, tmp_path / "wrong.safetensors")
        with pytest.raises(UserError, match=message):
            tacotron2.read(tmp_path / "wrong.safetensors")
    with pytest.raises(UserError, match=r"network\.mean 0"):
        tacotron2.check_form(Tacotron2Net(mean=-5.0))


def test_masks_of_the_prenet_are_halves(ours):
    """Half of the units, doubled; those of a step and an example do not depend on how many others there are."""
    model = Tacotron2(network=ours[0])
    some = model._masks(sample_keys(0, 8), jnp.arange(40))
    assert set(np.unique(some)) == {0.0, 2.0} and abs(float(jnp.mean(some)) - 1) < 0.05
    np.testing.assert_array_equal(model._masks(sample_keys(0, 2), jnp.arange(3, 5)), some[3:5, :2])
