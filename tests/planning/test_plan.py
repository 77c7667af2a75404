"""Plans for accelerators that are not here: machines, the traffic of a program's text, programs compiled for both."""

import dataclasses
import functools
import importlib.util
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import EXPERIMENTS, ROOT

from jaxgen import __main__ as commands
from jaxgen import core
from jaxgen.core.compiled import abstract_state
from jaxgen.core.mesh import Layout
from jaxgen.errors import UserError
from jaxgen.experiment import presets
from jaxgen.planning.compiling import Target
from jaxgen.planning.machines import CHIPS, Chip, Machine, machine, target_config
from jaxgen.planning.plan import ROOM, meshes, on_all, plan
from jaxgen.planning.search import search
from jaxgen.planning.shapes import raw_batch
from jaxgen.planning.traffic import Exchange, nbytes, traffic


def smoke(name):
    return presets(EXPERIMENTS[name])["smoke"]


def test_machines_are_read_and_named():
    assert machine("h100").count == 1
    assert str(machine("h100:16")) == "h100:16"
    assert machine("v5e:4x4").count == 16
    assert machine("v5e:16") == machine("v5e:4x4")
    assert machine("v5p:2x2x2").shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("h10", "did you mean h100"),
        ("h100:12", "h100:16"),
        ("h100:512", "h100:256"),
        ("h100:many", "a number is expected"),
        ("v5e:3x5", "the nearest is v5e:4x4"),
        ("v5e:0x4", "a number is expected"),
        ("v5p:4x4", "the nearest is v5p:2x2x4"),
    ],
)
def test_what_is_not_sold_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        machine(given)


def test_links_between_hosts_are_slower():
    assert machine("h100:16").link(8) == CHIPS["h100"].link > machine("h100:16").link(16)
    assert machine("v5e:4x4").link(16) == CHIPS["v5e"].link


def test_every_mesh_of_a_count_is_there_once():
    found = [tuple(mesh.values()) for mesh in meshes(8)]
    assert len(found) == len(set(found)) == 10
    assert all(math.prod(sizes) == 8 for sizes in found)


def test_a_mesh_of_another_size_is_refused():
    experiment = dataclasses.replace(smoke("vae"), mesh="data=2,fsdp=2")
    with pytest.raises(UserError, match=r"the nearest is data=(4,fsdp=2|2,fsdp=4)$"):
        on_all(experiment, machine("h100:8"))
    assert on_all(smoke("vae"), machine("h100:4")).mesh == "data=4"


# --- the text of programs ---


def test_sizes_are_read_from_shapes():
    assert nbytes("f32[8,16]{1,0}") == 512
    assert nbytes("(bf16[3]{0:T(256)}, s4[2], pred[5], f8e4m3fn[7])") == 6 + 1 + 5 + 7
    assert nbytes("f32[]") == 4
    near = "(f32[2]{0:T(128)S(1)}, f32[3]{0})"
    assert nbytes(near) == 20
    assert nbytes(near, on_chip=False) == 12


def test_a_loops_body_is_counted_each_turn():
    """A scan of T steps reads one of T matrices in each: T matrices in all, and not T times all of them."""
    turns, size = 16, 128

    def program(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.sin(x @ kernel), None), x, kernels)[0]

    x, kernels = jnp.zeros((size, size)), jnp.zeros((turns, size, size))
    text = jax.jit(program).lower(x, kernels).compile().as_text()
    moved, one = traffic(text).moved, 4 * size * size
    # Each turn: reads x and a kernel, writes x; a copy or two more of each.
    assert 3 * turns * one <= moved <= 8 * turns * one


def test_exchanges_are_those_of_a_ring():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("d",), ()))

    @functools.partial(jax.jit, out_shardings=(whole, whole))
    def program(x, y):
        return jnp.sin(x), jnp.sum(jnp.cos(y), axis=0)

    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=split)
    found = {e.kind: e for e in traffic(program.lower(x, x).compile().as_text()).exchanges}
    assert found["all-gather"] == Exchange("all-gather", 4, 4, 1, 64 * 32 * 4 * 3 / 4)
    assert found["all-reduce"] == Exchange("all-reduce", 4, 4, 1, 2 * 32 * 4 * 3 / 4)


def test_groups_are_read_as_each_compiler_writes_them():
    def program(groups):
        return (
            "HloModule m\n\nENTRY %main (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
            f"  ROOT %r = f32[8]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add\n}}\n"
        )

    for groups, span in (
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,4]<=[8]", 4),
        ("[2,4]<=[4,2]T(1,0)", 7),
        ("mesh['a'=2,'b'=4] {'b'}", 4),
        ("mesh['a'=4,'b'=2] {'a'}", 7),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 4),
    ):
        assert traffic(program(groups)).exchanges == (Exchange("all-reduce", 4, span, 1, 2 * 32 * 3 / 4),), groups


