"""LoRA's files: PEFT's, diffusers' and kohya's layouts, written by hand, are W + s up down; bad ones are refused."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_runs import smoke_run
from tiny_gpt import randomised, tiny

from jaxgen import load
from jaxgen.cli.weights import command as weights
from jaxgen.errors import UserError
from jaxgen.nets import lora as adapters
from jaxgen.nets.clip import TextTower
from jaxgen.nets.gpt import TokenTransformer
from jaxgen.nets.transformer import Transformer
from jaxgen.nets.unet_sd import SDUNet
from jaxgen.runs.folder import RunFolder
from jaxgen.runs.restore import restore
from jaxgen.train.loop import train
from jaxgen.weights import clip_text, gpt2, lora
from jaxgen.weights.lora import Pair, Slot
from jaxgen.weights.stable_diffusion import unet_shapes, unet_tensors
from jaxgen.weights.stable_diffusion_lora import lora_slots

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def merged(params, trees):
    return {name: adapters.merged({"base": tree, "lora": trees[name]}) for name, tree in params.items()}


@pytest.fixture(scope="module")
def gpt(tmp_path_factory):
    """A GPT-2 of two blocks as a run, its parameters, and its file's tensors."""
    folder = tmp_path_factory.mktemp("gpt2")
    model = tiny(vocab=7, window=8)
    gpt2.write(folder / "model.safetensors", model.network, params := randomised(model))
    weights(["import-gpt2", str(folder / "model.safetensors"), str(folder / "run")])
    return folder / "run", model.network, params, load_file(folder / "model.safetensors")


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none", "use_rslora": False}


def peft_file(folder, modules: dict[str, tuple[np.ndarray, np.ndarray]], begin="base_model.model.", **config):
    """The folder that PEFT writes: lora_A [r, in] and lora_B [out, r] of each module."""
    folder.mkdir()
    tensors = {}
    for name, (down, up) in modules.items():
        tensors |= {f"{begin}{name}.lora_A.weight": down, f"{begin}{name}.lora_B.weight": up}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder


MODULES = {
    "transformer.h.0.attn.c_attn": (normal(2, 16), normal(48, 2)),
    "transformer.h.1.attn.c_attn": (normal(2, 16), normal(48, 2)),
    "transformer.h.1.mlp.c_proj": (normal(4, 64), normal(16, 4)),
}


@pytest.mark.parametrize(
    ("config", "scales"),
    [({}, (3.0, 3.0, 1.5)), ({"use_rslora": True}, (6 / np.sqrt(2), 6 / np.sqrt(2), 3.0)),
     ({"alpha_pattern": {"h.1.attn.c_attn": 1.0}, "rank_pattern": {"mlp.c_proj": 4}}, (3.0, 0.5, 1.5)),
     ({"alpha_pattern": {r".*\.mlp\.c_proj": 1.0}}, (3.0, 3.0, 0.25))],
)  # fmt: skip
def test_pefts_adapters_of_gpt2_change_what_they_name(gpt, tmp_path, config, scales):
    """In GPT-2's own file, whose kernels are [in, out] and whose qkv is ordered (which, head, channel)."""
    run, network, params, before = gpt
    peft_file(tmp_path / "adapter", MODULES, **config)
    weights(["import-lora", str(tmp_path / "adapter"), str(run), str(tmp_path / "run")])
    used = load(tmp_path / "run")
    gpt2.write(tmp_path / "after" / "model.safetensors", network, used.state.params)
    after = load_file(tmp_path / "after" / "model.safetensors")
    want = dict(before)
    for (name, (down, up)), scale in zip(MODULES.items(), scales):
        want[f"{name}.weight"] = before[f"{name}.weight"] + np.float32(scale) * (up @ down).T
    assert after.keys() == before.keys()
    for name, array in want.items():
        np.testing.assert_allclose(after[name], array, atol=1e-5, err_msg=name)
    # The base is there as it was, and the adapters apart from it.
    jax.tree.map(np.testing.assert_array_equal, kept(tmp_path / "run")["network"]["base"], params["network"])


