"""T5's encoder against transformers' T5EncoderModel, and the files that are refused."""

import json
import warnings
from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from peers.inception import import_torchvision  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    with suppress(ImportError):
        import_torchvision()
    pytest.importorskip("transformers")
    from transformers import T5Config, T5EncoderModel
from safetensors.torch import load_file, save_file  # noqa: E402

from jaxgen.errors import UserError  # noqa: E402
from jaxgen.nets.t5 import bucket_of  # noqa: E402
from jaxgen.weights import t5  # noqa: E402

torch.set_num_threads(1)


def random_model(projection="relu", **fields):
    """Weights large enough that each of them matters."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=53, d_model=24, d_kv=5, d_ff=40, num_layers=3, num_heads=4, feed_forward_proj=projection, **fields
    )
    model = T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "norm" in name else 0.0))
    return model


def saved(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_features_are_transformers(projection, tmp_path):
    """Texts of several lengths with padding, longer than the distances that have a bucket each."""
    model = random_model(projection, relative_attention_num_buckets=16, relative_attention_max_distance=20)
    found = t5.read(saved(model, tmp_path))
    rng = np.random.default_rng(0)
    text = rng.integers(0, 53, (3, 40)).astype(np.int32)
    mask = np.arange(40) < np.array([[7], [40], [23]])
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(text).long(), attention_mask=torch.tensor(mask).long()
        ).last_hidden_state.numpy()
    params = {"params": jax.tree.map(jnp.asarray, found.params)}
    got = np.asarray(jax.jit(found.network.apply)(params, text, jnp.asarray(mask)))
    np.testing.assert_allclose(got[mask], expected[mask], atol=2e-4, rtol=2e-4)
    assert found.network.gated == (projection == "gated-gelu")


@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (16, 20), (4, 100)])
def test_buckets_are_transformers(buckets, most):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = np.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(torch.tensor(distance), True, buckets, most).numpy()
    np.testing.assert_array_equal(bucket_of(distance, buckets, most), expected)


def test_what_is_padded_is_not_seen(tmp_path):
    found = t5.read(saved(random_model(), tmp_path))
    params = {"params": jax.tree.map(jnp.asarray, found.params)}
    text, mask = np.array([[3, 9, 1, 0, 0]]), np.array([[True, True, True, False, False]])
    apply = jax.jit(found.network.apply)
    other = np.where(mask, text, 44)
    np.testing.assert_array_equal(apply(params, text, mask)[:, :3], apply(params, other, mask)[:, :3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "bert"}, "is of 'bert', t5 is expected"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj 'gated-silu'"),
        ({"num_layers": 2}, "there are 2 blocks"),
        ({"num_layers": 4}, "lacks encoder.block.3"),
        ({"d_kv": "five"}, "d_kv 'five'"),
        ({"d_kv": 6}, "kernel is"),
    ],
)
def test_files_that_do_not_fit_are_refused(change, words, tmp_path):
    folder = saved(random_model(), tmp_path)
    config = json.loads((folder / t5.CONFIG).read_text())
    (folder / t5.CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=words):
        t5.read(folder)


def test_a_truncated_file_is_refused(tmp_path):
    folder = saved(random_model(), tmp_path)
    tensors = load_file(folder / t5.WEIGHTS)
    del tensors["encoder.final_layer_norm.weight"]
    save_file(tensors, folder / t5.WEIGHTS)
    with pytest.raises(UserError, match=r"lacks encoder\.final_layer_norm"):
        t5.read(folder)
    with pytest.raises(UserError, match="cannot be read"):
        t5.read(tmp_path / "nothing")