def test_two_devices_of_two_hosts_are_not_joined_by_their_hosts_links():
    text = (
        "HloModule m\n\nENTRY %main (p: f32[8]) -> f32[8] {\n  %p = f32[8]{0} parameter(0)\n"
        "  ROOT %r = f32[8]{0} collective-permute(%p), channel_id=1, source_target_pairs={{0,8},{8,0}}\n}\n"
    )
    (found,) = traffic(text).exchanges
    assert found == Exchange("collective-permute", 2, 9, 1, 32)
    assert machine("h100:16").link(found.span) < machine("h100:16").link(8)


def test_what_a_start_reads_is_counted_once():
    """A copy into a TPU's vector memory reads its source from main memory; the result lies beside the cores."""
    text = (
        "HloModule m\n\nENTRY %main (p: f32[64]) -> f32[64] {\n  %p = f32[64]{0} parameter(0)\n"
        "  %start = (f32[64]{0:S(1)}, f32[64]{0}, u32[]{:S(1)}) copy-start(%p)\n"
        "  ROOT %done = f32[64]{0:S(1)} copy-done(%start)\n}\n"
    )
    assert traffic(text).moved == 256


# --- experiments without their data ---


@pytest.mark.parametrize(("script", "preset"), [("gpt", "gpt2"), ("ddpm", "cifar10"), ("text_to_image", "sd15"),
                                                ("tacotron2", "ljspeech"), ("nerf", "blender"), ("pix2pix", "folder"),
                                                ("vit_vqgan_prior", "imagenet"), ("hifigan", "ljspeech"),
                                                ("wavenet", "digits"), ("diffwave", "ljspeech")])  # fmt: skip
def test_shapes_are_told_without_data(script, preset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    experiment = presets(EXPERIMENTS[script])[preset]
    batch, codec, notes = raw_batch(experiment)
    assert {len(spec.shape) and spec.shape[0] for spec in batch.values()} == {experiment.batch_size}
    state = abstract_state(experiment.compute_model, batch, codec)
    if script in ("tacotron2", "hifigan", "wavenet", "diffwave"):  # whose names are of their own
        encoded = jax.eval_shape(lambda b: codec.encode(b, jax.random.key(0)), batch)
        jax.eval_shape(experiment.model.train_step, state, jax.random.key(0), encoded)
    assert state.params
    assert bool(notes) == (script in ("text_to_image", "vit_vqgan_prior"))


@pytest.mark.parametrize(
    "script", ["vae", "gpt", "pix2pix", "hifigan", "nerf", "clip", "tacotron2", "splats", "cyclegan"]
)
def test_the_shapes_told_are_those_of_the_data(script):
    experiment = smoke(script)
    batch, _, _ = raw_batch(experiment)
    real = experiment.data.batch_at(0, 0, experiment.batch_size)
    for name, array in real.items():
        assert batch[name].dtype == array.dtype
        assert len(batch[name].shape) == array.ndim, name
    if script not in ("tacotron2",):  # whose batches are padded to the clips in them
        assert {name: spec.shape for name, spec in batch.items()} == {name: a.shape for name, a in real.items()}


# --- compiled for machines ---


def test_a_gpu_is_described_to_xla():
    text = target_config(CHIPS["h100"])
    assert "core_count: 132" in text
    assert text.count("{") == text.count("}")


EXTRAS = {"h100": "jax_cuda13_plugin", "v5e:2x2": "libtpu"}


@pytest.mark.parametrize("on", EXTRAS)
def test_a_preset_is_planned(on, tmp_path):
    """In a process of its own, as the command line does it: the test's jax has started already."""
    extra = EXTRAS[on]
    if importlib.util.find_spec(extra) is None:
        pytest.skip(f"needs {extra}, of the extras plan-gpu and plan-tpu")
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "jaxgen", "plan", "vae", "smoke", "--on", on, "--samples", "8", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["fits"]
    train, sampler = found["programs"]["train"], found["programs"]["sample"]
    assert train["memory"]["aliased"] >= sum(found["state_of_a_device"].values())  # all of it in place
    assert 0 < train["bound"]["share_of_peak"] < 1
    assert sampler["memory"]["needed"] > 0
    assert ("all-reduce" in {e["kind"] for e in train["exchanges"]}) == (on == "v5e:2x2")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["vae", "smoke", "--out", "/dev/null/plan.json"], "cannot write to"),
        (["gpt"], "a script and a preset are expected"),
        (["gpt", "gtp2"], "did you mean gpt2"),
        (["gpt", "gpt2", "--on", "tpu"], "machine 'tpu' is unknown"),
        (["gpt", "gpt2", "--on", "h100:8", "--mesh", "data=4"], "mesh data=4 is of 4 devices"),
        (
            ["gpt", "gpt2_xl", "--on", "v5e:1"],
            "17.4 GiB on each of v5e:1x1, which has 15.8: choose --on v5e:2x2 --mesh fsdp=4",
        ),
    ],
)
def test_wrong_requests_are_one_line(args, words, monkeypatch):
    monkeypatch.setattr("jaxgen.planning.machines.Machine.devices", lambda self: jax.devices())
    monkeypatch.setattr("jaxgen.planning.machines.quiet", lambda: None)
    with pytest.raises(UserError, match=words):
        commands.call(["plan", *args])