def kept(folder):
    """The parameters of a run as it keeps them: adapters apart."""
    return restore(RunFolder(folder), adapters=None).state.params


@pytest.mark.parametrize("form", ["peft", "diffusers", "kohya"])
def test_a_run_that_was_adapted_here_goes_out_and_comes_back(gpt, tmp_path, form):
    """Trained adapters, and those that came in with ranks of their own."""
    run = gpt[0]
    experiment = load(run).experiment
    rank = adapters.LoRA(rank=3, alpha=2.0, targets="attention")
    train(
        replace(experiment, init=str(run), lora=rank, steps=10, log_every=10, save_every=10, sample_every=10),
        tmp_path / "trained",
    )
    weights(["import-lora", str(peft_file(tmp_path / "adapter", MODULES)), str(run), str(tmp_path / "imported")])
    for name, shapes in (("trained", {(3, 16), (48, 3), (16, 3)}), ("imported", {(2, 16), (48, 2), (4, 64), (16, 4)})):
        file = tmp_path / f"{name}-out" / "adapter_model.safetensors"
        weights(["export-lora", str(tmp_path / name), str(file), form])
        tensors = load_file(file)
        assert {array.shape for array in tensors.values() if array.ndim} == shapes
        first = {"peft": "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
                 "diffusers": "transformer.h.0.attn.c_attn.lora_A.weight",
                 "kohya": "lora_transformer_h_0_attn_c_attn.lora_down.weight"}[form]  # fmt: skip
        assert first in tensors
        weights(["import-lora", str(file), str(run), str(tmp_path / f"{name}-again")])
        back, there = load(tmp_path / f"{name}-again"), load(tmp_path / name)
        for a, b in zip(jax.tree.leaves(back.state.params), jax.tree.leaves(there.state.params)):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_merged_runs_have_no_adapters(gpt, tmp_path):
    weights(["import-lora", str(peft_file(tmp_path / "adapter", MODULES)), str(gpt[0]), str(tmp_path / "run")])
    weights(["merge-lora", str(tmp_path / "run"), str(tmp_path / "merged")])
    merged_run, there = load(tmp_path / "merged"), load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, merged_run.state.params, there.state.params)
    assert not adapters.is_adapted(kept(tmp_path / "merged")["network"]) and merged_run.step == 0
    with pytest.raises(UserError, match=r"merged has no adapters: it was trained without --lora.rank"):
        weights(["merge-lora", str(tmp_path / "merged"), str(tmp_path / "twice")])
    with pytest.raises(UserError, match=r"merged has no adapters"):
        weights(["export-lora", str(tmp_path / "merged"), str(tmp_path / "x" / "adapter_model.safetensors")])


UNET = SDUNet(widths=(32, 32), attention=(True, False), blocks=1, heads=2)
TOWER = TextTower(11, 8, Transformer(width=8, depth=2, heads=2, causal=True, activation="quick_gelu"))


