"""The ranks that fit one model together: each sees a part of every batch, and all take the step of the whole batch.

Losses, gradients, the statistics of batch norms and what dropout leaves out are those of the whole batch, so the number
of ranks changes a model by rounding alone: a fit that several began can be gone on with by one.
"""

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harvester.errors import StepError

T = TypeVar("T")


class Ranks:
    """The ranks that share a fit, as one of them sees them. A rank alone does nothing that torch does not.

    group    torch.distributed's process group of `size` ranks; None for one alone
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's items of a batch."""
        return batch[self.rank :: self.size]

    def all_reduce(self, value: Tensor) -> Tensor:
        """The sum over the ranks; no gradient flows through it."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value, group=self.group)
        return value

    def all_reduce_grads(self, model: nn.Module) -> None:
        """Every rank's gradients become their sum, sent as one."""
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if self.size == 1 or not grads:
            return
        whole = self.all_reduce(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, torch.split(whole, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def agree(self, number: int) -> None:
        """Raise StepError where the ranks hold different numbers."""
        if self.size > 1:
            extremes = torch.tensor([number, -number])
            if dist.get_backend(self.group) == "nccl":
                extremes = extremes.cuda()
            dist.all_reduce(extremes, dist.ReduceOp.MAX, group=self.group)
            if int(extremes[0]) != -int(extremes[1]):
                raise StepError("the ranks of a fit started from different checkpoints; start it again")

    def wrap(self, model: nn.Module, batch_size: int) -> None:
        """Batch norms and dropouts see the whole batch from now on. The names of the model's state stay.

        torch's SyncBatchNorm takes no CPU's tensors, and its dropout draws for what it is given.
        """
        if self.size == 1:
            return
        on_gpu = next(model.parameters()).is_cuda
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and on_gpu:
                _become(module, nn.SyncBatchNorm, process_group=self.group)
            elif isinstance(module, nn.BatchNorm2d):
                _become(module, SharedBatchNorm2d, ranks=self)
            elif isinstance(module, nn.Dropout):
                _become(module, SharedDropout, ranks=self, batch_size=batch_size)


ALONE = Ranks()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalises by mean and variance of all ranks' cells, on a CPU; else it is nn.BatchNorm2d. Made by Ranks.wrap."""

    ranks: Ranks

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """(n, channels, y, x), n of this rank."""
        if not self.training:
            return super().forward(input)
        cells = input.double()  # as torch adds up on a CPU
        count = self.ranks.all_reduce(torch.tensor(float(cells.numel() // cells.shape[1])))
        mean = _sum(cells.sum((0, 2, 3)), self.ranks) / count
        centred = cells - mean[:, None, None]
        variance = _sum(centred.square().sum((0, 2, 3)), self.ranks) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        for running, fresh in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(fresh.float(), cast(float, self.momentum))
        cast(Tensor, self.num_batches_tracked).add_(1)


class SharedDropout(nn.Dropout):
    """Leaves out what torch's would of the whole batch, of which this rank has a share. Made by Ranks.wrap.

    Every rank draws for all items, from generators in the same state. An item may have several rows, all as many.
    """

    ranks: Ranks
    batch_size: int

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """(rows of this rank's items, features)."""
        if not self.training:
            return input
        rows = len(input) // len(self.ranks.share(range(self.batch_size)))
        whole = input.new_empty((self.batch_size, rows, *input.shape[1:]))
        mask = whole.bernoulli_(1 - self.p).div_(1 - self.p)
        return input * cast(Tensor, self.ranks.share(cast(Any, mask))).flatten(0, 1)


class _Sum(torch.autograd.Function):
    """The sum over the ranks, through which gradients flow back to each."""

    @staticmethod
    def forward(context: Any, value: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        return ranks.all_reduce(value)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:
        return context.ranks.all_reduce(grad), None


def _sum(value: Tensor, ranks: Ranks) -> Tensor:
    return cast(Tensor, _Sum.apply(value, ranks))


def _become(module: nn.Module, kind: type[nn.Module], **state: Any) -> None:
    """The module turns into `kind` where it stands: its parameters and their names in the model's state stay."""
    module.__class__ = kind
    vars(module).update(state)
