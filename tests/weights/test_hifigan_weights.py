"""HiFi-GAN's generator as a run and back, its sound, and files that are of none."""

import json
import shutil
import wave
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS
from messages import one_line
from safetensors.numpy import load_file, save_file

import jaxgen
from jaxgen.cli.sample import command as sample
from jaxgen.cli.weights import command as weights
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.inference.vocoding import check_vocoder, vocoded
from jaxgen.models.hifigan import HiFiGAN
from jaxgen.nets.hifigan import V1, V2, V3, Generator
from jaxgen.ops.audio import Mel, log_mel
from jaxgen.runs.restore import Trained, initial_state, open_run
from jaxgen.weights import hifigan

NETWORK = Generator(bands=8, channels=8, rates=(4, 4), up_sizes=(8, 8), sizes=(3,), dilations=((1, 3),), twice=False)
MEL = Mel(rate=4000, n_fft=64, hop=16, window=64, bands=8, high=2000.0)
SMOKE = presets(EXPERIMENTS["hifigan"])["smoke"]
MODEL: Any = SMOKE.model
PUBLISHED = {
    "resblock": "1", "num_gpus": 0, "batch_size": 16, "learning_rate": 0.0002, "adam_b1": 0.8, "adam_b2": 0.99,
    "lr_decay": 0.999, "seed": 1234, "upsample_rates": [8, 8, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 512, "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "segment_size": 8192, "num_mels": 80,
    "num_freq": 1025, "n_fft": 1024, "hop_size": 256, "win_size": 1024, "sampling_rate": 22050, "fmin": 0,
    "fmax": 8000, "fmax_for_loss": None, "num_workers": 4,
}  # fmt: skip
"""config_v1.json of the published code."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of a small generator with random weights."""
    folder = tmp_path_factory.mktemp("published")
    params = jax.jit(NETWORK.init)(jax.random.key(3), np.zeros((1, 4, 8), np.float32))["params"]
    save_file(hifigan.tensors_of(params), folder / "generator.safetensors")
    (folder / "config.json").write_text(json.dumps(hifigan.config_of(NETWORK, MEL)))
    return folder


def test_published_settings(tmp_path):
    """Those of V1, V2 and V3 are our values, and V1's tensors have the published names and shapes."""
    v3 = {
        "resblock": "2", "upsample_rates": [8, 8, 4], "upsample_kernel_sizes": [16, 16, 8],
        "upsample_initial_channel": 256, "resblock_kernel_sizes": [3, 5, 7],
        "resblock_dilation_sizes": [[1, 2], [2, 6], [3, 12]],
    }  # fmt: skip
    file = tmp_path / "config.json"
    for change, network in (({}, V1), ({"upsample_initial_channel": 128}, V2), (v3, V3)):
        file.write_text(json.dumps({**PUBLISHED, **change}))
        assert hifigan.read_config(file) == (network, Mel())
        again = json.loads(json.dumps(hifigan.config_of(network, Mel())))
        assert again.items() <= {**PUBLISHED, **change}.items()
    shapes = jax.eval_shape(V1.init, jax.random.key(0), np.zeros((1, 1, 80), np.float32))["params"]
    tensors = hifigan.tensors_of(jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), shapes))
    found = {name: tensors[name].shape for name in tensors}
    for name, shape in {
        "conv_pre.weight_v": (512, 80, 7), "conv_pre.weight_g": (512, 1, 1), "conv_pre.bias": (512,),
        "ups.0.weight_v": (512, 256, 16), "ups.0.weight_g": (512, 1, 1), "ups.3.bias": (32,),
        "resblocks.11.convs1.2.weight_v": (32, 32, 11), "resblocks.0.convs2.0.weight_g": (256, 1, 1),
        "conv_post.weight_v": (1, 32, 7), "conv_post.weight_g": (1, 1, 1),
    }.items():  # fmt: skip
        assert found[name] == shape, name
    assert len(found) == 3 * (1 + 4 + 12 * 6 + 1)
    assert sum(array.size for array in tensors.values()) == 13_936_130


def test_a_run_and_back(published, tmp_path, monkeypatch):
    """To the bit; its data are LJSpeech's, or tones here, where no package for speech is needed."""
    from jaxgen.data import Tones
    from jaxgen.runs import hifigan as runs

    monkeypatch.setattr(runs, "Spoken", lambda mel: Tones(mel=mel, num=30))
    monkeypatch.setattr(runs, "SEGMENT", 256)
    monkeypatch.setattr(runs, "CRITIC", MODEL.critic)
    out = tmp_path / "run"
    weights(["import-hifigan", str(published), str(out)])
    run = jaxgen.load(out)
    model = run.model
    assert run.step == 0 and isinstance(model, HiFiGAN) and model.generator == NETWORK and model.mel == MEL
    weights(["export-hifigan", str(out), str(tmp_path / "back")])
    before, after = (load_file(folder / "generator.safetensors") for folder in (published, tmp_path / "back"))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert hifigan.read_config(tmp_path / "back" / "config.json") == (NETWORK, MEL)
    sample([str(out), "--num", "2", "--out", str(tmp_path / "samples")])
    assert (tmp_path / "samples" / "samples.png").is_file()
    x = load_file(tmp_path / "samples" / "samples.safetensors")["x"]
    assert x.shape == (2, 512)
    with wave.open(str(tmp_path / "samples" / "1.wav")) as file:
        assert (file.getframerate(), file.getnframes()) == (4000, 512)
        levels = np.frombuffer(file.readframes(512), "<i2")
    np.testing.assert_allclose(levels / 32_768, x[1], atol=1 / 32_767)