def test_every_module_of_stable_diffusion_is_changed_as_in_its_own_layout():
    """U-Net and text encoder: kernels in the peers' layout, [out, in] and [out, in, h, w], are W + s up down."""
    shapes = jax.eval_shape(TOWER.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    text = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    unet: dict = {}
    for path, leaf in unet_shapes(UNET, 4, 8).items():
        adapters.put(unet, tuple(path.split("/")), normal(*leaf.shape))
    params, slots = {"network": unet, "text": text}, lora_slots(UNET, TOWER)

    def tensors(params):
        ours = {f"unet.{name}": array for name, array in unet_tensors(params["network"]).items()}
        texts = clip_text.tensors(TOWER, params["text"])
        return ours | {f"text_encoder.{name}": array for name, array in texts.items()}

    before = tensors(params)
    embedded = ("token_embedding.weight", "position_embedding.weight")
    matrices = {name for name, array in before.items() if array.ndim > 1 and not name.endswith(embedded)}
    assert {f"{name}.weight" for name in slots} == matrices
    pairs, change = {}, {}
    for i, name in enumerate(slots):
        weight, rank = before[f"{name}.weight"], 1 + i % 2
        down, up = normal(rank, *weight.shape[1:]), normal(weight.shape[0], rank)
        pairs[name] = Pair(down, up[:, :, None, None] if weight.ndim == 4 else up, scale := 0.5 + i % 3)
        change[name] = scale * np.einsum("or,r...->o...", up, down)
    trees, settings = lora.fitted(pairs, slots, params, "here")
    after = tensors(merged(params, trees))
    for name in before:
        want = before[name] + change.get(name.removesuffix(".weight"), 0.0)
        np.testing.assert_allclose(after[name], want, atol=1e-4, err_msg=name)
    assert settings.rank == 5  # q, k and v of one kernel have rows of their own: 2 + 1 + 2
    adapted = {name: {"base": tree, "lora": trees[name]} for name, tree in params.items()}
    back = lora.pairs_of(adapted, slots)
    assert back.keys() == pairs.keys()
    for name, pair in back.items():
        up = pair.up[..., 0, 0] if pair.up.ndim == 4 else pair.up
        given = pair.scale * np.einsum("or,r...->o...", up, pair.down)
        np.testing.assert_allclose(given, change[name], atol=1e-4, err_msg=name)
        assert pair.down.shape == pairs[name].down.shape and pair.up.shape == pairs[name].up.shape


NAMES = {
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": Slot("network/q/kernel"),
    "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": Slot("network/o/kernel"),
    "text_encoder.text_model.encoder.layers.0.self_attn.out_proj": Slot("text/out/kernel"),
}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.mark.parametrize(
    ("q", "out", "fc", "down", "up"),
    [(f"unet.{ATTENTION}.to_q", f"unet.{ATTENTION}.to_out.0",
      "text_encoder.text_model.encoder.layers.0.self_attn.out_proj", "lora_A.weight", "lora_B.weight"),
     (f"unet.{ATTENTION}.to_q", f"unet.{ATTENTION}.to_out.0", "text_encoder.encoder.layers.0.self_attn.out_proj",
      "lora.down.weight", "lora.up.weight"),
     (f"unet.{ATTENTION}.processor.to_q_lora", f"unet.{ATTENTION}.processor.to_out_lora",
      "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora", "down.weight", "up.weight"),
     (f"unet.{ATTENTION}.to_q.lora", f"unet.{ATTENTION}.to_out.0.lora",
      "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_linear_layer", "down.weight", "up.weight"),
     ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
      "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
      "lora_te_text_model_encoder_layers_0_self_attn_out_proj", "lora_down.weight", "lora_up.weight")],
)  # fmt: skip
def test_names_of_diffusers_old_and_new_and_of_kohya(tmp_path, q, out, fc, down, up):
    tensors = {}
    for name in (q, out, fc):
        tensors |= {f"{name}.{down}": normal(4, 6), f"{name}.{up}": normal(8, 4)}
    if down == "lora_down.weight":
        tensors[f"{q}.alpha"] = np.array(1.0, np.float32)
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors")
    found = lora.read(tmp_path, NAMES)
    assert found.keys() == NAMES.keys()
    for (name, pair), theirs in zip(((name, found[name]) for name in NAMES), (q, out, fc)):
        np.testing.assert_array_equal(pair.down, tensors[f"{theirs}.{down}"], err_msg=name)
        np.testing.assert_array_equal(pair.up, tensors[f"{theirs}.{up}"])
        assert pair.scale == (0.25 if f"{theirs}.alpha" in tensors else 1.0)


def test_the_header_of_diffusers_file_tells_the_scale(tmp_path):
    name = next(iter(NAMES))
    tensors = {f"{name}.lora_A.weight": normal(4, 6), f"{name}.lora_B.weight": normal(8, 4)}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True})}
    save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", header)
    assert lora.read(tmp_path, NAMES)[name].scale == 4.0


