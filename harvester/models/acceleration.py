"""A fitted network made faster without changing what it answers."""

import logging
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from harvester.models.memory import out_of_memory

logger = logging.getLogger(__name__)


def accelerated(network: nn.Module, compile_it: bool = False) -> nn.Module:
    """For inference: batch norms that follow a convolution are folded into it; compiled where asked."""
    fast = Direct(fuse(network.eval()))
    return Compiled(fast) if compile_it else fast


class Direct(nn.Module):
    """A traced network without torch.fx's own handler of errors.

    Where a layer fails, that handler imports half of torch to say in which line of the traced code. A process that has
    no memory left then ends by a fault of the processor, where a smaller batch would have done.
    """

    def __init__(self, traced: nn.Module) -> None:
        super().__init__()
        self.traced = traced

    def forward(self, *inputs: Any) -> Any:
        """What the network answers."""
        return self.traced.forward(*inputs)


class Compiled(nn.Module):
    """A network through torch.compile, or as it is where that fails: then it says so, once.

    The first call of a shape takes up to a minute; shapes that change are compiled as variable ones.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.fast: Any = torch.compile(network)

    def forward(self, *inputs: Any) -> Any:
        """What the network answers."""
        if self.fast is not None:
            try:
                return self.fast(*inputs)
            except RuntimeError as error:  # every error of the compiler is one
                if out_of_memory(error, unclear=False):
                    raise
                logger.warning("torch.compile failed, going on without it: %s", str(error).split("\n", 1)[0])
                self.fast = None
        return self.network(*inputs)
