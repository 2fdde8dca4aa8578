"""Plain PyTorch training, the same for both models: seeded items in, fitted weights out, resumable at any step."""

import io
import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from harvester.errors import StoreError
from harvester.models.data_parallel import ALONE, Team
from harvester.models.device import Place
from harvester.storage.location import Location, Where

Batch = Any
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn: one-cycle schedule, AdamW, gradients clipped at norm 10.

    hasty       a part of the model (its attribute's name) that learns `hasty_factor` times as fast, or ""
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    hasty: str = ""
    hasty_factor: float = 1.0
    checkpoint_every: int = 50
    log_every: int = 25


@dataclass(frozen=True)
class FoldTask:
    """What a fit of one fold needs beside its examples: where things lie, and its part of the work.

    start       weights to start from, or None
    checkpoint  file that a killed fit goes on from
    team        the ranks that share the fold
    """

    store: Where
    seed: int
    start: Location | None
    checkpoint: Location
    gpu: bool
    team: Team = ALONE
    log: Callable[[str], None] = print


def fit(
    model: nn.Module,
    items: Dataset[Batch],
    losses_of: Callable[[nn.Module, Batch], Losses],
    plan: Plan,
    place: Place,
    checkpoint: Location,
    team: Team = ALONE,
    log: Callable[[str], None] = lambda line: None,
    together: Callable[[list[Any]], Batch] | None = None,
) -> list[dict[str, float]]:
    """Fit in place and return the losses (weighted terms) of every step.

    `items` must hold steps x batch_size items. Of each batch this rank gets its share, and `losses_of` gives its part
    of the batch's losses: their sum over the team is what the step is taken on. `together` makes a batch of items,
    else torch stacks them. `checkpoint` is written on the way and read first, so that a fit that was killed goes on
    where it was, on the same items, with another team if need be.
    """
    place.settle(model).train()
    team.join(model, plan.batch_size)
    groups = _groups(model, plan)
    optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [group["lr"] for group in groups],
        total_steps=plan.steps + 1,
        pct_start=max(0.1, 2 / (plan.steps + 1)),
    )
    start, history = _restore(checkpoint, model, optimizer, schedule)
    team.agree(start)
    began = time.monotonic()
    for step, batch in enumerate(_batches(items, plan, start, team, together), start):
        with place.autocast():
            losses = losses_of(model, _moved(batch, place.device))
            total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        team.add_up(model)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        terms = team.total(torch.stack([value.detach() for value in losses.values()]))
        history.append(dict(zip(losses, terms.tolist(), strict=True)))
        if (step + 1) % plan.log_every == 0 or step + 1 == plan.steps:
            rate = (step + 1 - start) / (time.monotonic() - began)
            log(f"step {step + 1}/{plan.steps}, {_recent(history, plan.log_every)}, {rate:.1f} steps/s")
        if (step + 1) % plan.checkpoint_every == 0 and team.rank == 0:
            _save(checkpoint, step + 1, model, optimizer, schedule, history)
    return history


def _groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    parts: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        parts[bool(plan.hasty) and name.startswith(f"{plan.hasty}.")].append(parameter)
    rates = {False: plan.learning_rate, True: plan.learning_rate * plan.hasty_factor}
    return [{"params": own, "lr": rates[hasty]} for hasty, own in parts.items() if own]


def _batches(items: Dataset[Batch], plan: Plan, start: int, team: Team, together: Any) -> Iterator[Batch]:
    """Batches from step `start` on; order is the items' own, which is already random."""
    size = plan.batch_size
    indices = [list(team.share(range(step * size, (step + 1) * size))) for step in range(start, plan.steps)]
    # Decoding overlaps with the device; a machine with few cores has none to spare for it.
    workers = min(8, (os.cpu_count() or 1) // 4) if torch.cuda.is_available() else 0
    # A generator of its own: making the loader must not draw from the one that dropout draws from.
    own = torch.Generator()
    return iter(
        DataLoader(
            items,
            batch_sampler=indices,
            num_workers=workers,
            pin_memory=workers > 0,
            generator=own,
            collate_fn=together,
        )
    )


def _moved(batch: Batch, device: torch.device) -> Batch:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {name: _moved(value, device) for name, value in batch.items()}
    return [_moved(value, device) for value in batch]


def _recent(history: list[dict[str, float]], count: int) -> str:
    recent = history[-count:]
    return ", ".join(f"{name} {sum(row[name] for row in recent) / len(recent):.3f}" for name in recent[0])


def _save(file: Location, step: int, model: nn.Module, optimizer: Any, schedule: Any, history: Any) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "history": json.dumps(history),
        "random": torch.get_rng_state(),
        "random_gpu": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    packed = io.BytesIO()
    torch.save(state, packed)
    file.write_bytes(packed.getvalue())


def _restore(
    file: Location, model: nn.Module, optimizer: Any, schedule: Any
) -> tuple[int, list[dict[str, float]]]:
    if not file.is_file():
        return 0, []
    try:
        state = torch.load(io.BytesIO(file.read_bytes()), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        # torch's own message advises to unpickle all the same.
        raise StoreError(
            f"{file}: refused: it is broken or holds more than tensors, which could run code; delete it, then start "
            "again: the fold is fitted anew"
        ) from error
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    if state["random_gpu"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["random_gpu"])
    history: list[dict[str, float]] = json.loads(state["history"])
    return int(state["step"]), history
