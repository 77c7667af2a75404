"""Checkpoints that training programs of others save by torch.save, an optimizer beside the network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jaxgen.errors import UserError  # noqa: E402
from jaxgen.weights import gpt2, torch_file  # noqa: E402


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", torch_file.PARTS)
def test_the_network_of_a_training_checkpoint_is_read(part, zipped, tmp_path):
    """Regression: optimizers number their parameters, and files of such dicts were called damaged; in files of PyTorch
    before 1.6 an optimizer's storages lie among those of the network."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    groups = [{"params": [p for p in net.parameters() if (p.dim() > 1) is matrix]} for matrix in (True, False)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    others = {"model_args": {"n_layer": 2, "bias": False, "vocab_size": None}, "best_val_loss": torch.tensor(1.5)}
    saved = {part: net.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": 10, **others}
    torch.save(saved, tmp_path / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    found = torch_file.read(tmp_path / "ckpt.pt")
    assert found.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(found[name], value.numpy())
    assert torch_file.read_with_args(tmp_path / "ckpt.pt")[1] == others["model_args"]


def test_nanogpts_arguments_tell_its_heads(tmp_path):
    """128 channels in 4 heads, the exact GELU, names behind torch.compile's prefix."""
    width, depth = 128, 2
    tensors = {"wte.weight": (65, width), "wpe.weight": (64, width), "ln_f.weight": (width,)}
    for i in range(depth):
        tensors |= {
            f"h.{i}.ln_1.weight": (width,), f"h.{i}.ln_2.weight": (width,),
            f"h.{i}.attn.c_attn.weight": (3 * width, width), f"h.{i}.attn.c_proj.weight": (width, width),
            f"h.{i}.mlp.c_fc.weight": (4 * width, width), f"h.{i}.mlp.c_proj.weight": (width, 4 * width),
        }  # fmt: skip
    model = {f"_orig_mod.transformer.{name}": torch.randn(shape) for name, shape in tensors.items()}
    model["_orig_mod.lm_head.weight"] = model["_orig_mod.transformer.wte.weight"]
    args = {"n_layer": depth, "n_head": 4, "n_embd": width, "block_size": 64, "bias": False, "vocab_size": 65}
    torch.save({"model": model, "model_args": args, "iter_num": 2000}, tmp_path / "ckpt.pt")
    network = gpt2.network_of(tmp_path / "ckpt.pt")
    assert (network.body.heads, network.body.activation, network.body.bias) == (4, "gelu", False)
    params = gpt2.read(tmp_path / "ckpt.pt", network)
    kernel = model["_orig_mod.transformer.h.1.mlp.c_fc.weight"].numpy().T
    np.testing.assert_array_equal(params["body"]["blocks"]["token_mlp"]["up"]["kernel"][1], kernel)
    torch.save({"model": model, "iter_num": 2000}, tmp_path / "ckpt.pt")
    with pytest.raises(UserError, match="does not say n_head"):
        gpt2.network_of(tmp_path / "ckpt.pt")