@pytest.mark.skipif(any(map(importlib.util.find_spec, EXTRAS.values())), reason="the compilers are here")
def test_a_missing_compiler_says_what_to_install(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags := "--xla_cpu_enable_fast_math=false --xla_dump_to=")
    with pytest.raises(UserError, match=r"jaxgen\[plan-tpu\]"):
        machine("v5e:4x4").devices()
    assert os.environ["XLA_FLAGS"] == flags  # processes started later are compiled as this one


# --- compiled for the CPU, as if it were a machine ---


@pytest.fixture
def four(monkeypatch):
    """A machine of the test's four devices with so much memory each."""

    def made(memory):
        monkeypatch.setitem(CHIPS, "four", Chip("cpu", memory, 1e12, 1e12, 1e11, 1e10))  # pyright: ignore
        return Machine("four", (4,)), jax.devices()[:4]

    return made


def test_the_memory_planned_is_that_of_the_program_that_runs(four):
    experiment = smoke("vae")
    on, devices = four(1 << 30)
    planned = plan(dataclasses.replace(experiment, mesh="data=4"), on, devices).parts[0].program.memory
    layout = Layout.make("data=4", experiment.batch_size)
    raw = [experiment.data.batch_at(0, step, experiment.batch_size) for step in range(experiment.steps_per_call)]
    batches = layout.put(jax.tree.map(lambda *a: np.stack(a), *raw), layout.batch(1))
    state = core.init(experiment.model, core.run_key(0, core.INIT), raw[0], experiment.codec, layout)
    key = layout.put(core.run_key(0, core.TRAIN), layout.everywhere)
    lowered = core.train_steps.lower(experiment.model, state, key, batches, experiment.codec, None, False, layout)
    own = lowered.compile().memory_analysis()
    assert planned.arguments == own.argument_size_in_bytes
    assert planned.temporaries == own.temp_size_in_bytes
    assert planned.aliased == own.alias_size_in_bytes


@pytest.mark.slow
def test_search_finds_a_mesh_that_fits(four):
    experiment = smoke("gpt")
    on, devices = four(1 << 30)
    needed = {
        mesh: plan(dataclasses.replace(experiment, mesh=mesh), on, devices).parts[0].program.memory.needed
        for mesh in ("data=4", "fsdp=4")
    }
    assert needed["fsdp=4"] < needed["data=4"]
    on, devices = four(int((needed["data=4"] + needed["fsdp=4"]) / 2 / ROOM))
    said = []
    found = search(experiment, on, devices, "gpt", "smoke", said.append)
    assert found.fits
    assert found.experiment.mesh in ("fsdp=4", "data=2,fsdp=2")
    assert any(line.startswith("data=4") and "does not fit" in line for line in said)
    on, devices = four(1000)
    with pytest.raises(UserError, match="fits no mesh of four:4"):
        search(experiment, on, devices, "gpt", "smoke", said.append)


def test_a_product_without_a_tile_is_compiled_without_triton(monkeypatch):
    """Regression: four presets could not be planned, as kernels that cannot be tried out are not replaced."""
    asked = []

    class Lowered:
        def compile(self, compiler_options):
            asked.append(compiler_options)
            if len(asked) == 1:
                raise RuntimeError("INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot_general.260")
            if len(asked) == 2:
                return "a program"
            raise RuntimeError("something else")

    target = SimpleNamespace(machine=machine("h100"))
    assert Target._executable(target, Lowered()) == "a program"
    assert asked[0]["xla_gpu_autotune_level"] == asked[1]["xla_gpu_autotune_level"] == 0
    assert asked[1]["xla_gpu_enable_triton_gemm"] is False and "xla_gpu_enable_triton_gemm" not in asked[0]
    with pytest.raises(RuntimeError, match="something else"):
        Target._executable(target, Lowered())
