"""Feature networks and scores against torch-fidelity, lpips and scikit-image, with the same weights and images."""

import importlib.util
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("skimage")
for name in ("torch_fidelity", "lpips", "torchvision"):  # not imported yet: see `import_torchvision`
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}", allow_module_level=True)
from peers import inception as peer  # noqa: E402

from jaxgen import weights  # noqa: E402
from jaxgen.data import TFDS  # noqa: E402
from jaxgen.metrics import image  # noqa: E402
from jaxgen.metrics.features import Features  # noqa: E402
from jaxgen.metrics.fid import FID, Gaussian  # noqa: E402
from jaxgen.metrics.inception_score import inception_score  # noqa: E402
from jaxgen.metrics.kid import kid  # noqa: E402
from jaxgen.metrics.lpips import LPIPS  # noqa: E402
from jaxgen.metrics.prdc import prdc  # noqa: E402
from jaxgen.ops.resize import tf1_bilinear  # noqa: E402

# Its threads wait for each other by spinning: on cores shared with another test, a hundred times slower than one.
torch.set_num_threads(1)
peer.import_torchvision()

import lpips  # noqa: E402
from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

BATCH = 8


def close(ours, theirs, tolerance: float) -> None:
    """Equal to `tolerance` of the largest value there is, or of one where all are smaller."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * max(1.0, np.abs(theirs).max()))


def pictures(num: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8[num, height, width, 3] with structure at several scales."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (num, height // 4, width // 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """(our network, theirs) with the same random weights, ours through the converter."""
    folder = tmp_path_factory.mktemp("inception")
    peer.write_random_weights(folder / "random.pth", pictures(BATCH, 32, 24, 0))
    ours = Features(weights.convert("inception", folder / "random.pth", folder / "inception.safetensors"))
    return ours, peer.extractor(folder / "random.pth")


def both_features(inception, images: np.ndarray) -> tuple[list[np.ndarray], list[torch.Tensor]]:
    """(pool3, logits_unbiased, logits) of ours and of theirs."""
    ours, theirs = inception
    mine, other = [], []
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            batch = images[start : start + BATCH]
            found = ours(batch)
            mine.append([np.asarray(found[name]) for name in ("pool3", "logits_unbiased", "logits")])
            other.append(theirs(peer.to_torch(batch)))
    return [np.concatenate(parts) for parts in zip(*mine)], [torch.cat(parts) for parts in zip(*other)]


@pytest.fixture(scope="module")
def features(inception):
    """Both networks' outputs for two sets of images."""
    return both_features(inception, pictures(BATCH, 32, 24, 1)), both_features(inception, pictures(BATCH, 32, 24, 2))


@pytest.mark.slow
def test_inception_features(features):
    for ours, theirs in features:
        for mine, other in zip(ours, theirs):
            assert np.std(mine, axis=0).mean() > 0.05  # the images are told apart
            close(mine, other.numpy(), 1e-4)


def same_scores(ours, theirs, reference, their_reference, dims: int, splits: int, subset: int) -> None:
    """FID over the first `dims` features, IS, KID, precision and recall: ours of our features, theirs of theirs."""
    x, y = ours[0][:, :dims], reference[0][:, :dims]
    statistics = (fid_features_to_statistics(t[0][:, :dims]) for t in (theirs, their_reference))
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    metric = FID(dim=dims, reference=Gaussian.of(y))
    assert metric.compute(metric.update(metric.init(), x))["fid"] == pytest.approx(expected, rel=1e-3)

    expected = isc_features_to_metric(theirs[1], splits)
    found = inception_score(ours[1], splits)
    assert expected["inception_score_mean"] > 1.1
    assert found["is"] == pytest.approx(expected["inception_score_mean"], abs=1e-4)
    assert found["is_std"] == pytest.approx(expected["inception_score_std"], abs=1e-4)

    settings = {"kid_subsets": 10, "kid_subset_size": subset, "rng_seed": 2020, "verbose": False}
    expected = kid_features_to_metric(theirs[0], their_reference[0], **settings)
    found = kid(ours[0], reference[0], 10, subset)
    # Theirs are f32 sums of kernel values of this size.
    scale = float(np.mean((ours[0] @ ours[0].T / ours[0].shape[1] + 1) ** 3))
    assert found["kid"] == pytest.approx(expected["kernel_inception_distance_mean"], abs=1e-5 * scale)
    assert found["kid_std"] == pytest.approx(expected["kernel_inception_distance_std"], abs=1e-5 * scale)

    expected = prc_features_to_metric(theirs[0], their_reference[0], prc_neighborhood=3, verbose=False)
    found = prdc(ours[0], reference[0], 3)
    assert (found["precision"], found["recall"]) == pytest.approx((expected["precision"], expected["recall"]))


