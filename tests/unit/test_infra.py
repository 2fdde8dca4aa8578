"""infra/: images, Kubernetes objects, the cluster launcher's and compose's files, as far as files alone can tell.

The launcher's files meet Ray's own validator, and every command its job's parser, in tests/loop/test_infra.py.
"""

import fnmatch
import re
import subprocess
import sysconfig
import tomllib
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from packaging.requirements import Requirement

from harvester.config.loading import resolve
from tests.unit import crd

REPO = Path(__file__).parents[2]
INFRA = REPO / "infra"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
PINNED = dict(
    line.split("==") for line in (INFRA / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
)
DOCKERFILES = ("Dockerfile", "Dockerfile.mlflow")
KUBERAY = {"rayjobs": "rayjob.yaml", "rayclusters": "raycluster.yaml"}
LAUNCHER = ("aws.yaml", "gcp.yaml")
YAMLS = sorted(INFRA.rglob("*.yaml"))
SPOT = {
    "cloud.google.com/gke-spot",
    "eks.amazonaws.com/capacityType",
    "karpenter.sh/capacity-type",
    "kubernetes.azure.com/scalesetpriority",
}

Tree = dict[str, Any]


def documents(name: str) -> list[Tree]:
    return list(yaml.safe_load_all((INFRA / name).read_text()))


def cluster_spec(name: str) -> Tree:
    spec = documents(f"kuberay/{name}")[0]["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def pods(spec: Tree) -> dict[str, Tree]:
    """Of a Ray cluster, by group."""
    groups = {"head": spec["headGroupSpec"]} | {g["groupName"]: g for g in spec["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def values(tree: Any, key: str) -> list[Any]:
    """Every value under a key, however deep."""
    if isinstance(tree, list):
        return [value for part in tree for value in values(part, key)]
    if not isinstance(tree, dict):
        return []
    own = [tree[key]] if key in tree else []
    return own + [value for part in tree.values() for value in values(part, key)]


# Images


def test_hadolint_finds_nothing_in_the_dockerfiles() -> None:
    checked = hadolint(*(INFRA / name for name in DOCKERFILES))
    assert checked.returncode == 0, checked.stdout


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python:latest\nRUN apt-get update && apt-get install -y wget\nCMD python\n")
    checked = hadolint(wrong)
    assert checked.returncode == 1
    assert {"DL3007", "DL3009", "DL3015", "DL3025"} <= set(re.findall(r"DL\d{4}", checked.stdout))


def hadolint(*files: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / "hadolint"
    return subprocess.run([program, "--no-color", *files], capture_output=True, text=True)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_pinned_not_root_and_says_whether_it_is_well(name: str) -> None:
    lines = instructions(name)
    (base,) = [rest for word, rest in lines if word == "FROM"]
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    users = [rest for word, rest in lines if word == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])
    for wanted in ("HEALTHCHECK", "CMD"):
        (command,) = [rest for word, rest in lines if word == wanted]
        assert command.partition("CMD")[2 if wanted == "HEALTHCHECK" else 0].strip().startswith("[")
    installed = [rest for word, rest in lines if word == "RUN" and "pip install" in rest]
    assert all("--no-cache-dir" in rest and re.search(r"constraint|--no-deps", rest) for rest in installed)


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", (INFRA / name).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word]


@pytest.mark.parametrize(("name", "context"), [("Dockerfile", REPO), ("Dockerfile.mlflow", INFRA)])
def test_what_is_copied_exists_and_is_all_that_docker_is_sent(name: str, context: Path) -> None:
    copied = [
        part.rstrip("/")
        for word, rest in instructions(name)
        if word == "COPY"
        for part in rest.split()[:-1]
        if not part.startswith("--")
    ]
    assert copied and all((context / part).exists() for part in copied)
    rules = (INFRA / f"{name}.dockerignore").read_text().splitlines()
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules and sent == set(copied)


def test_every_direct_dependency_is_pinned_within_its_range() -> None:
    asked = [Requirement(text) for text in PROJECT["dependencies"]]
    missing = [r.name for r in asked if r.name not in lower(PINNED)]
    assert not missing
    outside = [str(r) for r in asked if not r.specifier.contains(lower(PINNED)[r.name])]
    assert not outside


def lower(pins: dict[str, str]) -> dict[str, str]:
    return {name.lower(): version for name, version in pins.items()}


def test_images_carry_the_versions_of_the_project() -> None:
    tags = {"harvester": PROJECT["version"], "harvester-mlflow": PINNED["mlflow"]}
    texts = {path: path.read_text() for path in INFRA.rglob("*") if path.is_file()}
    named = [
        (path.name, image, tag)
        for path, text in texts.items()
        for image, tag in re.findall(r"\b(harvester(?:-mlflow)?):(\d[\w.]*)", text)
    ]
    assert {name for name, _, _ in named} >= {"rayjob.yaml", "aws.yaml", "gcp.yaml", "compose.yaml", "README.md"}
    assert [found for found in named if found[2] != tags[found[1]]] == []
    pinned = re.search(r"mlflow==(\S+)", (INFRA / "Dockerfile.mlflow").read_text())
    assert pinned and pinned[1] == PINNED["mlflow"]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_image_is_pinned_by_a_version(path: Path) -> None:
    images = [image for document in documents(str(path.relative_to(INFRA))) for image in values(document, "image")]
    assert images
    assert [image for image in images if not re.search(r":v?\d+\.\d+", image)] == []


# Kubernetes


@pytest.mark.parametrize("plural", KUBERAY)
def test_kuberay_objects_are_valid(plural: str) -> None:
    (document,) = documents(f"kuberay/{KUBERAY[plural]}")
    assert crd.errors(document, crd.published(plural, document["apiVersion"].partition("/")[2])) == []


@pytest.fixture(scope="module")
def job_schema() -> Tree:
    return crd.published("rayjobs", "v1")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("spec", "backoffLimits"), 3, "'backoffLimits' was unexpected"),
        (("spec", "backoffLimit"), "3", "is not of type 'integer'"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens", "is not one of"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 8, "was unexpected"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "not of type 'string'"),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "tolerations"), {}, "not of type 'array'"),
        (
            ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0, "command"),
            "ray",
            "not of type 'array'",
        ),
        (
            ("spec", "submitterPodTemplate", "spec", "containers", 0, "resources", "limits", "memory"),
            "1 GB",
            "does not match",
        ),
    ],
)
def test_a_wrong_field_of_a_rayjob_is_found(
    job_schema: Tree, where: tuple[str | int, ...], value: Any, message: str
) -> None:
    document: Any = deepcopy(documents("kuberay/rayjob.yaml")[0])
    part = document
    for step in where[:-1]:
        part = part[step]
    part[where[-1]] = value
    (error,) = crd.errors(document, job_schema)
    assert message in error


def test_mlflows_objects_are_valid(job_schema: Tree) -> None:
    """Pods, services, claims and policies have the same fields wherever they stand: the RayJob's schema holds them."""
    claim, deployment, service, policy = documents("kuberay/mlflow.yaml")
    cluster = job_schema["properties"]["spec"]["properties"]["rayClusterSpec"]["properties"]
    head = cluster["headGroupSpec"]["properties"]
    pod, rule = head["template"], cluster["networkPolicy"]["properties"]["head"]["properties"]["ingressRules"]
    volumes = pod["properties"]["spec"]["properties"]["volumes"]["items"]["properties"]
    claims = volumes["ephemeral"]["properties"]["volumeClaimTemplate"]["properties"]["spec"]
    assert crd.errors(deployment["spec"]["template"], pod) == []
    assert crd.errors(service["spec"], head["headService"]["properties"]["spec"]) == []
    assert crd.errors(claim["spec"], claims) == []
    assert crd.errors(policy["spec"]["ingress"], rule) == []
    assert [d["kind"] for d in (claim, deployment, service, policy)] == [
        "PersistentVolumeClaim",
        "Deployment",
        "Service",
        "NetworkPolicy",
    ]


def test_mlflow_is_asked_by_the_clusters_pods_alone() -> None:
    claim, deployment, service, policy = documents("kuberay/mlflow.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert deployment["spec"]["strategy"]["type"] == "Recreate" and deployment["spec"]["replicas"] == 1
    (source,) = policy["spec"]["ingress"][0]["from"]
    for name in KUBERAY.values():
        spec = cluster_spec(name)
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert group["template"]["metadata"]["labels"] == source["podSelector"]["matchLabels"]
    pod = deployment["spec"]["template"]["spec"]
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    (uri,) = (e["value"] for e in pods(spec)["head"]["containers"][0]["env"])
    port = service["spec"]["ports"][0]["port"]
    assert uri == f"http://{service['metadata']['name']}:{port}"
    assert uri.removeprefix("http://") in environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


def test_the_long_lived_cluster_is_the_jobs() -> None:
    assert cluster_spec("raycluster.yaml") == cluster_spec("rayjob.yaml")


def test_a_dead_job_starts_again_and_leaves_nothing_running() -> None:
    spec = documents("kuberay/rayjob.yaml")[0]["spec"]
    assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"] is True
    words = spec["entrypoint"].split()
    for option in ("--store", "--run"):
        assert words[words.index(option) + 1].startswith("s3://")


def test_token_and_versions_of_the_cluster() -> None:
    spec = cluster_spec("rayjob.yaml")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["rayVersion"] == PINNED["ray"]
    assert spec["enableInTreeAutoscaling"] is True


def test_no_pod_is_root_or_can_become_it() -> None:
    job = documents("kuberay/rayjob.yaml")[0]["spec"]
    found = [
        *pods(job["rayClusterSpec"]).values(),
        job["submitterPodTemplate"]["spec"],
        documents("kuberay/mlflow.yaml")[1]["spec"]["template"]["spec"],
    ]
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    contexts = [container["securityContext"] for pod in found for container in pod["containers"]]
    for context in (*contexts, job["rayClusterSpec"]["autoscalerOptions"]["securityContext"]):
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_workers_are_preemptible_and_the_head_is_not() -> None:
    spec = cluster_spec("rayjob.yaml")
    for name, pod in pods(spec).items():
        asked = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        terms = [term["matchExpressions"] for term in asked["nodeSelectorTerms"]]
        rules = [(rule["key"], rule["operator"]) for term in terms for rule in term]
        if name == "head":  # all must hold: one term
            assert len(terms) == 1 and set(rules) == {(key, "NotIn") for key in SPOT}
        else:  # one of them: terms of one rule
            assert all(len(term) == 1 for term in terms) and set(rules) == {(key, "In") for key in SPOT}
            assert 0 < pod["terminationGracePeriodSeconds"] <= 25
            assert pod["automountServiceAccountToken"] is False
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_the_gpu_workers_hold_what_the_papers_settings_ask_for() -> None:
    compute = resolve(REPO / "configs" / "deeplesion.yaml").compute
    for name, maximum, cpus, gpus in workers():
        assert cpus >= max(compute.cpus_per_train_worker, compute.cpus_per_replica), name
        assert maximum * gpus >= max(compute.replicas * compute.gpus_per_replica, compute.train_workers), name
    spec = cluster_spec("rayjob.yaml")
    for group in spec["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        asked, limit = container["resources"]["requests"], container["resources"]["limits"]
        assert asked["memory"] == limit["memory"]
        assert group["rayStartParams"]["num-cpus"] == asked["cpu"]
        assert group["minReplicas"] == 0 < group["maxReplicas"]


def workers() -> list[tuple[str, int, int, int]]:
    """Each file's GPU workers: file, most of them, CPUs and GPUs of one."""
    group = cluster_spec("rayjob.yaml")["workerGroupSpecs"][0]
    resources = group["template"]["spec"]["containers"][0]["resources"]
    cpus, gpus = int(resources["requests"]["cpu"]), resources["limits"]["nvidia.com/gpu"]
    found = [("rayjob.yaml", group["maxReplicas"], cpus, gpus)]
    for name in LAUNCHER:
        node = documents(name)[0]["available_node_types"]["gpu"]
        found.append((name, node["max_workers"], node["resources"]["CPU"], node["resources"]["GPU"]))
    return found


# Ray's cluster launcher


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launchers_nodes_share_a_token_and_its_head_does_no_work(name: str) -> None:
    (config,) = documents(name)
    assert config["file_mounts"] == {"/home/harvester/.ray/auth_token": "~/.ray/auth_token"}
    head, worker = config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]
    assert all("export RAY_AUTH_MODE=token && ray start" in command for command in (head, worker))
    assert "--num-cpus=0" in head and config["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert f"--num-cpus={config['available_node_types']['gpu']['resources']['CPU']}" in worker
    assert "dashboard-host" not in head  # loopback, by default
    assert config["max_workers"] == config["available_node_types"]["gpu"]["max_workers"]
    assert config["idle_timeout_minutes"] <= 10


def test_the_launchers_workers_are_preemptible_and_its_heads_are_not() -> None:
    aws, gcp = (documents(name)[0]["available_node_types"] for name in LAUNCHER)
    assert aws["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert gcp["gpu"]["node_config"]["scheduling"][0]["provisioningModel"] == "SPOT"
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert "scheduling" not in gcp["head"]["node_config"]


def test_no_node_on_aws_gets_the_security_group_that_ray_makes() -> None:
    """It has port 22 open to the world."""
    for node in documents("aws.yaml")[0]["available_node_types"].values():
        assert node["node_config"]["SecurityGroupIds"]


# MLflow's server with a database


def test_compose_follows_the_compose_specification() -> None:
    text = (INFRA / "compose.yaml").read_text()
    assert set(PyCompose.from_yaml(text).service_names()) == {"database", "artifacts", "mlflow"}
    for right, wrong in (
        ("healthcheck:", "healthchek:"),
        ("unless-stopped", "perhaps"),
        ("retries: 12", "retries: many"),
    ):
        assert right in text
        with pytest.raises(ValueError, match=r"services\.database"):
            PyCompose.from_yaml(text.replace(right, wrong, 1))


def test_compose_publishes_mlflow_to_this_machine_alone_and_checks_all() -> None:
    (compose,) = documents("compose.yaml")
    services = compose["services"]
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"]}
    healthy = {name for name, service in services.items() if "healthcheck" in service}
    assert healthy == {"database", "artifacts"}
    assert "HEALTHCHECK" in dict(instructions(services["mlflow"]["build"]["dockerfile"]))
    waits = services["mlflow"]["depends_on"]
    assert waits == {name: {"condition": "service_healthy"} for name in healthy}
    mounted = {volume.partition(":")[0] for s in services.values() for volume in s.get("volumes", [])}
    assert mounted == set(compose["volumes"])


def test_compose_takes_every_password_from_the_environment_and_says_which() -> None:
    (compose,) = documents("compose.yaml")
    secrets = {
        f"{service}.{name}": value
        for service, tree in compose["services"].items()
        for name, value in tree["environment"].items()
        if fnmatch.fnmatch(name, "*PASSWORD*") or fnmatch.fnmatch(name, "*SECRET*")
    }
    assert len(secrets) == 4
    assert [name for name, value in secrets.items() if not re.fullmatch(r"\$\{[A-Z0-9_]+:\?[^}]+\}", value)] == []
    assert not re.search(r"://[^\s/@]+:[^\s/@]+@", (INFRA / "compose.yaml").read_text())


# All of them


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_what_listens_on_every_interface_says_who_reaches_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if "0.0.0.0" in line.partition("#")[0]:  # noqa: S104
            said = f"{lines[number - 1]} {line.partition('#')[2]}"
            assert "ClusterIP" in said or "127.0.0.1" in said, f"{path.name}:{number + 1}"


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_nothing_is_published_by_a_node(path: Path) -> None:
    for document in documents(str(path.relative_to(INFRA))):
        for key in ("hostNetwork", "hostPort", "nodePort", "hostPath", "privileged", "enableIngress"):
            assert values(document, key) == [], key
        types = values(document, "serviceType")
        if document.get("kind") == "Service":
            types.append(document["spec"]["type"])
        assert set(types) <= {"ClusterIP"}
