"""A generator and its teacher, the running mean of its own weights, which adds what it is sure of to the targets.

Teacher-student training with missing annotations, a rival of the harvest: lesions that nobody marked are taken into
each step's targets as soon as the teacher finds them, and nothing tells how many of them are right. The scheme is Mean
Teacher's (Tarvainen and Valpola 2017) with boxes for labels; the code and the constants are ours.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from harvester.config.models import GeneratorSettings, TeacherSettings
from harvester.proposals.decoding import best_peaks
from harvester.proposals.network import Generator
from harvester.proposals.targets import centre_cell, place

Maps = dict[str, Tensor]


class Taught(nn.Module):
    """A student that is fitted, and its teacher; both are in the checkpoint. Called, it is the student."""

    def __init__(self, student: Generator, generator: GeneratorSettings, settings: TeacherSettings) -> None:
        super().__init__()
        self.generator, self.settings = generator, settings
        self.student, self.teacher = student, deepcopy(student).requires_grad_(False)

    def train(self, mode: bool = True) -> "Taught":
        """The student alone: the teacher answers as it would in the end."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, slab: Tensor) -> Maps:
        """As the Generator's."""
        maps: Maps = self.student(slab)
        return maps

    @torch.no_grad()
    def follow(self) -> None:
        """Move the teacher's weights towards the student's; batch norms' statistics are the student's."""
        students = self.student.state_dict()
        for name, value in self.teacher.state_dict().items():
            if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                value.copy_(students[name])
            elif value.is_floating_point():
                value.lerp_(students[name], 1 - self.settings.keeps)

    @torch.no_grad()
    def taught(self, slabs: Tensor, targets: Maps) -> Maps:
        """The targets with the teacher's lesions of a score of `cut` and more, where none is known yet."""
        outputs = {name: out.flatten(0, 1) for name, out in self.teacher(slabs).items()}
        scores, boxes = best_peaks(outputs, self.generator.top_k, self.generator.stride)
        image, rank = torch.nonzero(scores >= self.settings.cut, as_tuple=True)
        if not len(image):
            return targets
        depth = targets["heat"].shape[1]
        maps = {name: values.cpu().numpy().copy() for name, values in targets.items()}
        for at, box in zip(image.tolist(), boxes[image, rank].cpu().double().numpy(), strict=True):
            own = {name: values[at // depth] for name, values in maps.items()}
            add_lesion(own, at % depth, box, self.generator.stride, self.generator.target_iou)
        return {name: torch.from_numpy(values).to(targets[name].device) for name, values in maps.items()}


def add_lesion(
    maps: dict[str, "np.ndarray[tuple[int, ...], np.dtype[np.float32]]"],
    z: int,
    box_xyxy: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    stride: int,
    min_iou: float,
) -> None:
    """Put a lesion on a slice into the maps of build_targets; not where one is known or nothing is to be judged."""
    column, row, _, _ = centre_cell(box_xyxy, stride)
    rows, columns = maps["heat"].shape[-2:]
    inside = 0 <= row < rows and 0 <= column < columns
    if not inside or maps["heat"][z, 0, row, column] > 0 or maps["weight"][z, 0, row, column] == 0:
        return
    own = place(maps, z, box_xyxy, stride, min_iou)
    maps["negative"][z, 0][own] = 0
    maps["weight"][z, 0][own] = 1
