"""jaxgen: generative models in JAX, as pure functions over an immutable train state.

    run = jaxgen.fit(VAE(shape=(8, 8, 1), latent=8), Digits(), steps=1000, batch_size=128)
    images = run.sample(64, seed=7)
    jaxgen.load("runs/ddpm-digits-0").sample(8, seed=7)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from jaxgen.runtime import interrupt

if interrupt.is_command():
    interrupt.leaving_at_once().__enter__()  # what follows takes a second, in which Ctrl-C would leave a traceback

from jaxgen.runtime import compiler

compiler.choose_flags()  # before anything can start jax's devices

if TYPE_CHECKING:
    from jaxgen.api.run import Run, fit, load
    from jaxgen.core.model import GenerativeModel, LossModel
    from jaxgen.core.types import TrainState
    from jaxgen.errors import UserError
    from jaxgen.experiment import Experiment

__version__ = "0.1.0"
__all__ = [
    "Experiment", "GenerativeModel", "LossModel", "Run", "TrainState", "UserError", "__version__", "fit", "load",
]  # fmt: skip

# Imported when asked for: the rest of the package takes a second, which `jaxgen --help` need not wait for.
HOMES = {
    "Experiment": "experiment", "GenerativeModel": "core.model", "LossModel": "core.model", "Run": "api.run",
    "TrainState": "core.types", "UserError": "errors", "fit": "api.run", "load": "api.run",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'jaxgen' has no attribute {name!r}")
    return getattr(import_module(f"jaxgen.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
