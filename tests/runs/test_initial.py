"""--init: what a new run takes from another one, bit for bit, what it says of the rest, and what it refuses."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import EXPERIMENTS
from safetensors.numpy import save_file
from small_runs import final_state, same

from jaxgen import load
from jaxgen.cli.weights import command as weights
from jaxgen.core.mesh import Layout
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.nets.lora import LoRA
from jaxgen.optim import path_name
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.initial import begin
from jaxgen.runs.restore import import_params, initial_state, restore
from jaxgen.train.loop import train, train_in_memory
from jaxgen.train.seeds import train_seeds
from jaxgen.weights.store import content_hash

VAE = presets(EXPERIMENTS["vae"])["smoke"]
AVERAGED = replace(VAE, model=replace(VAE.model, ema_decay=0.9))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "base"
    train(AVERAGED, folder)
    return folder


def flat(tree) -> dict[str, np.ndarray]:
    return {path_name(path): np.array(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_run_starts_from_what_another_samples_with(base, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    experiment = replace(AVERAGED, init=str(base))
    state = begin(experiment, VAE.codec, run=run)
    learnt = restore(RunFolder(base)).state
    assert not same(learnt.params, learnt.ema) and int(state.step) == 0
    assert same(state.params, learnt.ema) and same(state.ema, learnt.ema)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    assert capsys.readouterr().out == f"{base}: 8 of 8 arrays are taken from it\n"
    kept = json.loads((run.path / "init.json").read_text())
    sha256 = content_hash(flat(learnt.ema))
    assert kept == {
        "run": str(base), "step": 20, "sha256": sha256, "taken": 8, "other_shape": [], "missing": [], "left_out": []
    }  # fmt: skip


def test_a_file_of_parameters_does_as_well(base, tmp_path, capsys):
    file = tmp_path / "params.safetensors"
    weights(["export", str(base), str(file)])
    state = begin(replace(VAE, init=str(file)), VAE.codec)
    assert same(state.params, restore(RunFolder(base)).state.ema) and state.ema is None
    assert f"{file}: 8 of 8 arrays" in capsys.readouterr().out
    save_file({"decoder/Dense_0/bias": np.zeros(32, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors is no file of jaxgen weights export: .* import-gpt2"):
        begin(replace(VAE, init=str(tmp_path / "other.safetensors")), VAE.codec)


def test_what_does_not_fit_is_said_and_starts_at_random(base, capsys):
    """Latents of another size: the encoder's last layer and the decoder's first kernel differ."""
    wider = replace(VAE, model=replace(VAE.model, latent=5), init=str(base), trainable="decoder")
    state, fresh = begin(wider, VAE.codec), begin(replace(wider, init=""), VAE.codec)
    learnt = flat(restore(RunFolder(base)).state.ema)
    changed = {"decoder/Dense_0/kernel", "encoder/Dense_1/kernel", "encoder/Dense_1/bias"}
    for name, leaf in flat(state.params).items():
        np.testing.assert_array_equal(leaf, flat(fresh.params)[name] if name in changed else learnt[name])
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"{base}: 5 of 8 arrays are taken from it",
        f"{base}: 3 begin at random, since their shapes differ: decoder/Dense_0/kernel [4, 32] there, [5, 32] here, "
        "encoder/Dense_1/bias [8] there, [10] here, encoder/Dense_1/kernel [32, 8] there, [32, 10] here",
        f"{base}: 2 of those at random are not trained: see --trainable: encoder/Dense_1/bias, encoder/Dense_1/kernel",
    ]


def test_arrays_on_one_side_alone_are_named(base, tmp_path, capsys):
    deeper = replace(VAE.model, decoder=replace(VAE.model.decoder, hidden=(32, 32)))
    names = "decoder/Dense_2/bias, decoder/Dense_2/kernel\n"
    begin(replace(VAE, model=deeper, init=str(base)), VAE.codec)
    assert f"2 begin at random, since it has none: {names}" in capsys.readouterr().out
    file = tmp_path / "params.safetensors"
    train(replace(VAE, model=deeper, steps=10), tmp_path / "deeper")
    weights(["export", str(tmp_path / "deeper"), str(file)])
    begin(replace(VAE, init=str(file)), VAE.codec)
    assert f"2 of its own are left out: {names}" in capsys.readouterr().out


def test_batch_statistics_come_along(tmp_path):
    gan = presets(EXPERIMENTS["dcgan"])["smoke"]
    train(replace(gan, steps=gan.steps_per_call), tmp_path / "gan")
    learnt = restore(RunFolder(tmp_path / "gan")).state
    state = begin(replace(gan, init=str(tmp_path / "gan"), seed=1), gan.codec)
    assert flat(state.extra)
    assert same(state.extra, learnt.extra) and same(state.params, {**learnt.params, **learnt.sampling_params})


def test_a_run_that_is_gone_on_with_does_not_read_it_again(base, tmp_path):
    begun = replace(VAE, init=str(base), steps=10)
    train(begun, tmp_path / "run")
    train(replace(begun, init=str(tmp_path / "gone"), steps=20), tmp_path / "run")
    train(replace(begun, steps=20), tmp_path / "whole")
    states = [final_state(replace(begun, steps=20), tmp_path / name) for name in ("run", "whole")]
    assert same(*states) and int(states[0].step) == 20


def test_each_of_several_seeds_starts_from_it(base, tmp_path):
    train_seeds(replace(VAE, init=str(base), steps=10, trainable="decoder"), 2, tmp_path / "seeds")
    learnt = flat(restore(RunFolder(base)).state.ema)
    for seed in (0, 1):
        run = RunFolder(tmp_path / "seeds" / f"seed{seed}")
        assert json.loads((run.path / "init.json").read_text())["taken"] == 8
        assert json.loads((run.path / "environment.json").read_text())["trained_params"] < 4000
        for name, leaf in flat(restore(run).state.params).items():
            assert np.array_equal(leaf, learnt[name]) != name.startswith("decoder"), name


def test_adapters_leave_their_base_and_a_run_is_used_merged(base, tmp_path, capsys):
    """The base inside of the run, and the folder of the base, are bit for bit what they were."""
    before = {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    experiment = replace(AVERAGED, init=str(base), lora=LoRA(rank=2, targets="^decoder"))
    train(experiment, tmp_path / "run")
    assert before == {path: path.read_bytes() for path in base.rglob("*") if path.is_file()}
    learnt, state = restore(RunFolder(base)).state.ema, final_state(experiment, tmp_path / "run")
    for tree in (state.params, state.ema):
        assert same(tree["decoder"]["base"], learnt["decoder"]) and same(tree["encoder"]["base"], learnt["encoder"])
        adapter = tree["decoder"]["lora"]["Dense_0"]["kernel"]
        assert np.any(adapter["lora_b"]) and not tree["encoder"]["lora"]
    used = restore(RunFolder(tmp_path / "run"))
    kernels = [np.asarray(tree["decoder"]["Dense_0"]["kernel"]) for tree in (used.state.ema, learnt)]
    change = np.asarray(adapter["lora_a"]) @ np.asarray(adapter["lora_b"])
    np.testing.assert_allclose(kernels[0], kernels[1] + change, atol=1e-6)
    assert used.model == AVERAGED.compute_model and jax.tree.structure(used.state.ema) == jax.tree.structure(learnt)
    # Another run may start from it: from base and adapters together.
    again = begin(replace(VAE, init=str(tmp_path / "run")), VAE.codec)
    assert same(again.params, used.state.ema)


def test_in_memory_as_in_a_folder(base, tmp_path):
    experiment = replace(VAE, init=str(base), lora=LoRA(rank=1), steps=10)
    train(experiment, tmp_path / "run")
    trained = train_in_memory(experiment)
    assert same(trained.state.params, restore(RunFolder(tmp_path / "run")).state.params)


def test_what_cannot_be_started_from_is_one_line(base, tmp_path):
    empty = tmp_path / "untrained"
    RunFolder(empty).create(VAE)
    other = presets(EXPERIMENTS["gpt"])["smoke"]
    for experiment, message in (
        (replace(VAE, init=str(tmp_path / "nowhere")), "which is not there: name a run folder, or a file"),
        (replace(VAE, init=str(tmp_path)), "is no run folder"),
        (replace(VAE, init=str(empty)), "has no checkpoints: train it first, or name another run with --init"),
        (replace(other, init=str(base)), r"has nothing of the names and shapes of this model \(it has decoder/Dense_0"),
    ):
        with pytest.raises(UserError, match=message):
            train(experiment, tmp_path / "run")
    assert "init.json" not in {path.name for path in (tmp_path / "run").iterdir()}


def test_adapters_have_a_strength_where_a_run_is_used(base, tmp_path):
    """0 is the base, 1/2 lies half-way between it and the run."""
    experiment = replace(VAE, init=str(base), lora=LoRA(rank=2), steps=10)
    train(experiment, tmp_path / "run")
    params = {strength: flat(load(tmp_path / "run", adapters=strength).state.params) for strength in (0.0, 0.5, 1.0)}
    for name, leaf in flat(restore(RunFolder(base)).state.ema).items():
        np.testing.assert_array_equal(params[0.0][name], leaf)
        np.testing.assert_allclose(params[0.5][name], (leaf + params[1.0][name]) / 2, atol=1e-6)
    assert any(np.any(params[1.0][name] != leaf) for name, leaf in params[0.0].items())
    with pytest.raises(UserError, match=r"base has no adapters, whose strength would be 0.5"):
        load(base, adapters=0.5)


MESH = "data=2,fsdp=2"


def test_over_a_mesh_arrays_lie_where_they_would(base):
    experiment = replace(VAE, init=str(base), lora=LoRA(rank=2))
    layout = Layout.make(MESH, experiment.batch_size)
    assert layout is not None
    state, alone = begin(experiment, VAE.codec, layout), begin(experiment, VAE.codec)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(initial_state(experiment, VAE.codec, layout))):
        assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    assert same(state.params, alone.params)


@pytest.mark.slow
def test_over_a_mesh_adapters_are_trained_alike(base):
    experiment = replace(VAE, init=str(base), lora=LoRA(rank=2), steps=5, log_every=5, save_every=5, sample_every=5)
    split, whole = train_in_memory(replace(experiment, mesh=MESH)), train_in_memory(experiment)
    for a, b in zip(jax.tree.leaves(split.state.params), jax.tree.leaves(whole.state.params)):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_tokens_of_another_meaning_are_pointed_out(tmp_path, capsys):
    """Characters of two texts have other numbers, unless the second run takes the first one's."""
    for name, text in (("first", "abcdefgh"), ("second", "hgfedcbz")):
        (tmp_path / f"{name}.txt").write_text(text * 40)
    smoke = presets(EXPERIMENTS["gpt"])["smoke"]
    network = smoke.model.network.clone(vocab=8, body=smoke.model.network.body.clone(width=8, depth=1))
    data = replace(smoke.data, tokenizer="characters", source=str(tmp_path / "first.txt"))
    first = replace(smoke, model=replace(smoke.model, network=network), data=data)
    import_params(first, initial_state(first, first.codec).params, tmp_path / "run", "here")
    second = replace(first, init=str(tmp_path / "run"), data=replace(data, source=str(tmp_path / "second.txt")))
    begin(second, second.codec)
    assert "its tokenizer.json is another one, so tokens mean something else here: see --data.tokens-of" in (
        capsys.readouterr().out
    )
    same_text = replace(second, data=replace(data, tokens_of=str(tmp_path / "run")))
    begin(same_text, second.codec)
    assert "tokenizer" not in capsys.readouterr().out
    with pytest.raises(UserError, match="the character 'z' is not in the corpus"):
        replace(second.data, tokens_of=str(tmp_path / "run")).arrays("train")