@pytest.mark.filterwarnings("ignore::jaxgen.metrics.inputs.SingularCovariance")
def test_scores(features):
    (ours, theirs), (reference, their_reference) = features
    same_scores(ours, theirs, reference, their_reference, dims=200, splits=2, subset=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxgen.metrics.inputs.SingularCovariance")
def test_scores_of_mnist(tmp_path, shared_data):
    """500 training digits against 500 test digits, at all 2048 features."""
    mnist = TFDS(name="mnist", data_dir=str(shared_data / "tfds"))
    train, test = (np.repeat(mnist.arrays(split)["x"][:500], 3, axis=3) for split in ("train", "test"))
    peer.write_random_weights(tmp_path / "random.pth", train[:32])
    ours = Features(weights.convert("inception", tmp_path / "random.pth", tmp_path / "inception.safetensors"))
    networks = ours, peer.extractor(tmp_path / "random.pth")
    pair, reference = both_features(networks, test), both_features(networks, train)
    for mine, other in zip(*pair):
        close(mine, other.numpy(), 1e-4)
    same_scores(*pair, *reference, dims=2048, splits=10, subset=250)


# --- other networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net, trunk, side", [("alex", "alexnet", 64), ("vgg", "vgg16", 48)])
def test_lpips(net, trunk, side, tmp_path):
    """A random trunk and the published heads."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks torchvision in a way that will go
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    parts = (name.split(".", 1)[1] for name in theirs.net.state_dict())
    torch.save(
        {f"features.{name}": value for name, value in zip(parts, theirs.net.state_dict().values())},
        tmp_path / "trunk.pth",
    )
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    ours = LPIPS(
        weights.convert(trunk, tmp_path / "trunk.pth", tmp_path / "trunk.safetensors"),
        weights.convert(f"lpips_{net}", heads, tmp_path / "heads.safetensors"),
    )
    assert ours.provenance["heads"]["published"]
    assert not ours.provenance["trunk"]["published"]

    x, y = pictures(3, side, side + 20, 0), pictures(3, side, side + 20, 1)
    y[2] = x[2]
    with torch.no_grad():
        expected = theirs(*(peer.to_torch(a).float() / 127.5 - 1 for a in (x, y))).flatten().numpy()
    found = np.asarray(ours(x, y))
    assert expected[:2].min() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_vgg16_features(tmp_path):
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
    from torchvision.models import vgg16

    torch.manual_seed(0)
    torch.save(vgg16().state_dict(), tmp_path / "vgg16.pth")
    theirs = FeatureExtractorVGG16("vgg16", ["fc2_relu"], feature_extractor_weights_path=str(tmp_path / "vgg16.pth"))
    ours = Features(weights.convert("vgg16_fc2", tmp_path / "vgg16.pth", tmp_path / "vgg16.safetensors"))
    images = pictures(3, 32, 40, 0)
    with torch.no_grad():
        (expected,) = theirs(peer.to_torch(images))
    close(ours(images)["fc2"], expected.numpy(), 1e-4)


@pytest.mark.slow
def test_benchmark(tmp_path):
    import inception as benchmark

    benchmark.main(["--batch", "2", "--calls", "1", "--devices", "2", "--out", str(tmp_path / "inception.json")])
    (row,) = json.loads((tmp_path / "inception.json").read_text())["results"]
    assert set(row["ms_per_batch"]) == {"ours", "torch contiguous", "torch channels_last"}
    assert row["largest_difference"] < 1e-3
    assert row["peer_ratio"] > 0
    assert row["flops_per_batch"] == pytest.approx(2 * 11.4e9, rel=0.05)


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(32, 32), (28, 40), (400, 310)])
def test_tf1_resize(height, width):
    x = pictures(1, height, width, 0).astype(np.float32)
    with torch.no_grad():
        size = (299, 299)
        theirs = interpolate_bilinear_2d_like_tensorflow1x(torch.tensor(x).movedim(-1, 1), size, align_corners=False)
    np.testing.assert_allclose(tf1_bilinear(x, 299), theirs.movedim(1, -1), rtol=0, atol=1e-4)


def test_psnr_and_ssim():
    x = pictures(5, 48, 36, 0)
    noise = np.random.default_rng(1).normal(0, 1, x.shape) * np.array([1, 5, 20, 80, 0]).reshape(5, 1, 1, 1)
    y = np.clip(x + noise, 0, 255).astype(np.uint8)
    y[4], x[3] = 255 - x[4], 7  # the opposite picture; a flat one
    ours = [image.psnr(x, y), image.ssim(x, y), image.ssim(x, y, gaussian=False)]
    published = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    theirs = [
        [peak_signal_noise_ratio(a, b) for a, b in zip(x, y)],
        [structural_similarity(a, b, channel_axis=-1, **published) for a, b in zip(x, y)],
        [structural_similarity(a, b, channel_axis=-1) for a, b in zip(x, y)],
    ]
    for mine, other in zip(ours, theirs):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-6)
    assert np.min(theirs[1]) < 0 < 0.9 < np.max(theirs[1])