@pytest.fixture(scope="module")
def vocoder(published) -> Trained:
    """The smoke preset with those weights."""
    experiment = replace(SMOKE, model=replace(MODEL, generator=NETWORK))
    state = initial_state(experiment, experiment.codec)
    params = hifigan.read(published / "generator.safetensors")[1]
    return Trained(experiment, experiment.codec, state.replace(params={**state.params, "gen": params}))


@pytest.mark.slow
def test_mels_of_speech_become_sound_at_its_place(vocoder):
    """A mel whose frame f is around sample f hop: half a hop less, and no influence of what it is padded with."""
    x = 0.3 * jnp.sin(jnp.arange(1000) / 5)
    frames = np.asarray(log_mel(x, MEL))
    assert len(frames) == 63
    sound = vocoded(vocoder, frames, MEL)
    assert sound.shape == (62 * 16,) and sound.dtype == np.float32
    whole = NETWORK.apply({"params": vocoder.state.params["gen"]}, frames[None])[0]
    np.testing.assert_allclose(sound, whole[8 : 8 + 62 * 16], atol=1e-6)


def test_a_vocoder_of_other_mels_is_refused(vocoder):
    check_vocoder(vocoder, MEL)
    with pytest.raises(UserError, match=r"reads mels of high 2000\.0, these have 1500\.0: choose a vocoder") as error:
        vocoded(vocoder, np.zeros((5, 8)), replace(MEL, high=1500.0))
    one_line(error)
    other = replace(vocoder.experiment, model=presets(EXPERIMENTS["vae"])["smoke"].model)
    with pytest.raises(UserError, match="VAE, which makes no sound of mels"):
        check_vocoder(replace(vocoder, experiment=other), MEL)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"resblock": 1}, "resblock 1: '1' or '2'"),
        ({"upsample_rates": [4, 5]}, "a kernel of 8 cannot upsample by 5"),
        ({"upsample_rates": "4"}, "rates is '4': a list"),
        ({"hop_size": 20}, "rates of 16 samples a frame and a hop of 20"),
        ({"num_mels": 9}, "conv_pre/conv/kernel is"),
        ({"num_mels": True}, "bands is True"),
        ({"upsample_initial_channel": 16}, "is expected: pass the file of that network"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "lacks resblocks_0/convs_2/conv"),
        ({"sampling_rate": "fast"}, "rate is 'fast'"),
        ({"fmax": 3000}, "low below high"),
    ],
)
def test_settings_that_are_not_of_the_file(published, tmp_path, change, words):
    shutil.copy(published / "generator.safetensors", tmp_path)
    settings = json.loads((published / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises(UserError, match=words) as error:
        hifigan.read(tmp_path / "generator.safetensors")
    one_line(error)


def test_files_that_are_no_generator(published, tmp_path):
    shutil.copy(published / "config.json", tmp_path)
    file, tensors = tmp_path / "generator.safetensors", load_file(published / "generator.safetensors")
    for change, words in (
        ({"mpd.0.weight": np.zeros(3, np.float32)}, "unknown mpd.0.weight: a generator of HiFi-GAN is expected"),
        ({"ups.0.bias": np.full(4, np.nan, np.float32)}, "not finite"),
        ({"ups.7.bias": np.zeros(4, np.float32)}, "has unknown ups_7/bias"),
        ({"ups.0.weight_v": np.zeros((8, 4), np.float32)}, "ups_0/kernel is"),
    ):
        save_file({**tensors, **change}, file)
        with pytest.raises(UserError, match=words) as error:
            hifigan.read(file)
        one_line(error)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json"):
        hifigan.read(file)
    with pytest.raises(UserError, match="hifigan takes --folder"):
        weights(["import-hifigan", str(file), str(tmp_path / "out"), "--size", "3"])


def test_other_runs_and_other_mels_do_not_go_out(tmp_path):
    experiment = presets(EXPERIMENTS["vae"])["smoke"]
    open_run(experiment, tmp_path / "vae", None, experiment.codec)
    with pytest.raises(UserError, match="is of VAE, a HiFiGAN is expected"):
        weights(["export-hifigan", str(tmp_path / "vae"), str(tmp_path / "out")])
    with pytest.raises(UserError, match="mels are of the scale htk"):
        hifigan.config_of(NETWORK, replace(MEL, scale="htk"))
