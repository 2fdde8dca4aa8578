"""A harvest of ten small phantoms, on a local Ray: what the tests of whole harvests share."""

from pathlib import Path

from harvester.config.settings import Settings
from harvester.harvest import harvest
from harvester.report.build import write_report
from harvester.results.history import History
from harvester.run.folder import Run
from harvester.run.tracking import Tracker
from harvester.store.store import Store

SETTINGS = """
name: tiny
rounds: 2
whole_model: true
min_gain: 0.0
data:
  kind: phantom
  phantom: {vm_volumes: 6, vh_test_volumes: 4, vd_test_volumes: 2, volumes_per_patient: 1, depth: 8, lesion_contrast: 3,
            noise_hu: 3, distractors_per_volume: 0}
generator: {crop_px: 96, slab_depth: 2, batch_slabs: 4, steps: 40, finetune_steps: 3}
classifier: {steps: 6, finetune_steps: 3, batch_size: 8, max_tubelets: 10, match_iou: 0.3}
operating_point: {target_precision: 0.01, confidence: 0.6, match_iou: 0.2, lpg_floors: [0.1, 0.2], min_slices: [1],
                  min_patients: 6}
compute: {replicas: 1, train_workers: 1, cpus_per_train_worker: 1.8, precision: float32}
"""


def harvested(settings: Settings, store: Store, folder: Path) -> History:
    run = Run.open(folder, settings, store)
    tracker = Tracker.open(run, None)
    history = harvest(run, tracker)
    tracker.finish("FINISHED")
    write_report(history.report_inputs())
    return history
