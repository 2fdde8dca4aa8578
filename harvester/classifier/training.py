"""Fit one fold's classifier: plain PyTorch, no Ray."""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from harvester.classifier.examples import Example, Examples, Raw, network_input
from harvester.classifier.network import Classifier
from harvester.config.settings import Settings
from harvester.errors import NoExamplesError
from harvester.models.device import DeviceSpec
from harvester.models.finite import read_weights
from harvester.models.fit import Fit, FoldTask, TrainSchedule, mix_in

PROFILE_LR_MULTIPLIER: Final = 8.0


def fit_classifier(
    task: FoldTask, settings: Settings, examples: Mapping[int, Sequence[Example]]
) -> tuple[Classifier, list[dict[str, float]]]:
    """A classifier fitted on half lesions, half others, and its losses; NoExamplesError where a class is empty.

    examples    1 -> tubelets that are lesions, 0 -> tubelets that are not
    task.start  the same fold's classifier of the last round, which is finetuned, or its generator, whose backbone
                both streams start from where it fits; or None
    """
    for label, name in ((1, "matches a known lesion"), (0, "of a completely marked volume matches none")):
        if not examples[label]:
            raise NoExamplesError(
                f"the classifier has no example of class {label}: no tubelet {name}; train the generator "
                "longer (generator.steps) or lower generator.score_floor"
            )
    own = settings.classifier
    torch.manual_seed(task.seed)
    before = read_weights(task.start) if task.start else {}
    again = any(name.startswith("streams.") for name in before)
    model = Classifier(own.model_copy(update={"weights": ""}) if again else own, settings.grid)
    steps, rate = own.steps, own.learning_rate
    if again:
        model.load_state_dict(before)
        steps, rate = own.finetune_steps, own.finetune_learning_rate
    elif before:
        start_from_generator(model, before)
    # Six numbers into two small layers: at the convolutions' rate they would need thousands of steps.
    schedule = TrainSchedule(
        steps, own.volumes_per_step, rate, own.weight_decay, "shape_profile", PROFILE_LR_MULTIPLIER,
        rate_setting=f"classifier.{'finetune_' * again}learning_rate",
    )  # fmt: skip
    items = Examples(task.store, examples, own, steps * own.volumes_per_step, task.seed)

    def losses_of(network: nn.Module, raws: list[Raw]) -> dict[str, Tensor]:
        parts = [network_input(raw, own, settings.grid.windows_hu) for raw in raws]
        logits = network({name: torch.cat([part[name] for part in parts]) for name in parts[0]}).float()
        labels = torch.cat([raw["labels"] for raw in raws])
        summed = functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return {"classify": summed / own.batch_size}

    spec = DeviceSpec.choose(task.gpu, settings.compute.precision)
    history = Fit(model, schedule, spec, task).run(items, losses_of, collate=list)
    mix_in(model, before if again else {}, own.finetune_keeps)
    return model, history


def start_from_generator(model: Classifier, weights: Mapping[str, Tensor]) -> bool:
    """Both streams start from the generator's backbone, where it is of the same kind and width; whether it was.

    The generator has learnt what lesions look like from every voxel; the classifier sees a few hundred crops. It is
    the same fold's, so no patient gets to see itself.
    """
    prefix = "backbone."
    state = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    for stream in model.streams.values():
        own = stream.state_dict()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            return False
    for stream in model.streams.values():
        stream.load_state_dict(state)
    return True
