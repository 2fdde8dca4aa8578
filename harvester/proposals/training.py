"""Fit one fold's generator: plain PyTorch, no Ray."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harvester.config.settings import Settings
from harvester.errors import NoExamplesError
from harvester.labels.ledger import by_volume
from harvester.models.device import DeviceSpec
from harvester.models.finite import read_weights
from harvester.models.fit import Fit, FoldTask, TrainSchedule, mix_in
from harvester.proposals.augment import Raw, collate, to_network_input
from harvester.proposals.labels import volume_labels
from harvester.proposals.losses import generator_losses
from harvester.proposals.network import Generator
from harvester.proposals.slabs import SlabDataset
from harvester.proposals.teacher import Taught
from harvester.records import LedgerTable, Split
from harvester.store.slab import GridFrame

Rows = Sequence[Mapping[str, Any]]


def fit_generator(
    task: FoldTask, settings: Settings, rows: Rows, ledger: LedgerTable
) -> tuple[Generator, list[dict[str, float]]]:
    """A generator fitted to the ledger's labels of these manifest rows' volumes, and its losses step by step.

    With task.start, the weights of the round before, it is finetuned.
    """
    generator = settings.generator
    torch.manual_seed(task.seed)
    bare = task.start is not None
    model = Generator(generator.model_copy(update={"weights": ""}) if bare else generator, settings.grid)
    before = read_weights(task.start) if task.start is not None else {}
    if before:
        model.load_state_dict(before)
    steps = generator.finetune_steps if bare else generator.steps
    rate = generator.finetune_learning_rate if bare else generator.learning_rate
    setting = f"generator.{'finetune_' * bare}learning_rate"
    schedule = TrainSchedule(steps, generator.batch_slabs, rate, generator.weight_decay, rate_setting=setting)
    items = slab_dataset(task, settings, rows, ledger, steps * generator.batch_slabs)
    spec = DeviceSpec.choose(task.gpu, settings.compute.precision)
    noise = torch.from_numpy(items.noise).to(spec.device)

    fitted = Taught(model, generator, settings.teacher) if settings.teacher.cut else model

    def losses_of(network: nn.Module, batch: tuple[list[Raw], dict[str, Tensor]]) -> dict[str, Tensor]:
        raws, targets = batch
        images = torch.stack([to_network_input(raw, noise, settings.grid.windows_hu) for raw in raws])
        if isinstance(network, Taught):
            network.follow()
            targets = network.taught(images, targets)
        terms = generator_losses(network(images), targets, generator.suppression, task.ranks)
        weights = generator.loss.model_dump()
        return {name: weights[name] * term for name, term in terms.items()}

    history = Fit(fitted, schedule, spec, task).run(items, losses_of, collate)
    if isinstance(fitted, Taught):
        model.load_state_dict(fitted.teacher.state_dict())
    mix_in(model, before, generator.finetune_keeps)
    return model, history


def slab_dataset(task: FoldTask, settings: Settings, rows: Rows, ledger: LedgerTable, items: int) -> SlabDataset:
    """The training items of a fold; NoExamplesError where its volumes carry no lesion."""
    labelled = by_volume(ledger)
    frames = [GridFrame.of(row, settings.grid) for row in rows]
    labels = {
        frame.volume_id: volume_labels(labelled.get(frame.volume_id, []), frame, row["split"] == Split.VM)
        for frame, row in zip(frames, rows, strict=True)
    }
    if not any(len(own.lesions) for own in labels.values()):
        raise NoExamplesError(
            f"the generator has no marked lesion in its {len(frames)} training volumes; "
            "give marks, or fewer folds (setting folds)"
        )
    return SlabDataset(task.store, frames, labels, settings.generator, items, task.seed)
