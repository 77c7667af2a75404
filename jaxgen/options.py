"""The flags of `jaxgen`'s commands."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Common:
    step: int = -1
    """Checkpoint to use; the newest when negative."""
    best: bool = False
    """Use the best checkpoint, of a run trained with --best."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder."""


@dataclass(frozen=True)
class SampleOptions(Common):
    num: int = 64
    seed: int = 0
    """Sample i of a seed is the same picture whatever `num` and `batch` are."""
    batch: int = 256
    """Samples computed at once."""
    cond: tuple[int, ...] = ()
    """Classes to sample, repeated to `num`; every class in turn when empty."""
    mesh: str = ""
    """Devices to sample on, as data=2; one when empty. Two on a CPU of two cores are nearly twice as fast."""
    image: str = ""
    """Of a diffusion model: a picture to vary (see strength) or, with mask, to fill in. Of PixelCNN: one to fill in. Of
    pix2pix: one of any size to translate, `num` times where dropout makes answers differ; they are also written as
    0.png, 1.png, ... Of StyleGAN: one to find the style of and vary that."""
    strength: float = 0.6
    """How far `image` is noised before it is sampled back, or its style moved to a sample's; 1 keeps nothing of it."""
    mask: str = ""
    """A picture of the same size, white where `image` is to be drawn anew. PixelCNN goes from the top to the bottom, so
    what it draws fits what is above it."""
    resample: int = 1
    """Times that each step of filling in is taken: more fit the parts together better."""
    between: int = 0
    """Of a diffusion model or StyleGAN: rows of this many pictures on the way between pairs of samples."""
    out: str = ""
    """Folder for samples.png and samples.safetensors; RUN/samples/SEED when empty."""


@dataclass(frozen=True)
class WriteOptions(Common):
    """Of a run of text. How tokens are drawn are fields of the model, as --run.model.decoding.temperature 0.7."""

    prompt: str | None = None
    """What to go on from; the first token of held-out text when None."""
    num: int = 1
    seed: int = 0
    """Sample i of a seed and prompt is the same text whatever `num` is."""
    tokens: int = 0
    """Tokens to write; the model's own number when 0."""
    out: str = ""
    """Folder for samples.txt; RUN/samples/SEED when empty."""


@dataclass(frozen=True)
class EvaluateOptions(Common):
    split: Literal["test", "train", "all"] = "test"
    limit: int = 0
    """Only the first so many examples; all when 0."""
    batch: int = 200
    seed: int = 0
    lpips: tuple[str, ...] = ()
    """Of a model that makes an image of an image: files of LPIPS weights, trunk and heads, that `jaxgen weights
    convert` wrote, to measure its answers by."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """What `lpips` are weights of."""
    metrics: str = ""
    """Scores of samples against real data instead, as fid,kid,is,prdc,memorization,classes; of a model of classes
    also asked, of a GAN also ppl."""
    num: int = 10_000
    """Samples to score."""
    weights: str = ""
    """Inception weights to score by, a file that `jaxgen weights convert inception` wrote."""
    resize: Literal["tf1", "clean"] = "tf1"
    """How Inception's images are resized: as the original did, or with antialiasing."""
    classifier: str = ""
    """Run of experiments/classifier.py to score by instead; the scores are named for it."""
    reference: Literal["train", "test", "all"] = "train"
    """Split that samples are compared with."""
    mesh: str = ""
    """Devices to compute on, as data=2; one when empty. Two on a CPU of two cores are nearly twice as fast."""
    of: Literal["samples", "train", "test", "all"] = "samples"
    """What is scored: samples of the run, or a split of its data, to see what real data gets."""


@dataclass(frozen=True)
class RenderOptions(Common):
    split: Literal["test", "train"] = "test"
    """Whose views are rendered and measured."""
    limit: int = 0
    """Only the first so many views; all when 0."""
    turntable: int = 0
    """Frames of turntable.gif, a film around the scene (of LLFF's and COLMAP's scenes, of a swaying look into it)."""
    size: int = 0
    """Width of its frames in pixels; that of the pictures when 0."""
    lattice: int = 0
    """Points a side of the lattice on which mesh.ply is found by marching cubes, for which scikit-image is needed; no
    mesh when 0."""
    level: float = 10.0
    """Density at which the mesh has its surface, per unit of the scene's length."""
    lpips: tuple[str, ...] = ()
    """Files of LPIPS weights, trunk and heads, that `jaxgen weights convert` wrote, to measure views by."""
    lpips_net: Literal["alex", "vgg"] = "alex"
    """What `lpips` are weights of."""
    out: str = ""
    """Folder for views, film and mesh; RUN/render when empty."""


@dataclass(frozen=True)
class ExportOptions(Common):
    platforms: tuple[Literal["cpu", "cuda", "tpu"], ...] = ("cpu", "cuda", "tpu")
    out: str = ""
    """Folder for what is written; RUN/export when empty."""


@dataclass(frozen=True)
class CompressOptions(Common):
    cond: tuple[int, ...] = ()
    """Of a conditional model: the class of each picture, or one for all."""
