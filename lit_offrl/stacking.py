"""Below ``torch.vmap``: the whole stack of tensors, of which a mapped function sees one."""

from torch import Tensor
from torch._C._functorch import get_unwrapped, is_batchedtensor


def whole(tensor: Tensor) -> Tensor:
    """Return the stack (S, ...) that a function under ``vmap`` sees one tensor of.

    Gradients and updates in place happen on the stack: one ``torch.autograd.grad`` for the sum of
    all losses is the gradient of each. Outside of ``vmap`` a tensor is returned as it is.
    """
    return get_unwrapped(tensor) if is_batchedtensor(tensor) else tensor
