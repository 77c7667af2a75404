"""A run of a tiny Stable Diffusion 1.x against diffusers' pipeline: pictures of the same noise, and folders written."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
from peers import stable_diffusion as tiny  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from jaxgen import __main__ as commands  # noqa: E402
from jaxgen import core  # noqa: E402
from jaxgen.errors import UserError  # noqa: E402
from jaxgen.inference import prompting  # noqa: E402
from jaxgen.inference.sampling import draw  # noqa: E402
from jaxgen.runs.folder import RunFolder  # noqa: E402
from jaxgen.runs.restore import restore  # noqa: E402
from jaxgen.runs.stable_diffusion import import_run  # noqa: E402

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
PROMPTS, NEGATIVE, STEPS, SCALE = ["a red dragon", "the sea at night"], "blurred, ugly", 8, 5.0
NAMES = ["ddim", "pndm", "euler", "dpm++"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sd")


@pytest.fixture(scope="module")
def theirs(folder):
    return tiny.pipeline(folder, layers_per_block=1, told=8)


@pytest.fixture(scope="module")
def run(theirs, folder):
    """The run of the pipeline's folder."""
    commands.call(["weights", "import-sd", str(folder / "sd"), str(folder / "run")])
    return folder / "run"


def noise(shape, seed=3):
    """What samples 0 and 1 of a seed start from, f32[2, *shape]."""
    return np.asarray(core.normal_each(core.fold_each(core.sample_keys(seed, 2), 0), shape))


