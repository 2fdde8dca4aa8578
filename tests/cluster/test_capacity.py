"""What a cluster has no room for is refused before any work, with what was asked and what there is."""

import threading
import time
from pathlib import Path

import pytest
import ray

from harvester.config.loading import resolve
from harvester.config.settings import ComputeSettings, Settings
from harvester.distributed import watchdog
from harvester.distributed.capacity import ResourceRequest, requests_of, require_capacity, shortfall
from harvester.distributed.tuning import TrialProgress
from harvester.errors import SettingsError

SMALL, GPUS = {"CPU": 8.0, "memory": 2.0**34}, {"CPU": 16.0, "GPU": 2.0, "memory": 2.0**36}


@pytest.mark.parametrize(
    ("each", "nodes", "fitting"),
    [
        ({"CPU": 0.9}, [{"CPU": 2.0}], 2),
        ({"CPU": 0.1}, [{"CPU": 1.0}], 10),
        ({"CPU": 5.0}, [SMALL, GPUS], 4),
        ({"CPU": 2.0, "GPU": 0.5}, [SMALL, GPUS], 4),
        ({"CPU": 1.0, "GPU": 4.0}, [GPUS, GPUS], 0),
        ({"CPU": 1.0, "memory": 2.0**35}, [SMALL, GPUS], 2),
        ({"CPU": 1.0, "GPU": 0.0}, [SMALL], 8),
        ({"CPU": 1.0}, [], 0),
        ({"CPU": 1.0}, [{"memory": 1e9}], 0),
    ],
)
def test_a_process_lives_on_one_node(each: dict[str, float], nodes: list[dict[str, float]], fitting: int) -> None:
    assert shortfall([ResourceRequest("compute.replicas", fitting, each)], nodes) == []
    (line,) = shortfall([ResourceRequest("compute.replicas", fitting + 1, each)], nodes)
    assert line.startswith(f"compute.replicas = {fitting + 1} (each ") and line.endswith(f"room for {fitting}")


def test_the_papers_settings_on_too_few_gpus() -> None:
    compute = resolve(Path("configs/deeplesion.yaml")).compute
    lacking = shortfall(requests_of(compute), [GPUS])
    assert lacking == [
        "compute.replicas = 8 (each 4 CPUs and 1 GPUs): room for 2",
        "compute.train_workers = 5 (each 8 CPUs and 1 GPUs): room for 2",
    ]
    assert shortfall(requests_of(compute), [{"CPU": 40.0, "GPU": 8.0}]) == []


def test_the_smallest_pool_is_what_must_fit() -> None:
    compute = ComputeSettings(replicas=64, min_replicas=2, cpus_per_replica=4)
    assert shortfall(requests_of(compute), [SMALL]) == []
    assert [line.split()[0] for line in shortfall(requests_of(compute), [{"CPU": 7.0}])] == ["compute.min_replicas"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("compute.gpus_per_replica=1.5", "a share of one GPU or whole ones"),
        ("compute.min_replicas=3", "min_replicas = 3 is more than replicas = 2"),
    ],
)
def test_what_ray_would_refuse_is_a_wrong_setting(override: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        resolve(None, [override])
    assert resolve(None, ["compute.gpus_per_replica=0.25", "compute.min_replicas=1"]).compute.replicas == 2


def test_a_start_that_has_no_room_says_what_is_there(local_ray: None) -> None:
    require_capacity(Settings().compute)
    with pytest.raises(
        SettingsError, match=r"train_workers = 1 \(each 2 CPUs and 1 GPUs\): room for 0\. The cluster"
    ) as refused:
        require_capacity(ComputeSettings(train_gpu=True))
    assert "1 node with 2 CPUs" in str(refused.value) and "\n" not in str(refused.value)


def test_nodes_that_come_are_waited_for(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    asked: list[list[dict[str, float]]] = []
    came = time.monotonic() + 1
    monkeypatch.setattr("harvester.distributed.capacity.SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr("harvester.distributed.capacity._nodes", lambda: [GPUS] if time.monotonic() > came else [])
    monkeypatch.setattr("harvester.distributed.capacity.request_resources", lambda bundles: asked.append(bundles))
    compute = ComputeSettings(train_gpu=True, train_workers=2, wait_for_nodes_minutes=0.1)
    require_capacity(compute)
    assert asked == [[{"CPU": 2.0, "GPU": 1.0}] * 2]
    assert any("waiting for nodes: compute.replicas = 2" in line for line in caplog.messages)
    with pytest.raises(SettingsError, match="room for 0"):
        require_capacity(compute.model_copy(update={"gpus_per_replica": 4.0, "wait_for_nodes_minutes": 0.01}))


@ray.remote(num_cpus=2)
class OtherJob:
    """Holds all of the cluster."""

    def ready(self) -> bool:
        return True


def test_room_that_another_job_holds_is_waited_for(
    local_ray: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_LINES", 1.0)
    monkeypatch.setattr(watchdog, "SECONDS_BETWEEN_LOOKS", 0.3)
    progress = TrialProgress(minutes=5.0)
    other = OtherJob.remote()
    ray.get(other.ready.remote())
    work = watchdog.BackgroundWork(lambda: ray.get(ray.remote(num_cpus=1)(lambda: "done").remote()))
    work.start()
    threading.Timer(4.0, ray.kill, [other]).start()
    work.watch(progress, ResourceRequest("compute.train_workers", 1, {"CPU": 1.0, "GPU": 0.0}))
    assert work.result == "done"
    lines = [line for line in caplog.messages if line.startswith("waiting for room, up to 5 minutes")]
    assert 1 <= len(lines) <= 4
    free, whole = lines[0].split("compute.train_workers = 1 (each 1 CPUs); free in the cluster: ")[1].split(", of ")
    assert "CPU" not in free and whole.startswith("1 node with 2 CPUs")
