"""CLIP against transformers' CLIPModel, and PyTorch's blocks under open_clip's names: logits, files in and out."""

import json
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
    from transformers import CLIPConfig, CLIPModel
from safetensors.torch import load_file, save_file  # noqa: E402

from jaxgen.errors import UserError  # noqa: E402
from jaxgen.weights import clip  # noqa: E402

torch.set_num_threads(1)
START, END, WINDOW = 95, 96, 12


def config(end=END, act="quick_gelu"):
    same = {"num_attention_heads": 4, "num_hidden_layers": 3, "projection_dim": 24, "hidden_act": act}
    text = {**same, "vocab_size": 97, "hidden_size": 32, "intermediate_size": 80, "max_position_embeddings": WINDOW,
            "bos_token_id": START, "eos_token_id": end, "pad_token_id": 0}  # fmt: skip
    vision = {**same, "hidden_size": 48, "intermediate_size": 192, "image_size": 16, "patch_size": 4}
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)


def random_model(**fields):
    """Weights large enough that each of them matters."""
    torch.manual_seed(0)
    model = CLIPModel(config(**fields)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.15 + (1.0 if "norm" in name and "weight" in name else 0.0))
        model.logit_scale.fill_(2.0)
    return model


def saved(model, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


def examples(seed=0, pad=0):
    """Pictures, texts of several lengths with their end, and masks."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(5, 16, 16, 3)).astype(np.float32)
    text = rng.integers(1, START, (4, WINDOW))
    text[:, 0] = START
    lengths = np.array([2, 5, 9, WINDOW])
    text[np.arange(4), lengths - 1] = END
    mask = np.arange(WINDOW) < lengths[:, None]
    return x, np.where(mask, text, pad).astype(np.int32), mask


def theirs(model, x, text, mask):
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(text).long(), pixel_values=torch.tensor(x.transpose(0, 3, 1, 2)),
            attention_mask=torch.tensor(mask).long(),
        )  # fmt: skip
    return out.logits_per_image.numpy()


def ours(found, x, text, mask):
    params = {"params": jax.tree.map(jnp.asarray, found.params)}
    return np.asarray(jax.jit(found.network.apply)(params, x, text, jnp.asarray(mask)))


@pytest.mark.parametrize(("end", "act", "pad"), [(END, "quick_gelu", END), (2, "gelu", 0)])
def test_logits_are_theirs(end, act, pad, tmp_path):
    model = random_model(end=end, act=act)
    found = clip.read(saved(model, tmp_path))
    assert found.network.text.end == (END if end == END else -1)
    x, text, mask = examples(pad=pad)
    expected = theirs(model, x, text, mask)
    assert expected.std() > 0.1
    np.testing.assert_allclose(ours(found, x, text, mask), expected, atol=1e-4)
    # An activation of the other kind would be seen.
    body = found.network.image.body.clone(activation="gelu" if act == "quick_gelu" else "quick_gelu")
    other = found.network.clone(image=found.network.image.clone(body=body))
    assert np.abs(ours(replace(found, network=other), x, text, mask) - expected).max() > 1e-3


def test_names_of_older_versions_are_read(tmp_path):
    model = random_model()
    found = clip.read(saved(model, tmp_path))
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        (f"text_model.{name}" if name.startswith("text_model.") else name.replace("pre_layrnorm", "pre_layernorm")): a
        for name, a in tensors.items()
    }
    for part, length in (("text", WINDOW), ("vision", 17)):
        old[f"{part}_model.embeddings.position_ids"] = torch.arange(length)[None]
    save_file(old, tmp_path / "model.safetensors")
    settings = json.loads((tmp_path / "config.json").read_text())
    for part in ("text", "vision"):
        settings[f"{part}_config_dict"] = settings.pop(f"{part}_config")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    again = clip.read(tmp_path)
    assert again.network == found.network
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(found.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("end", [END, 2])
def test_weights_written_load_back_into_transformers(end, tmp_path):
    found = clip.read(saved(random_model(end=end), tmp_path / "theirs"))
    clip.write(tmp_path / "ours", found, start=START, end=END)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back, report = CLIPModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    x, text, mask = examples()
    np.testing.assert_allclose(ours(found, x, text, mask), theirs(back.eval(), x, text, mask), atol=1e-4)


class Residual(torch.nn.Module):
    """A block under open_clip's names."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attn = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = torch.nn.ModuleDict(
            {"c_fc": torch.nn.Linear(width, hidden), "c_proj": torch.nn.Linear(hidden, width)}
        )

    def forward(self, x, mask=None):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, need_weights=False, attn_mask=mask)[0]
        h = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](torch.nn.functional.gelu(h))