def their_images(pipeline, name, size=(16, 16), **more):
    pipeline.scheduler = tiny.scheduler(name)
    latents = torch.tensor(noise((size[0] // 2, size[1] // 2, 4)).transpose(0, 3, 1, 2))
    settings = {"num_inference_steps": STEPS, "guidance_scale": SCALE, "height": size[0], "width": size[1],
                "negative_prompt": [NEGATIVE] * 2, "output_type": "np", **more}  # fmt: skip
    return pipeline(PROMPTS, latents=latents, **settings).images


def our_trained(run, name, **more):
    trained = restore(RunFolder(run))
    wanted = prompting.Drawing(guidance=SCALE, steps=STEPS, sampler=name, **more)
    trained = trained.to(prompting.drawing(trained.experiment, wanted))
    return prompting.resized(trained, *wanted.sides) if wanted.sides else trained


def our_images(trained, negative=NEGATIVE):
    """f32[2, H, W, 3] in [0, 1], not rounded, as diffusers' output_type np."""
    cond = prompting.conditions(trained, PROMPTS, 2, negative)
    z = jax.jit(trained.model.sample)(trained.state, core.sample_keys(3, 2), cond)
    return np.clip(np.asarray(trained.codec.unrounded(z)), 0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_theirs(name, theirs, run):
    expected = their_images(theirs, name)
    assert expected.std() > 0.1 and np.mean((expected > 0) & (expected < 1)) > 0.9
    np.testing.assert_allclose(our_images(our_trained(run, name)), expected, atol=1e-3)
    assert np.abs(their_images(theirs, name, negative_prompt=None) - expected).max() > 0.03


@pytest.mark.slow
def test_images_of_another_size_are_theirs(theirs, run):
    expected = their_images(theirs, "ddim", (16, 24))
    np.testing.assert_allclose(our_images(our_trained(run, "ddim", size="16x24")), expected, atol=1e-3)


def test_an_empty_negative_prompt_is_none(theirs, run):
    trained = our_trained(run, "ddim")
    np.testing.assert_allclose(our_images(trained, None), our_images(trained, ""), atol=1e-5)
    expected = their_images(theirs, "ddim", negative_prompt=None)
    np.testing.assert_allclose(our_images(trained, None), expected, atol=1e-3)


def test_a_negative_prompt_that_equals_the_prompt_undoes_guidance(run):
    trained = our_trained(run, "ddim")
    cond = prompting.conditions(trained, PROMPTS[:1], 2, PROMPTS[0])
    guided = draw(trained, 3, 2, cond)
    model = dataclasses.replace(trained.model, guidance=dataclasses.replace(trained.model.guidance, scale=1.0))
    plain = trained.to(dataclasses.replace(trained.experiment, model=model))
    away = prompting.conditions(trained, PROMPTS[:1], 2, NEGATIVE)
    only = {name: array for name, array in cond.items() if not name.startswith("negative")}
    unguided = draw(plain, 3, 2, only)
    assert np.abs(guided.astype(int) - unguided).max() <= 1
    assert np.abs(draw(trained, 3, 2, away).astype(int) - unguided).max() > 10


def test_the_first_stage_gives_latents_times_the_scale(theirs, run):
    trained = restore(RunFolder(run))
    z = noise((8, 8, 4))
    with torch.no_grad():
        expected = theirs.vae.decode(torch.tensor(z.transpose(0, 3, 1, 2)) / 0.18215).sample.numpy()
    expected = expected.transpose(0, 2, 3, 1) / 2 + 0.5
    np.testing.assert_allclose(trained.codec.unrounded(z), expected, atol=1e-4 * np.abs(expected).max())


def test_a_run_is_exported_to_what_diffusers_loads(theirs, run, tmp_path):
    commands.call(["weights", "export-sd", str(run), str(tmp_path / "out")])
    back = tiny.loaded(tmp_path / "out")
    np.testing.assert_array_equal(their_images(back, "pndm"), their_images(theirs, "pndm"))
    commands.call(["weights", "import-sd", str(tmp_path / "out"), str(tmp_path / "again")])
    again, before = restore(RunFolder(tmp_path / "again")), restore(RunFolder(run))
    for a, b in zip(
        jax.tree.leaves((again.state, again.codec)), jax.tree.leaves((before.state, before.codec)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_was_moved_has_its_first_stage_with_it(run, tmp_path):
    before = restore(RunFolder(run))
    shutil.copytree(run, tmp_path / "moved")
    run.rename(tmp_path / "away")
    try:
        moved = restore(RunFolder(tmp_path / "moved"))
        assert moved.experiment.codec.run == str(tmp_path / "moved" / "first_stage_run")
        assert moved.experiment.data.vocabulary == str(tmp_path / "moved" / "tokenizer")
        for a, b in zip(jax.tree.leaves(moved.codec), jax.tree.leaves(before.codec), strict=True):
            np.testing.assert_array_equal(a, b)
    finally:
        (tmp_path / "away").rename(run)
    # Where the first place is still there, it is kept.
    assert RunFolder(tmp_path / "moved").experiment().codec == before.experiment.codec


def sample(run, *flags):
    commands.call(["sample", str(run), "--out", str(run / "out"), "--steps", "4", *flags])
    return load_file(run / "out" / "samples.safetensors")["x"]


@pytest.mark.slow
def test_pictures_are_edited_from_the_command_line(run, tmp_path):
    """Nothing is to be redrawn: the picture. Strength 0: the round trip through the first stage."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    white = np.zeros((16, 16), np.uint8)
    Image.fromarray(white).save(tmp_path / "black.png")
    white[2:7, 4:8] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    flags = ("--prompt", "a red dragon", "--num", "2", "--image", str(tmp_path / "image.png"))
    kept = sample(run, *flags, "--mask", str(tmp_path / "black.png"))
    np.testing.assert_array_equal(kept, np.broadcast_to(pixels, kept.shape))
    filled = sample(run, *flags, "--mask", str(tmp_path / "mask.png"))
    same = np.all(filled == pixels, axis=-1)
    np.testing.assert_array_equal(same[:, white == 0], True)
    assert same[:, white > 0].mean() < 0.1
    still = sample(run, *flags, "--strength", "0")
    trained = restore(RunFolder(run))
    batch = trained.codec.encode({"x": pixels[None]}, jax.random.key(0))
    trip = np.asarray(trained.codec.decode(batch["x"])).astype(int)
    assert np.abs(still - trip).max() <= 1
    near, far = (np.abs(sample(run, *flags, "--strength", s).astype(int) - trip).mean() for s in ("0.25", "1"))
    assert near < far


def test_prompts_share_the_samples_and_are_cut(run, tmp_path, capsys):
    flags = ("--seed", "1", "--sampler", "euler-ancestral", "--guidance", "3")
    both = sample(run, "--prompt", "a red dragon", "--prompt", "a blue horse", "--num", "4", *flags)
    one = sample(run, "--prompt", "a red dragon", "--num", "2", *flags)
    assert np.abs(both[:2].astype(int) - one).max() <= 1
    assert np.abs(both[2:].astype(int) - sample(run, "--prompt", "a blue horse", "--num", "4", *flags)[2:]).max() <= 1
    (tmp_path / "prompts.txt").write_text("a red dragon\n\na blue horse\n")
    np.testing.assert_array_equal(both, sample(run, "--prompts", str(tmp_path / "prompts.txt"), "--num", "4", *flags))
    assert np.abs(both[0].astype(int) - both[2]).max() > 10
    assert "left out" not in capsys.readouterr().err
    sample(run, "--prompt", "red " * 75 + "dragon in the snow")
    assert capsys.readouterr().err.strip().endswith("left out: dragon in the snow")


@pytest.mark.parametrize(("flags", "words"), [
    (("--prompt", "a", "--size", "17x16"), "the size is 17x16: sides that divide by 2"),
    (("--prompt", "a", "--size", "big"), "size is 'big': HEIGHTxWIDTH"),
    (("--negative", "a"), "--negative was given without --prompt"),
    (("--prompt", "a", "--negative", "b", "--guidance", "1"), "--negative was given, but guidance leads away"),
    (("--prompt", "a", "--cond", "1"), "--prompt was given with --cond"),
    (("--prompt", "a", "--prompts", "b.txt"), "--prompt and --prompts were given"),
    (("--prompts", "b.txt"), "b.txt"),
    (("--cond", "1"), "--cond names classes"),
    (("--prompt", "a", "--sampler", "dim"), "dim"),
    (("--prompt", "a", "--guidance", "-1"), "guidance is -1"),
])  # fmt: skip
def test_wrong_flags_are_one_line(flags, words, run):
    with pytest.raises(UserError, match=words):
        sample(run, *flags)


def test_what_does_not_go_together_is_refused(theirs, run, folder, tmp_path):
    with pytest.raises(UserError, match="holds a run already"):
        import_run(folder / "sd", run)
    small = tiny.ClipBPE.train(tiny.TEXTS, 530)
    for file, text in small.write(tmp_path).items():
        file.write_text(text)
    with pytest.raises(UserError, match="the vocabulary has 530 tokens and ends texts with 529, the weights know 553"):
        import_run(folder / "sd", tmp_path / "run", tmp_path)
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match="is a pickle"):
        import_run(tmp_path / "model.ckpt", tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no vocab\.json with merges\.txt, tokenizer\.json or bpe_simple"):
        import_run(tmp_path / "empty", tmp_path / "run")
    assert not (tmp_path / "run").exists()
