"""What converters of PyTorch state dicts share: taking tensors by name, and the order of axes."""

import numpy as np

from jaxgen.errors import UserError


class Layers:
    """The tensors of a state dict, taken one by one; what is left over at the end was not understood."""

    def __init__(self, tensors: dict[str, np.ndarray], what: str):
        self.left, self.what = dict(tensors), what

    def layers(self, ending: str) -> list[str]:
        """Names without their ending, of the tensors that have it."""
        return [name.removesuffix(ending) for name in self.left if name.endswith(ending)]

    def take(self, name: str) -> np.ndarray:
        """The tensor `name`. Raises UserError when there is none."""
        if name not in self.left:
            raise UserError(f"{self.what} lacks {name}: name the file of that network")
        return self.left.pop(name)

    def ignore(self, part: str) -> None:
        """Drops the tensors with `part` in their names, which we have no use for."""
        self.left = {name: tensor for name, tensor in self.left.items() if part not in name}

    def done(self) -> None:
        """Raises UserError when tensors are left."""
        if self.left:
            first = min(self.left)
            raise UserError(f"{self.what} has unknown {first} (of {len(self.left)}): name the file of that network")


def kernel(weight: np.ndarray) -> np.ndarray:
    """PyTorch's weight f[O, I, h, w] or f[O, I] as a Flax kernel f32[h, w, I, O] or f32[I, O]."""
    axes = (2, 3, 1, 0) if weight.ndim == 4 else tuple(reversed(range(weight.ndim)))
    return np.ascontiguousarray(weight.transpose(axes), np.float32)
