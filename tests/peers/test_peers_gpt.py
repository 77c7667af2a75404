"""GPT against transformers' GPT-2 with the same weights: logits, greedy text, files in and out."""

import warnings
from contextlib import suppress
from dataclasses import replace

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
    from transformers import GPT2Config, GPT2LMHeadModel

from tiny_gpt import randomised, state_of, tiny  # noqa: E402

from jaxgen import core  # noqa: E402
from jaxgen.errors import UserError  # noqa: E402
from jaxgen.models.gpt import GPT, prompts  # noqa: E402
from jaxgen.ops.decoding import Decoding  # noqa: E402
from jaxgen.weights import gpt2  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def theirs():
    """GPT-2 with weights large enough that each of them matters."""
    config = GPT2Config(vocab_size=97, n_positions=48, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.15 + (1.0 if "ln_" in name and "weight" in name else 0.0))
    return model


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    network = gpt2.network_of(folder / "model.safetensors")
    params = jax.tree.map(jnp.asarray, gpt2.read(folder / "model.safetensors", network))
    return GPT(network=network), {"network": params}


def test_logits_are_theirs(theirs, ours):
    model, params = ours
    x = np.random.default_rng(0).integers(0, 97, (3, 48))
    with torch.no_grad():
        expected = theirs(torch.tensor(x)).logits.numpy()
    out = jax.jit(lambda p, x: model.network.apply({"params": p["network"]}, x))(params, jnp.asarray(x))
    np.testing.assert_allclose(out, expected, atol=1e-4 * np.abs(expected).max())


def test_greedy_text_is_theirs_to_the_token(theirs, ours):
    model, params = ours
    model = replace(model, decoding=Decoding(temperature=0, tokens=30))
    rows = [[5, 17, 3, 90], list(range(1, 14)), [44]]
    out = core.sample(model, state_of(model, params), core.sample_keys(0, 3), prompts(rows, 48))
    for row, line in zip(rows, np.asarray(out)):
        with torch.no_grad():
            ids = torch.tensor([row])
            text = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30, eos_token_id=None,
                pad_token_id=0,
            )  # fmt: skip
        np.testing.assert_array_equal(line[: len(row) + 30], text[0].numpy())


@pytest.mark.parametrize(
    ("bias", "tied", "activation"), [(True, True, "gelu_tanh"), (False, True, "gelu_tanh"), (True, False, "gelu")]
)
def test_weights_written_load_back_into_transformers(bias, tied, activation, tmp_path):
    model = tiny(window=16)
    body = model.network.body.clone(bias=bias, activation=activation)
    model = replace(model, network=model.network.clone(tied=tied, body=body))
    params = randomised(model)
    gpt2.write(tmp_path / "model.safetensors", model.network, params, model.decoding.end)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back, report = GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    x = np.random.default_rng(0).integers(0, 11, (2, 16))
    with torch.no_grad():
        expected = back.eval()(torch.tensor(x)).logits.numpy()
    out = model.network.apply({"params": params["network"]}, jnp.asarray(x))
    np.testing.assert_allclose(out, expected, atol=1e-4)
    again = gpt2.read(tmp_path / "model.safetensors", model.network)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(params["network"])):
        np.testing.assert_array_equal(a, b)


def test_weights_of_another_vocabulary_are_refused(ours, folder):
    model, _ = ours
    with pytest.raises(UserError, match=r"vocabulary 97, model\.network\.vocab is 65: set it to 97"):
        gpt2.read(folder / "model.safetensors", model.network.clone(vocab=65))


def test_the_peer_of_the_benchmarks_is_the_same_network():
    """Losses and gradients of pre- and post-norm, and the steps that follow."""
    from peers import Peer, has_peer, module_of
    from peers.optim import Descent

    from jaxgen.codecs import Identity
    from jaxgen.data import Text
    from jaxgen.experiment import Experiment
    from jaxgen.optim import Adam

    x = np.random.default_rng(0).integers(0, 11, (4, 9))
    for fields in ({}, {"pre_norm": False}):
        model = tiny(optimizer=Adam(lr=1e-2, clip=1.0), **fields)
        params = randomised(model)
        state = core.TrainState(
            step=jnp.int32(0), params=params, opt_state={"all": model.optimizer.tx.init(params)}
        )  # fmt: skip
        peer = module_of(model)
        peer.from_flax(params)
        descent = Descent(model.optimizer, peer.parameters())
        for key in jax.random.split(jax.random.key(0), 3):
            state, metrics = jax.jit(model.train_step)(state, key, {"x": jnp.asarray(x)})
            loss = peer.loss(torch.tensor(x))
            descent.step(loss)
            assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    experiment = Experiment(
        model=tiny(vocab=256), codec=Identity(), data=Text(tokenizer="bytes", block=8), batch_size=4, steps=50
    )  # fmt: skip
    assert has_peer(experiment)
    peer = Peer(experiment, randomised(experiment.model))
    assert np.isfinite(peer.step().item())
