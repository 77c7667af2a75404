"""The benchmarks run and write every field; no test here looks at a time."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import lossless
import pixelcnn_sampling
import pytest
import sample
import train
from conftest import EXPERIMENTS

from jaxgen.core.flops import flops
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.train import loop


def results(path: Path, kind: str) -> list[dict]:
    """The rows of a file, its provenance checked."""
    written = json.loads(path.read_text())
    assert written["benchmark"] == kind
    provenance = written["provenance"]
    for name in ("started", "command", "devices", "platform", "processor", "cores"):
        assert provenance[name], name
    assert {"python", "jax", "jaxlib", "flax"} <= {name for name, value in provenance["versions"].items() if value}
    assert provenance["git"] is None or set(provenance["git"]) == {"commit", "dirty"}
    assert provenance["matmul_flops"] > 0
    return written["results"]


def check_row(row: dict, times: str, sides: set[str]) -> None:
    """Every number of a row is finite and positive, and every side was timed."""
    assert set(row[times]) == sides
    for side in row[times].values():
        assert 0 < side["low"] <= side["median"] <= side["high"] < math.inf
    numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
    assert len(numbers) > 10
    for name, value in numbers.items():
        assert 0 < value < math.inf, name


def test_train(tmp_path):
    out = tmp_path / "train.json"
    train.main(["vae", "mlp3", "--calls", "1", "--out", str(out)])
    rows = results(out, "train")
    assert [row["name"] for row in rows] == ["vae", "mlp3"]
    for row in rows:
        check_row(row, "ms_per_step", {"fused", "unfused"})
        assert row["peer"] == "no peer"
        assert row["peer_ratio"] is None


def test_sample(tmp_path):
    out = tmp_path / "sample.json"
    sample.main(["vae", "--calls", "1", "--num", "4", "--out", str(out)])
    (row,) = results(out, "sample")
    check_row(row, "ms_per_batch", {"ours"})
    assert row["evaluations"] == 1


def test_peer_is_timed_beside(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import peers

    monkeypatch.setattr(peers, "cannot_compile", lambda: "takes minutes")
    train.main(["vae", "--calls", "1", "--peer", "--out", str(tmp_path / "train.json")])
    (row,) = results(tmp_path / "train.json", "train")
    check_row(row, "ms_per_step", {"fused", "unfused", "torch contiguous"})
    assert row["peer"] == "torch contiguous" and row["compiled"] == "takes minutes"
    sample.main(["vae", "--calls", "1", "--peer", "--num", "4", "--out", str(tmp_path / "sample.json")])
    (row,) = results(tmp_path / "sample.json", "sample")
    check_row(row, "ms_per_batch", {"ours", "torch contiguous"})


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of torch's own
def test_a_compiled_peer_is_timed_beside(tmp_path, monkeypatch):
    """The same step, or the reason why torch.compile does not work here."""
    pytest.importorskip("torch")
    import peers

    train.main(["mlp3", "--calls", "1", "--peer", "--out", str(tmp_path / "train.json")])
    (row,) = results(tmp_path / "train.json", "train")
    if row["compiled_ratio"] is None:
        pytest.skip(row["compiled"])
    assert row["compiled"] == "torch.compile contiguous" and row["compiled"] in row["ms_per_step"]
    monkeypatch.setenv("CXX", "none")
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    assert "C++ compiler" in peers.cannot_compile()
    sides = {}
    monkeypatch.setattr(peers, "cannot_compile", lambda: "")

    def broken():
        raise RuntimeError("of the\ncompiler")

    assert train.common.tried("case", "side", sides, lambda: broken) == "RuntimeError: of the compiler" and not sides


@pytest.mark.slow
def test_batches_cut_among_devices(tmp_path):
    train.main(["vae", "--calls", "1", "--devices", "2", "--out", str(tmp_path / "train.json")])
    sample.main(["vae", "--calls", "1", "--devices", "2", "--num", "4", "--out", str(tmp_path / "sample.json")])
    (trained,), (sampled,) = results(tmp_path / "train.json", "train"), results(tmp_path / "sample.json", "sample")
    assert trained["devices"] == sampled["devices"] == 2
    with pytest.raises(UserError, match="divisor of the batch size"):
        sample.main(["vae", "--devices", "2", "--num", "3"])


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean vae"):
        train.main(["vea"])
    with pytest.raises(UserError, match="no preset 'smok'"):
        sample.main(["vae", "--preset", "smok"])


def test_flops_of_products_and_loops():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert flops(jnp.matmul, a, b) == 2 * 3 * 4 * 5
    assert flops(jax.jit(lambda a: jax.lax.scan(lambda c, _: (c @ c, None), a, length=7)[0]), b[:, :4]) == (
        7 * 2 * 4**3
    )


@pytest.mark.parametrize(
    "stride, pad, lhs_dilation, rhs_dilation", [(1, 1, 1, 1), (2, 0, 1, 1), (1, 2, 2, 1), (1, 1, 1, 2)]
)
def test_flops_of_convolutions(stride, pad, lhs_dilation, rhs_dilation):
    """Against a count of the products by a convolution of ones."""
    x, kernel = jnp.ones((2, 7, 6, 3)), jnp.ones((3, 3, 3, 4))

    def run(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), [(pad, pad)] * 2, (lhs_dilation,) * 2, (rhs_dilation,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip

    assert flops(run, x, kernel) == 2 * float(jnp.sum(run(x, kernel)))


@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_of_grouped_convolutions_cost_what_they_do(groups):
    """That of the kernel as much as the convolution: each product of an input and an output once."""
    x, kernel = jnp.ones((2, 10, 10, 8)), jnp.ones((3, 3, 8 // groups, 16))

    def loss(kernel):
        sizes = {"feature_group_count": groups, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jnp.sum(jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", **sizes))

    forward = 2 * 2 * 8 * 8 * 9 * (8 // groups) * 16
    assert flops(loss, kernel) == forward
    assert flops(jax.value_and_grad(loss), kernel) == 2 * forward


@pytest.mark.slow
def test_pixelcnn_sampling(tmp_path):
    out = tmp_path / "pixelcnn.json"
    pixelcnn_sampling.main(["pixelcnn", "--preset", "smoke", "--num", "2", "--out", str(out)])
    (row,) = results(out, "pixelcnn sampling")
    assert row["different"] == 0
    # 64 pixels, each of which costs the naive sampler the whole image.
    assert 30 < row["flops_ratio"] < 70
    assert set(row["ms_per_batch"]) == {"cached", "naive"} and row["ratio"] > 0
    with pytest.raises(UserError, match="a PixelCNN is expected"):
        pixelcnn_sampling.main(["vae", "--preset", "smoke"])


@pytest.mark.slow
def test_compression(tmp_path):
    """Of a conditional model of two levels, whose file is as long as it says."""
    loop.train(presets(EXPERIMENTS["pixelcnn"])["smoke"], tmp_path / "run")
    out = tmp_path / "lossless.json"
    lossless.main([str(tmp_path / "run"), "--num", "5", "--out", str(out)])
    (row,) = results(out, "compression")
    assert row["levels"] == 2 and row["images"] == 5
    assert 0 < row["bytes"] - row["model_bits_per_dim"] * 5 * 64 / 8 < 60  # the head, classes, the coder's last state
    assert row["png_bytes"] > row["png_sheet_bytes"] > 60
    with pytest.raises(UserError, match="num is 9999"):
        lossless.main([str(tmp_path / "run"), "--num", "9999", "--out", str(out)])
