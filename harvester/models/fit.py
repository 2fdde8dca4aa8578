"""Plain PyTorch training, the same for both models: seeded items in, fitted weights out, resumable at any step."""

import io
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from harvester.errors import NotFiniteError, StoreError
from harvester.models.data_parallel import ALONE, Ranks
from harvester.models.device import DeviceSpec
from harvester.models.finite import not_finite
from harvester.models.memory import out_of_memory
from harvester.storage.location import Location

Batch = Any
Losses = dict[str, float]
LossesOf = Callable[[nn.Module, Batch], dict[str, Tensor]]
Collate = Callable[[list[Any]], Batch]


@dataclass(frozen=True)
class TrainSchedule:
    """How long and how fast to learn: one-cycle schedule, AdamW, gradients clipped at norm 10.

    fast_prefix     a part of the model (its attribute's name) that learns `lr_multiplier` times as fast, or ""
    rate_setting    where learning_rate comes from, for errors
    log_every       steps; slow ones are told of every log_seconds
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    fast_prefix: str = ""
    lr_multiplier: float = 1.0
    checkpoint_every: int = 50
    log_every: int = 25
    log_seconds: float = 10.0
    rate_setting: str = "learning_rate"


@dataclass(frozen=True)
class FoldTask:
    """What a fit of one fold needs beside its examples: where things lie, and its part of the work.

    start       weights to start from, or None
    checkpoint  file that a killed fit goes on from
    ranks       those that share the fold
    log         is told now and then how far it is
    name        which model and fold this is, for errors
    """

    store: Location
    seed: int
    start: Location | None
    checkpoint: Location
    gpu: bool
    ranks: Ranks = ALONE
    log: Callable[["FitStep"], None] = print
    name: str = "the fit"


@dataclass(frozen=True)
class FitStep:
    """How far a fit is. losses: means of the terms since it was last told; rate: steps a second."""

    step: int
    steps: int
    losses: Losses
    rate: float

    @property
    def terms(self) -> str:
        """heat 0.596, size 0.243."""
        return ", ".join(f"{name} {value:.3f}" for name, value in self.losses.items())

    def __str__(self) -> str:
        return f"step {self.step}/{self.steps}, {self.terms}, {self.rate:.1f} steps/s"


class Fit:
    """A model that is fitted in place, on a device, with the ranks of a task.

    history     the losses (weighted terms) of every step so far
    """

    def __init__(self, model: nn.Module, schedule: TrainSchedule, spec: DeviceSpec, task: FoldTask) -> None:
        self.model, self.schedule, self.spec, self.task = model, schedule, spec, task
        self.history: list[Losses] = []
        spec.move_model(model).train()
        task.ranks.wrap(model, schedule.batch_size)
        groups = _parameter_groups(model, schedule)
        self.optimizer = torch.optim.AdamW(groups, weight_decay=schedule.weight_decay)
        self.learning_rate = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            [group["lr"] for group in groups],
            total_steps=schedule.steps + 1,
            pct_start=max(0.1, 2 / (schedule.steps + 1)),
        )

    def run(self, items: Dataset[Any], losses_of: LossesOf, collate: Collate | None = None) -> list[Losses]:
        """Take every step and give the history; the arguments are those of `steps`.

        The task's checkpoint is read first and written on the way, so that a fit that was killed goes on where it was,
        on the same items, with other ranks if need be. Raises StoreError where it is no checkpoint, and NotFiniteError
        at the first loss or gradient that is NaN or infinite; weights that are get into no checkpoint.
        """
        self.restore()
        self.task.ranks.agree(len(self.history))
        first, began = len(self.history), time.monotonic()
        told = began
        for step, losses in self.steps(items, losses_of, collate):
            self.history.append(losses)
            now = time.monotonic()
            slow = now - told >= self.schedule.log_seconds
            if slow or step % self.schedule.log_every == 0 or step in (1, self.schedule.steps):
                told = now
                self.task.log(self._progress((step - first) / (now - began)))
            if step % self.schedule.checkpoint_every == 0 and self.task.ranks.rank == 0:
                self.save()
        self._require_finite_weights()
        return self.history

    def steps(
        self, items: Dataset[Any], losses_of: LossesOf, collate: Collate | None = None
    ) -> Iterator[tuple[int, Losses]]:
        """The steps that are left, each taken when it is asked for: how many are taken with it, and its losses.

        `items` must hold steps x batch_size items. Of each batch this rank gets its share, and `losses_of` gives its
        part of the batch's losses: their sum over the ranks is what the step is taken on. `collate` makes a batch of
        items, else torch stacks them.
        """
        for step, batch in enumerate(self._batches(items, collate), len(self.history) + 1):
            losses, norm = self._step(losses_of, _moved(batch, self.spec.device))
            if not all(map(math.isfinite, (*losses.values(), norm))):
                terms = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
                raise self._diverged(f"the loss of step {step} is not finite ({terms}, gradient norm {norm:.3g})")
            yield step, losses

    def _step(self, losses_of: LossesOf, batch: Batch) -> tuple[Losses, float]:
        with self.spec.autocast():
            losses = losses_of(self.model, batch)
            total = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(total)
        self.task.ranks.all_reduce_grads(self.model)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
        self.optimizer.step()
        self.learning_rate.step()
        terms = self.task.ranks.all_reduce(torch.stack([value.detach() for value in losses.values()]))
        *values, length = torch.cat([terms, norm.to(terms)[None]]).tolist()  # all at once: a GPU is waited for here
        return dict(zip(losses, values, strict=True)), length

    def _batches(self, items: Dataset[Any], collate: Collate | None) -> Iterator[Batch]:
        """Batches of the steps that are left; order is the items' own, which is already random."""
        size, left = self.schedule.batch_size, range(len(self.history), self.schedule.steps)
        # Decoding overlaps with the device; a machine with few cores has none to spare for it.
        workers = min(8, (os.cpu_count() or 1) // 4) if torch.cuda.is_available() else 0
        return iter(
            DataLoader(
                items,
                batch_sampler=[list(self.task.ranks.share(range(step * size, (step + 1) * size))) for step in left],
                num_workers=workers,
                pin_memory=workers > 0,
                # Of its own: making the loader must not draw from the generator that dropout draws from.
                generator=torch.Generator(),
                collate_fn=collate,
            )
        )

    def _progress(self, rate: float) -> FitStep:
        recent = self.history[-self.schedule.log_every :]
        means = {name: sum(row[name] for row in recent) / len(recent) for name in recent[0]}
        return FitStep(len(self.history), self.schedule.steps, means, rate)

    def _require_finite_weights(self) -> None:
        if name := not_finite(self.model.state_dict()):
            raise self._diverged(f"after step {len(self.history)} weights are not finite ({name})")

    def _diverged(self, what: str) -> NotFiniteError:
        return NotFiniteError(f"{self.task.name}: {what}; lower {self.schedule.rate_setting}, then start again")

    def save(self) -> None:
        """Write the checkpoint. Raises NotFiniteError where weights are not finite: the last good one stays."""
        self._require_finite_weights()
        state = {
            "step": len(self.history),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.learning_rate.state_dict(),
            "history": json.dumps(self.history),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }
        packed = io.BytesIO()
        torch.save(state, packed)
        self.task.checkpoint.write_bytes(packed.getvalue())

    def restore(self) -> None:
        """Go on from the checkpoint, torch's random numbers too; where there is none, nothing changes."""
        if not self.task.checkpoint.is_file():
            return
        state = _read_checkpoint(self.task.checkpoint)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.learning_rate.load_state_dict(state["schedule"])
        self.history = json.loads(state["history"])
        torch.set_rng_state(state["random"])
        if state["random_gpu"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["random_gpu"])


@torch.no_grad()
def mix_in(model: nn.Module, before: Mapping[str, Tensor], share: float) -> None:
    """Move a finetuned model's weights back by this share of the way to those that it started from; {}: nowhere.

    Batch norms' means and variances too. Between both ends a model is often better elsewhere than at either, and what
    few labels do not show is not forgotten (Wortsman et al., CVPR 2022).
    """
    after = model.state_dict()
    for name, start in before.items():
        if after[name].is_floating_point():  # files keep counters as floats, too
            after[name].lerp_(start.to(after[name]), share)


def _parameter_groups(model: nn.Module, schedule: TrainSchedule) -> list[dict[str, Any]]:
    groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        groups[bool(schedule.fast_prefix) and name.startswith(f"{schedule.fast_prefix}.")].append(parameter)
    rates = {False: schedule.learning_rate, True: schedule.learning_rate * schedule.lr_multiplier}
    return [{"params": own, "lr": rates[fast]} for fast, own in groups.items() if own]


def _moved(batch: Batch, device: torch.device) -> Batch:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: _moved(value, device) for name, value in batch.items()}
    return [_moved(value, device) for value in batch] if isinstance(batch, list | tuple) else batch


def _read_checkpoint(file: Location) -> dict[str, Any]:
    packed = io.BytesIO(file.read_bytes())
    try:
        state: dict[str, Any] = torch.load(packed, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        if out_of_memory(error):
            raise
        # torch's own message advises to unpickle all the same.
        raise StoreError(
            f"{file}: refused: it is broken or holds more than tensors, which could run code; delete it, then start "
            "again: the fold is fitted anew"
        ) from error
    if name := not_finite(state["model"]):
        raise StoreError(
            f"{file}: refused: it holds NaN or infinity ({name}); delete it, then start again: the fold is fitted anew"
        )
    return state
