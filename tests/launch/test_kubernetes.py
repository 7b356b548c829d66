"""`launch/kubernetes.yaml`: Kubernetes' own schemas, and the names and numbers that must agree."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from medclip_jax.config import load_config

FILE = Path(__file__).parents[2] / "launch" / "kubernetes.yaml"


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    parts = list(yaml.safe_load_all(FILE.read_text()))
    by_kind = {part["kind"]: part for part in parts}
    assert len(by_kind) == len(parts) == 3
    return by_kind


@pytest.fixture(scope="module")
def spec(documents: dict[str, Any]) -> dict[str, Any]:
    return documents["Job"]["spec"]


@pytest.fixture(scope="module")
def pod(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.fixture(scope="module")
def environment(container: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value") for entry in container["env"]}


@pytest.mark.parametrize("kind", ["Service", "PersistentVolumeClaim", "Job"])
@pytest.mark.parametrize("version", ["1.31", "latest"])
def test_the_official_schemas_accept_it(documents: dict[str, Any], kind: str, version: str) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    number = schemas.latest_version() if version == "latest" else version
    schemas.validate(documents[kind], number, strict=True)


def test_the_schemas_would_notice_a_mistake(documents: dict[str, Any]) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    job = yaml.safe_load(yaml.safe_dump(documents["Job"]))
    job["spec"]["backofLimit"] = 1
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, "1.31", strict=True)


def test_every_pod_is_a_process(spec: dict[str, Any], environment: dict[str, Any]) -> None:
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(environment["JAX_NUM_PROCESSES"])
    assert spec["completions"] > 1


def test_the_index_is_the_process_id(container: dict[str, Any]) -> None:
    (entry,) = [entry for entry in container["env"] if entry["name"] == "JAX_PROCESS_ID"]
    path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert entry["valueFrom"]["fieldRef"]["fieldPath"] == path


def test_the_first_pod_is_found_by_name(
    documents: dict[str, Any], pod: dict[str, Any], environment: dict[str, Any]
) -> None:
    service, job = documents["Service"], documents["Job"]["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": job}
    assert service["spec"]["publishNotReadyAddresses"]  # pods look for each other before they run
    assert pod["subdomain"] == service["metadata"]["name"]
    host, port = environment["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{job}-0.{pod['subdomain']}" and 1024 < int(port) < 65536


def test_pods_wait_for_each_other(pod: dict[str, Any], container: dict[str, Any]) -> None:
    (wait,) = pod["initContainers"]
    assert wait["env"] == container["env"] and wait["image"] == container["image"]
    assert 'getent hosts "medclip-$i.medclip"' in wait["command"][-1]


def test_a_preemption_is_no_failure_and_a_mistake_ends_the_job(
    spec: dict[str, Any], pod: dict[str, Any], container: dict[str, Any]
) -> None:
    assert pod["restartPolicy"] == "Never"  # without it the API server refuses podFailurePolicy
    mistake, disruption, stopped = spec["podFailurePolicy"]["rules"]
    assert (mistake["action"], mistake["onExitCodes"]["values"]) == ("FailJob", [2])
    assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [75])
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    for rule in (mistake, stopped):
        assert rule["onExitCodes"]["containerName"] == container["name"]
    assert spec["backoffLimit"] >= 10 * spec["completions"]
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_data_and_workdir_lie_on_the_shared_volume(
    documents: dict[str, Any],
    pod: dict[str, Any],
    container: dict[str, Any],
    environment: dict[str, Any],
) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == set(volumes)
    claim = documents["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    shared = volumes[mounts["/shared"]]
    assert shared["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    config, workdir, *flags = container["args"]
    load_config(str(FILE.parents[1] / config), flags)
    assert workdir.startswith("/shared/") and environment["TFDS_DATA_DIR"].startswith("/shared/")


def test_it_asks_for_gpus(container: dict[str, Any]) -> None:
    assert container["resources"]["limits"]["nvidia.com/gpu"] >= 1
