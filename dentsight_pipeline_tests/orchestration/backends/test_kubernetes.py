"""Kubernetes: a contract test. The real client talks to a server here that plays the API of pods and runs commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dentsight_pipeline import errors
from dentsight_pipeline.orchestration.backends import kubernetes as backends
from dentsight_pipeline.orchestration.backends.base import Look, Phase, UnreachableError
from dentsight_pipeline.orchestration.backends.detached import Detached
from dentsight_pipeline.orchestration.backends.kubernetes import Kubernetes
from dentsight_pipeline_tests.orchestration.backends.loopback import PlayedCluster, Service, played
from dentsight_pipeline_tests.orchestration.backends.tasks import QUICK, Ordered, start, wait_until

pytest.importorskip("kubernetes", reason="needs the extra k8s")
WAITING = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The played cluster, a kubeconfig for it, and the settings of its user."""
    with played(PlayedCluster, tmp_path / "pods") as (service, address):
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": address}}],
            "users": [{"name": "me", "user": {"token": "a-token"}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(known))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("DENTSIGHT_WORKER_IMAGE", "ghcr.io/lab/dentsight:1")
        monkeypatch.setenv(backends.SECRET_VARIABLE, "bucket")
        monkeypatch.setenv(backends.NAMESPACE_VARIABLE, "lab")
        yield service


def test_a_pod_asks_for_a_gpu_its_image_and_the_secret(cluster: Service, tmp_path: Path) -> None:
    """What `kubectl get pod -o yaml` would show; the command holds the store's address and no credential."""
    scheduler = Kubernetes.of_environment()
    command = ["python", "-m", "dentsight_pipeline.training", "remote", "s3://bucket/store", "fit-a-b"]

    scheduler.submit("dentsight-fit-a-b-1", command, tmp_path)

    pod = cluster.asked[0]
    container = pod["spec"]["containers"][0]
    assert (pod["metadata"]["name"], pod["spec"]["restartPolicy"]) == ("dentsight-fit-a-b-1", "Never")
    assert (container["image"], container["command"]) == ("ghcr.io/lab/dentsight:1", command)
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "1"}}
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    assert cluster.tokens == {"Bearer a-token"}


def test_a_pod_that_is_there_already_is_the_one_whose_answer_got_lost(cluster: Service, tmp_path: Path) -> None:
    """The name is the attempt's: never two pods for one."""
    scheduler = Kubernetes.of_environment()

    names = [scheduler.submit("dentsight-1", ["sleep", "60"], tmp_path) for _ in range(2)]

    assert names == ["dentsight-1"] * 2
    assert len(cluster.asked) == 1
    assert scheduler.find("dentsight-1") == "dentsight-1"


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Pending"}, Look(Phase.WAITING, "Pending")),
        ({"phase": "Running"}, Look(Phase.RUNNING, "Running")),
        ({"phase": "Failed", "reason": "Evicted", "message": "no disk"}, Look(Phase.GONE, "Failed Evicted: no disk")),
        (
            {"phase": "Pending", "container_state": WAITING},
            Look(Phase.STUCK, "Pending ImagePullBackOff: no such image"),
        ),
        (
            {"phase": "Failed", "container_state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            Look(Phase.GONE, "Failed OOMKilled:"),
        ),
    ],
)
def test_each_end_of_a_pod_has_its_words(
    cluster: Service, tmp_path: Path, status: dict[str, Any], expected: Look
) -> None:
    """Evicted, out of memory, no image: a person reads why."""
    scheduler, told = Kubernetes.of_environment(), dict(status)
    scheduler.submit("dentsight-1", ["sleep", "60"], tmp_path)
    if state := told.pop("container_state", None):
        told["containerStatuses"] = [
            {"name": "worker", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        ]
    cluster.stages["dentsight-1"] = told

    assert scheduler.look("dentsight-1") == expected


def test_a_deleted_pod_is_gone_and_deleting_it_again_no_error(cluster: Service, tmp_path: Path) -> None:
    """Somebody else did it."""
    scheduler = Kubernetes.of_environment()
    scheduler.submit("dentsight-1", ["sleep", "60"], tmp_path)
    scheduler.cancel("dentsight-1")

    scheduler.cancel("dentsight-1")
    assert scheduler.look("dentsight-1").phase is Phase.GONE


@pytest.mark.parametrize(
    ("status", "words"), [(401, "Log in again"), (403, "quota and rights"), (422, "Correct DENTSIGHT_K8S")]
)
def test_a_refusal_says_what_to_do(cluster: Service, tmp_path: Path, status: int, words: str) -> None:
    """Kubernetes' own words hold the field or the quota."""
    cluster.status, cluster.body = status, {"kind": "Status", "message": "exceeded quota: gpus"}

    with pytest.raises(errors.ConfigurationError, match=f"(?s)exceeded quota.*{words}"):
        Kubernetes.of_environment().submit("dentsight-1", ["true"], tmp_path)


def test_a_server_that_fails_says_nothing_of_a_pod(cluster: Service) -> None:
    """An upgrade of the control plane leaves pods running."""
    cluster.status = 503

    with pytest.raises(UnreachableError, match="503"):
        Kubernetes.of_environment().look("dentsight-1")


def test_a_pod_that_cannot_start_ends_the_step_with_a_clear_line(
    cluster: Service, in_bucket: Callable[[int], Ordered], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for ever, and hold its place."""
    ordered = in_bucket(8)
    monkeypatch.setattr(Service, "run", lambda service, name, *_: service.processes.update({name: _Sleeping()}))
    state = {"name": "worker", "image": "i", "imageID": "", "ready": False, "restartCount": 0, "state": WAITING}
    name = f"dentsight-{ordered.task.key}-1"
    cluster.stages[name] = {"phase": "Pending", "containerStatuses": [state]}

    with pytest.raises(errors.ConfigurationError, match="cannot start: Pending ImagePullBackOff: no such image"):
        start(Detached(Kubernetes.of_environment(), QUICK), ordered).result(60)
    assert cluster.deleted == [name]


@pytest.mark.slow
def test_a_training_in_a_played_pod_that_is_evicted_once_ends_in_the_store(
    cluster: Service, in_bucket: Callable[[int], Ordered]
) -> None:
    """The next pod goes on from the bucket's state."""
    ordered = in_bucket(20)
    waiting = start(Detached(Kubernetes.of_environment(), QUICK), ordered)
    wait_until(lambda: max(ordered.steps, default=0) >= 5, 300)
    name = f"dentsight-{ordered.task.key}-1"
    cluster.stages[name] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    cluster.processes[name].terminate()
    result = waiting.result(600)

    assert result.job
    assert ordered.log.has("Evicted: The node was low on memory.")
    assert ordered.said("Resuming at step")


class _Sleeping:
    """A process that never ends."""

    def poll(self) -> None:
        """It runs."""

    def kill(self) -> None:
        """It does not mind."""

    terminate = wait = kill
