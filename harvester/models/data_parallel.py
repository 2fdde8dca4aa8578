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


class Team:
    """A rank's place in its team. A team of one does nothing that torch does not.

    group    torch.distributed's, of `size` ranks; None for a team of one
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    def share(self, batch: Sequence[T]) -> Sequence[T]:
        """This rank's items of a batch."""
        return batch[self.rank :: self.size]

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks; no gradient flows through it."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value, group=self.group)
        return value

    def add_up(self, model: nn.Module) -> None:
        """Every rank's gradients become their sum, sent as one."""
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        if self.size == 1 or not grads:
            return
        whole = self.total(torch.cat([grad.flatten() for grad in grads]))
        for grad, part in zip(grads, whole.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def agree(self, number: int) -> None:
        """Raise StepError where the ranks hold different numbers."""
        if self.size > 1:
            told = torch.tensor([number, -number])
            if dist.get_backend(self.group) == "nccl":
                told = told.cuda()
            dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
            if int(told[0]) != -int(told[1]):
                raise StepError("the ranks of a fit started from different checkpoints; start it again")

    def join(self, model: nn.Module, batch_size: int) -> None:
        """Batch norms and dropouts see the whole batch from now on. The names of the model's state stay.

        torch's SyncBatchNorm takes no CPU's tensors, and its dropout draws for what it is given.
        """
        if self.size == 1:
            return
        on_gpu = next(model.parameters()).is_cuda
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and on_gpu:
                module.__class__, module.process_group = nn.SyncBatchNorm, self.group  # type: ignore[assignment]
            elif isinstance(module, nn.BatchNorm2d):
                module.__class__, module.team = SharedBatchNorm2d, self  # type: ignore[assignment]
            elif isinstance(module, nn.Dropout):
                module.__class__, module.team = SharedDropout, self  # type: ignore[assignment]
                module.batch_size = batch_size  # type: ignore[assignment]


ALONE = Team()


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Normalises by mean and variance of all ranks' cells, on a CPU; as nn.BatchNorm2d otherwise. Made by Team.join."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """(n, channels, y, x), n of this rank."""
        if not self.training:
            return super().forward(input)
        team = cast(Team, self.team)
        cells = input.double()  # as torch adds up on a CPU
        count = team.total(torch.tensor(float(cells.numel() // cells.shape[1])))
        mean = _Sum.apply(cells.sum((0, 2, 3)), team) / count
        centred = cells - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3)), team) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        for running, fresh in ((self.running_mean, mean), (self.running_var, variance)):
            cast(Tensor, running).lerp_(fresh.float(), cast(float, self.momentum))
        cast(Tensor, self.num_batches_tracked).add_(1)


class SharedDropout(nn.Dropout):
    """Leaves out what torch's would of the whole batch, of which this rank has a share. Made by Team.join.

    Every rank draws for all items, from generators in the same state.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """(items of this rank, features)."""
        if not self.training:
            return input
        team = cast(Team, self.team)
        whole = input.new_empty((cast(int, self.batch_size), *input.shape[1:]))
        mask = whole.bernoulli_(1 - self.p).div_(1 - self.p)
        return input * cast(Tensor, team.share(cast(Any, mask)))


class _Sum(torch.autograd.Function):
    """The sum over the ranks, through which gradients flow back to each."""

    @staticmethod
    def forward(context: Any, value: Tensor, team: Team) -> Tensor:  # type: ignore[override]
        context.team = team
        return team.total(value)

    @staticmethod
    def backward(context: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return context.team.total(grad), None