@pytest.mark.parametrize(
    ("modules", "config", "message"),
    [({"transformer.h.2.attn.c_attn": (normal(2, 16), normal(48, 2))}, {},
      r"adapts transformer.h.2.attn.c_attn, which this network lacks: it is a LoRA of another base"),
     ({"transformer.h.0.attn.c_attn": (normal(2, 768), normal(2304, 2))}, {},
      r"c_attn is from \[768\] to 2304 channels, here from \[16\] to 48: it is a LoRA of another base"),
     ({"transformer.h.0.attn.c_attn": (normal(3, 16), normal(48, 2))}, {}, "matrices of different ranks"),
     ({"transformer.h.0.attn.c_attn": (normal(2, 16) * np.inf, normal(48, 2))}, {}, "not finite"),
     (MODULES, {"use_dora": True}, "adapter_config.json has use_dora True"),
     (MODULES, {"bias": "all"}, "has bias 'all'"), (MODULES, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
     (MODULES, {"peft_type": "IA3"}, "is of no LoRA"), (MODULES, {"lora_alpha": "x"}, "lora_alpha 'x': a number"),
     ({}, {}, "holds no adapter")],
)  # fmt: skip
def test_what_is_no_lora_of_this_base_is_one_line(gpt, tmp_path, modules, config, message):
    peft_file(tmp_path / "adapter", modules, **config)
    with pytest.raises(UserError, match=message) as caught:
        weights(["import-lora", str(tmp_path / "adapter"), str(gpt[0]), str(tmp_path / "run")])
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_files_of_something_else_are_one_line(gpt, tmp_path):
    for name, message in (
        ("transformer.wte.lora_embedding_A", "of embeddings"), ("transformer.h.0.attn.c_attn.dora_scale", "of DoRA"),
        ("lora_unet_x.hada_w1_a", "of LoHa"), ("transformer.h.0.attn.c_attn.weight", "of something else"),
    ):  # fmt: skip
        save_file({name: normal(2, 2)}, tmp_path / "file.safetensors")
        with pytest.raises(UserError, match=message):
            weights(["import-lora", str(tmp_path / "file.safetensors"), str(gpt[0]), str(tmp_path / "run")])
    half = {"transformer.h.0.attn.c_attn.lora_A.weight": normal(2, 16)}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(UserError, match=r"one half of the adapter of transformer.h.0.attn.c_attn"):
        weights(["import-lora", str(tmp_path / "half.safetensors"), str(gpt[0]), str(tmp_path / "run")])
    with pytest.raises(UserError, match="No such file"):
        weights(["import-lora", str(tmp_path / "nothing"), str(gpt[0]), str(tmp_path / "run")])


def test_models_and_kernels_without_names_are_refused(gpt, tmp_path):
    smoke_run("vae", tmp_path / "vae")
    with pytest.raises(UserError, match=r"VAE has no peers that share files of LoRA"):
        weights(["import-lora", str(tmp_path), str(tmp_path / "vae"), str(tmp_path / "run")])
    slots = gpt2.lora_slots(TokenTransformer(vocab=7, window=8, body=gpt[1].body))
    adapter = {"lora_a": normal(2, 3, 1), "lora_b": normal(2, 1, 3), "lora_scale": normal(2)}
    params = {"network": {"base": {}, "lora": {"extra": {"kernel": adapter}}}}
    with pytest.raises(UserError, match=r"adapter of network/extra/kernel has no name in such files"):
        lora.pairs_of(params, slots)


@pytest.mark.parametrize("key", ["(.|..)*x", "a" * 201, ".*.*.*.*.*x", "(", "(a+)+"])
def test_patterns_that_could_take_for_ever_are_refused(key):
    with pytest.raises(UserError, match="alpha_pattern"):
        lora._ends("transformer.h.0.attn.c_attn", key, Path("adapter_config.json"))