class Tower(torch.nn.Module):
    def __init__(self, width, heads, hidden, depth):
        super().__init__()
        self.resblocks = torch.nn.ModuleList([Residual(width, heads, hidden) for _ in range(depth)])

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 48, 4, 4, bias=False)
        self.class_embedding = torch.nn.Parameter(torch.zeros(48))
        self.positional_embedding = torch.nn.Parameter(torch.zeros(17, 48))
        self.ln_pre, self.ln_post = torch.nn.LayerNorm(48), torch.nn.LayerNorm(48)
        self.transformer = Tower(48, 4, 192, 2)
        self.proj = torch.nn.Parameter(torch.zeros(48, 24))

    def forward(self, x):
        h = self.conv1(x).flatten(2).mT
        h = torch.cat([self.class_embedding.expand(len(h), 1, -1), h], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(h))[:, 0]) @ self.proj


class OpenCLIP(torch.nn.Module):
    """The state dict and the forward pass of open_clip's `CLIP` with a vision transformer."""

    def __init__(self):
        super().__init__()
        self.visual, self.transformer = Visual(), Tower(32, 4, 128, 2)
        self.token_embedding = torch.nn.Embedding(97, 32)
        self.positional_embedding = torch.nn.Parameter(torch.zeros(WINDOW, 32))
        self.ln_final = torch.nn.LayerNorm(32)
        self.text_projection = torch.nn.Parameter(torch.zeros(32, 24))
        self.logit_scale, self.logit_bias = torch.nn.Parameter(torch.zeros(())), torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, text):
        hidden = torch.full((WINDOW, WINDOW), float("-inf")).triu(1)
        h = self.ln_final(self.transformer(self.token_embedding(text) + self.positional_embedding, hidden))
        texts = h[torch.arange(len(text)), text.argmax(dim=1)] @ self.text_projection
        images, texts = (torch.nn.functional.normalize(a, dim=-1) for a in (self.visual(x), texts))
        return self.logit_scale.exp() * images @ texts.T + self.logit_bias


def test_open_clips_state_dict_goes_in_and_out(tmp_path):
    torch.manual_seed(0)
    model = OpenCLIP().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.randn_like(p) * 0.15 + (1.0 if "ln_" in name and "weight" in name else 0.0))
    save_file(dict(model.state_dict()), tmp_path / "open_clip_model.safetensors")
    settings = {
        "embed_dim": 24, "vision_cfg": {"layers": 2, "width": 48, "head_width": 12, "patch_size": 4, "image_size": 16},
        "text_cfg": {"context_length": WINDOW, "vocab_size": 97, "width": 32, "heads": 4, "layers": 2},
    }  # fmt: skip
    pixels = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": settings, "preprocess_cfg": pixels}))
    found = clip.read(tmp_path)
    assert (found.mean, found.deviation) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    x, text, mask = examples()
    with torch.no_grad():
        expected = model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(text).long()).numpy()
    np.testing.assert_allclose(ours(found, x, text, mask), expected, atol=1e-4)
    clip.write(tmp_path / "again", found, "open_clip")
    model.load_state_dict(load_file(tmp_path / "again" / "open_clip_model.safetensors"), strict=True)
    with torch.no_grad():
        again = model(torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(text).long()).numpy()
    np.testing.assert_array_equal(again, expected)
    assert clip.read(tmp_path / "again").network == found.network
    with pytest.raises(UserError, match="CLIPModel lacks: choose open_clip"):
        clip.write(tmp_path / "other", found)
