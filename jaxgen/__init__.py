"""jaxgen: generative models in JAX, as pure functions over an immutable train state."""

from jaxgen.core import GenerativeModel, LossModel, TrainState
from jaxgen.errors import UserError

__version__ = "0.1.0"
__all__ = ["GenerativeModel", "LossModel", "TrainState", "UserError", "__version__"]
