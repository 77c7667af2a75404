"""HiFi-GAN's networks beside PyTorch restatements in the published layout: outputs, gradients, weights in and out."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.numpy import save_file  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils.parametrizations import weight_norm  # noqa: E402

from jaxgen.nets.hifigan import Generator, WaveCritic  # noqa: E402
from jaxgen.ops.audio import Mel  # noqa: E402
from jaxgen.weights import hifigan  # noqa: E402

torch.set_num_threads(1)
TYPE_1 = Generator(
    bands=5, channels=16, rates=(4, 3, 2), up_sizes=(8, 5, 4), sizes=(3, 7), dilations=((1, 3, 5), (1, 2))
)
TYPE_2 = replace(TYPE_1, rates=(8, 2), up_sizes=(16, 2), sizes=(3, 5), dilations=((1, 2), (3, 12)), twice=False)
CRITIC = WaveCritic(
    periods=(2, 3, 5), period_widths=(3, 4), scales=3, scale_widths=(4, 8, 8, 6), scale_sizes=(5, 9, 9, 3),
    scale_strides=(1, 2, 4, 1), scale_groups=(1, 2, 4, 1),
)  # fmt: skip


class Block(torch.nn.Module):
    def __init__(self, channels, size, dilations, twice):
        super().__init__()

        def conv(dilation):
            pad = dilation * (size - 1) // 2
            return weight_norm(torch.nn.Conv1d(channels, channels, size, dilation=dilation, padding=pad))

        first = torch.nn.ModuleList([conv(d) for d in dilations])
        self.twice = twice
        if twice:
            self.convs1, self.convs2 = first, torch.nn.ModuleList([conv(1) for _ in dilations])
        else:
            self.convs = first

    def forward(self, x):
        for i, conv in enumerate(self.convs1 if self.twice else self.convs):
            h = conv(F.leaky_relu(x, 0.1))
            x = x + (self.convs2[i](F.leaky_relu(h, 0.1)) if self.twice else h)
        return x


class Theirs(torch.nn.Module):
    def __init__(self, ours: Generator):
        super().__init__()
        self.conv_pre = weight_norm(torch.nn.Conv1d(ours.bands, ours.channels, 7, padding=3))
        self.ups, self.resblocks, self.blocks = torch.nn.ModuleList(), torch.nn.ModuleList(), len(ours.sizes)
        width = ours.channels
        for rate, size in zip(ours.rates, ours.up_sizes):
            up = torch.nn.ConvTranspose1d(width, width // 2, size, rate, padding=(size - rate) // 2)
            self.ups.append(weight_norm(up))
            width //= 2
            for kernel, dilations in zip(ours.sizes, ours.dilations):
                self.resblocks.append(Block(width, kernel, dilations, ours.twice))
        self.conv_post = weight_norm(torch.nn.Conv1d(width, 1, 7, padding=3))

    def forward(self, mel):
        x = self.conv_pre(mel)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, 0.1))
            some = self.resblocks[i * self.blocks : (i + 1) * self.blocks]
            x = torch.stack([block(x) for block in some]).mean(0)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_theirs(network: Generator) -> Theirs:
    """Every gain and direction random, so that norms count."""
    model = Theirs(network)
    for i, p in enumerate(model.parameters()):
        with torch.no_grad():
            p.copy_(torch.tensor(normal(*p.shape, seed=100 + i)) * 0.3 + (0.8 if p.shape[1:] == (1, 1) else 0.0))
    return model


def published(state) -> dict[str, np.ndarray]:
    """Tensors under the names of the published files."""
    names = {ours: later for later, ours in hifigan.LATER.items()}
    out = {}
    for name, array in state.items():
        for ours, later in names.items():
            name = name.replace(later, ours)
        out[name] = array.detach().numpy().copy()
    return out


def write_config(folder, network: Generator):
    mel = Mel(bands=network.bands, hop=network.hop, n_fft=64, window=64)
    (folder / "config.json").write_text(json.dumps(hifigan.config_of(network, mel)))
    return mel


@pytest.mark.parametrize("network", [TYPE_1, TYPE_2], ids=["type 1", "type 2"])
def test_generator(network, tmp_path):
    """Waveforms, and the gradients of all parameters, to 1e-4 of the largest."""
    theirs = random_theirs(network)
    write_config(tmp_path, network)
    torch.save({"generator": {n: torch.tensor(a) for n, a in published(theirs.state_dict()).items()}}, tmp_path / "g_1")
    read, params, _ = hifigan.read(tmp_path / "g_1")
    assert read == network
    mel, weight = normal(2, 9, 5), normal(2, 9 * network.hop, seed=1)

    def value(params):
        x = network.apply({"params": params}, mel)
        return jnp.sum(x * weight), x

    (_, x), grads = jax.jit(jax.value_and_grad(value, has_aux=True))(params)
    answer = theirs(torch.tensor(mel).transpose(1, 2))[:, 0]
    (answer * torch.tensor(weight)).sum().backward()
    answer = answer.detach().numpy()
    assert answer.std() > 0.1
    np.testing.assert_allclose(x, answer, atol=1e-4)
    expected = published({name: p.grad for name, p in theirs.named_parameters()})
    ours = hifigan.tensors_of(grads)
    assert ours.keys() == expected.keys()
    for name, grad in expected.items():
        np.testing.assert_allclose(ours[name], grad, atol=1e-4 * np.abs(grad).max() + 1e-6, err_msg=name)


def test_weights_go_out_as_they_came(tmp_path):
    """To the bit, in both layouts of weight normalization; where it was removed, the same waveforms."""
    theirs = random_theirs(TYPE_1)
    mel = write_config(tmp_path, TYPE_1)
    before, later = published(theirs.state_dict()), theirs.state_dict()
    files = {"a": before, "b": {name: array.numpy().copy() for name, array in later.items()}}
    files["c"] = {f"generator.{name}": array for name, array in before.items()}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        network, params, read_mel = hifigan.read(tmp_path / f"{name}.safetensors")
        assert network == TYPE_1 and read_mel == mel
        after = hifigan.tensors_of(params)
        assert after.keys() == before.keys() and all(np.array_equal(after[n], before[n]) for n in before)
    folded = {name: array for name, array in before.items() if name.endswith("bias")}
    for name in (name.removesuffix("_v") for name in before if name.endswith("weight_v")):
        v = before[f"{name}_v"]
        folded[name] = v * before[f"{name}_g"] / np.sqrt((v**2).sum((1, 2), keepdims=True))
    save_file(folded, tmp_path / "folded.safetensors")
    _, params, _ = hifigan.read(tmp_path / "folded.safetensors")
    x = jax.jit(TYPE_1.apply)({"params": params}, normal(1, 6, 5))
    with torch.no_grad():
        answer = theirs(torch.tensor(normal(1, 6, 5)).transpose(1, 2))[:, 0].numpy()
    np.testing.assert_allclose(x, answer, atol=1e-4)


def test_critics():
    """Logits and the outputs of all layers: 2-D convolutions with a width of one, grouped 1-D ones, means of four."""
    x = normal(2, 203)  # no multiple of any period
    variables = jax.jit(CRITIC.init)(jax.random.key(0), x)
    leaves, tree = jax.tree.flatten(variables["params"])
    params = jax.tree.unflatten(tree, [normal(*a.shape, seed=i) * 0.5 for i, a in enumerate(leaves)])
    spectral = {}
    answers, logits = [], []

    def weight_of(p, name):
        kernel = p["kernel"]
        matrix = kernel.reshape(-1, kernel.shape[-1])
        if "scale" not in p:
            _, sigma, right = np.linalg.svd(matrix, full_matrices=False)
            spectral.setdefault("scale_0", {})[name] = {"u": right[0].astype(np.float32)}
            kernel = kernel / sigma[0]
        else:
            kernel = p["scale"] * kernel / np.sqrt((matrix**2).sum(0))
        return torch.tensor(kernel.transpose(2, 1, 0).copy()), torch.tensor(p["bias"])

    for period in CRITIC.periods:
        layers = params[f"period_{period}"]
        h = F.pad(torch.tensor(x)[:, None], (0, -x.shape[1] % period), mode="reflect")
        h = h.reshape(2, 1, -1, period)
        for i, stride in enumerate((3, 3, 1)):
            weight, bias = weight_of(layers[f"convs_{i}"], f"convs_{i}")
            h = F.leaky_relu(F.conv2d(h, weight[..., None], bias, (stride, 1), (2, 0)), 0.1)
            answers.append(h.permute(0, 2, 3, 1))
        weight, bias = weight_of(layers["conv_post"], "conv_post")
        answers.append(F.conv2d(h, weight[..., None], bias, 1, (1, 0)).permute(0, 2, 3, 1))
        logits.append(answers[-1].reshape(2, -1))
    y = torch.tensor(x)[:, None]
    for scale in range(CRITIC.scales):
        layers, h = params[f"scale_{scale}"], y
        for i, (size, stride, groups) in enumerate(zip(CRITIC.scale_sizes, CRITIC.scale_strides, CRITIC.scale_groups)):
            weight, bias = weight_of(layers[f"convs_{i}"], f"convs_{i}")
            h = F.leaky_relu(F.conv1d(h, weight, bias, stride, size // 2, groups=groups), 0.1)
            answers.append(h.transpose(1, 2)[:, :, None])
        weight, bias = weight_of(layers["conv_post"], "conv_post")
        answers.append(F.conv1d(h, weight, bias, padding=1).transpose(1, 2)[:, :, None])
        logits.append(answers[-1].reshape(2, -1))
        y = F.avg_pool1d(y, 4, 2, padding=2)
    judged = jax.jit(CRITIC.apply)({"params": params, "spectral": spectral}, x)
    assert len(judged.features) == len(answers) and len(judged.logits) == len(logits)
    for ours, answer in zip((*judged.features, *judged.logits), (*answers, *logits)):
        answer = answer.numpy()
        np.testing.assert_allclose(ours, answer, atol=1e-4 * np.abs(answer).max())
