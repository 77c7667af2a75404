"""What users run, for `test_production.py`: a process with the compiler's flags as `import jaxgen` chooses them.

    python production.py FOLDER    # FOLDER holds experiment.json and given.npz; leaves found.npz
    python production.py faults    # the programs of benchmarks/faults.py

A process of its own, as the flags hold for all that a process compiles.
"""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import core
from jaxgen.core.configuration import from_json
from jaxgen.experiment import Experiment
from jaxgen.runtime import devices

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from faults import FAULTS

STEPS = 3


def leaves(tree) -> dict[str, np.ndarray]:
    """A pytree's arrays by their number."""
    return {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def rebuilt(arrays, like):
    """The inverse of `leaves`, of the structure of `like`."""
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.array(arrays[str(i)]) for i in range(len(arrays))])


def batches(experiment: Experiment):
    """STEPS batches of data, [STEPS, B, ...]."""
    parts = [experiment.data.batch_at(experiment.seed, step, experiment.batch_size) for step in range(STEPS)]
    return jax.tree.map(lambda *a: np.stack(a), *parts)


def trained(experiment: Experiment, state):
    """State and metrics of STEPS steps from `state`, which is kept."""
    key = core.run_key(experiment.seed, core.TRAIN)
    state = jax.tree.map(jnp.array, state)
    return core.train_steps(experiment.compute_model, state, key, batches(experiment), experiment.codec.load())


def drawn(experiment: Experiment, state):
    """Four samples, still in model space, where rounding is not a level."""
    model, codec = experiment.compute_model, experiment.codec.load()
    one = jax.tree.map(lambda a: a[0], batches(experiment))
    encoded = codec.encode(one, jax.random.key(0))
    return core.sample(model, state, core.sample_keys(7, 4), model.sample_cond(4, encoded))


def compare(folder: Path) -> None:
    """Trains from the state that is given, and draws from the trained state that is."""
    experiment = from_json(json.loads((folder / "experiment.json").read_text()))
    one = jax.tree.map(lambda a: a[0], batches(experiment))
    like = core.abstract_state(experiment.compute_model, one, experiment.codec.load())
    start, end = ({k[2:]: v for k, v in np.load(folder / "given.npz").items() if k[0] == which} for which in "ab")
    found = {f"a_{k}": v for k, v in leaves(trained(experiment, rebuilt(start, like))).items()}
    found |= {f"b_{k}": v for k, v in leaves(drawn(experiment, rebuilt(end, like))).items()}
    np.savez(folder / "found.npz", **found)


if __name__ == "__main__":
    what, *how = sys.argv[1:]
    if "script" in how:  # as an experiment script starts; otherwise nothing but the import
        devices.start_jax("cpu", compilation_cache=False)
    if what == "faults":
        for name, fault in FAULTS.items():
            print(f"{name}: {fault()} wrong", flush=True)
    else:
        devices.start_jax("cpu")
        compare(Path(what))
