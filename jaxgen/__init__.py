"""jaxgen: generative models in JAX, as pure functions over an immutable train state."""

from jaxgen import compiler

compiler.choose_flags()  # before anything can start jax's devices

from jaxgen.core import GenerativeModel, LossModel, TrainState  # noqa: E402
from jaxgen.errors import UserError  # noqa: E402

__version__ = "0.1.0"
__all__ = ["GenerativeModel", "LossModel", "TrainState", "UserError", "__version__"]
