"""Checkpoints that training programs of others save by torch.save, an optimizer beside the network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jaxgen.weights import torch_file  # noqa: E402


@pytest.mark.parametrize("part", torch_file.PARTS)
def test_the_network_of_a_training_checkpoint_is_read(part, tmp_path):
    """Regression: optimizers number their parameters, and files of such dicts were called damaged."""
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    groups = [{"params": [p for p in net.parameters() if (p.dim() > 1) is matrix]} for matrix in (True, False)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    net(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    others = {"model_args": {"n_layer": 2, "bias": False, "vocab_size": None}, "best_val_loss": torch.tensor(1.5)}
    saved = {part: net.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": 10, **others}
    torch.save(saved, tmp_path / "ckpt.pt")
    found = torch_file.read(tmp_path / "ckpt.pt")
    assert found.keys() == net.state_dict().keys()
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(found[name], value.numpy())
