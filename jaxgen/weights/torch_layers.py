"""For converting PyTorch state dicts: tensors are taken by name, and their axes reordered."""

import numpy as np

from jaxgen.errors import UserError


class StateDict:
    """The tensors of a file, taken one by one, so that tensors left over at the end are known to be unexpected."""

    def __init__(self, tensors: dict[str, np.ndarray], source: str):
        """source: the file, for error messages."""
        self.left, self.source = dict(tensors), source

    def layers(self, ending: str) -> list[str]:
        """The names that have this ending, without it."""
        return [name.removesuffix(ending) for name in self.left if name.endswith(ending)]

    def take(self, name: str) -> np.ndarray:
        """Removes and returns the tensor `name`. Raises UserError if there is none."""
        if name not in self.left:
            raise UserError(f"{self.source} lacks {name}: pass the file of that network")
        return self.left.pop(name)

    def ignore(self, part: str) -> None:
        """Drops the tensors whose names contain `part`."""
        self.left = {name: tensor for name, tensor in self.left.items() if part not in name}

    def check_empty(self) -> None:
        """Raises UserError if tensors are left."""
        if self.left:
            first = min(self.left)
            raise UserError(f"{self.source} has unknown {first} (of {len(self.left)}): pass the file of that network")


def kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's weight, f[O, I, h, w] or f[O, I], as a Flax kernel, f32[h, w, I, O] or f32[I, O]."""
    axes = (2, 3, 1, 0) if weight.ndim == 4 else tuple(reversed(range(weight.ndim)))
    return np.ascontiguousarray(weight.transpose(axes), np.float32)
