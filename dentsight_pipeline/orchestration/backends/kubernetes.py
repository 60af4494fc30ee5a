"""Kubernetes, through its own Python client (`pip install 'dentsight_pipeline[k8s]'`): one pod a job.

Dagster's Pipes client for pods waits in the process that started the pod and deletes it when that ends; a training is
to outlive whoever ordered it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import urllib3

from dentsight_pipeline.errors import ConfigurationError
from dentsight_pipeline.orchestration.backends.base import (
    IMAGE_VARIABLE,
    Look,
    Phase,
    UnreachableError,
    gpus,
    required,
)

NAMESPACE_VARIABLE, SECRET_VARIABLE = "DENTSIGHT_K8S_NAMESPACE", "DENTSIGHT_K8S_SECRET"
GRACE_SECONDS = 60
_STUCK = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}
_SECONDS = 30


@dataclass(frozen=True)
class Kubernetes:
    """A cluster as kubectl reaches it, or the one that this process runs in."""

    image: str
    """With this package installed."""
    namespace: str = "default"
    """Of the pods."""
    secret: str = ""
    """Whose keys become the worker's environment: the bucket's credentials."""
    gpus: int = 1
    """Of one pod."""
    name: str = "kubernetes"
    """As `DENTSIGHT_BACKEND` says it."""
    shares_folders: bool = False
    """As `Scheduler` says."""
    price_per_hour: float | None = None
    """Nobody tells."""

    @classmethod
    def of_environment(cls) -> "Kubernetes":
        """By `DENTSIGHT_WORKER_IMAGE`, `DENTSIGHT_WORKER_GPUS` and the two variables above."""
        namespace = os.environ.get(NAMESPACE_VARIABLE, "").strip() or "default"
        secret = os.environ.get(SECRET_VARIABLE, "").strip()
        return cls(required(IMAGE_VARIABLE, "ghcr.io/you/dentsight:1"), namespace, secret, gpus())

    @property
    def asks_for_gpu(self) -> bool:
        """Whether its pods do."""
        return self.gpus > 0

    def submit(self, name: str, command: list[str], folder: Path) -> str:
        """A pod of this name; where there is one already, an answer got lost."""
        body = self.pod(name, command)
        self._ask(lambda: self._api.create_namespaced_pod(self.namespace, body, _request_timeout=_SECONDS), ok=409)
        return name

    def pod(self, name: str, command: list[str]) -> dict[str, Any]:
        """What is asked for."""
        container: dict[str, Any] = {"name": "worker", "image": self.image, "command": command}
        if self.secret:
            container["envFrom"] = [{"secretRef": {"name": self.secret}}]
        if self.gpus:
            container["resources"] = {"limits": {"nvidia.com/gpu": str(self.gpus)}}
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [container]}
        meta = {"name": name, "labels": {"app.kubernetes.io/name": "dentsight"}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}

    def find(self, name: str) -> str | None:
        """The name is the id."""
        return None if self.look(name).phase is Phase.GONE else name

    def look(self, job_id: str) -> Look:
        """The pod's phase, and why it waits or failed."""
        pod = self._ask(lambda: self._api.read_namespaced_pod_status(job_id, self.namespace, _request_timeout=_SECONDS))
        if pod is None:
            return Look(Phase.GONE, "there is no such pod")
        phase, why = _told(pod.status)
        if pod.status.phase == "Pending":
            return Look(Phase.STUCK if why.partition(":")[0] in _STUCK else Phase.WAITING, f"{phase} {why}".strip())
        return Look(Phase.RUNNING if phase == "Running" else Phase.GONE, f"{phase} {why}".strip())

    def cancel(self, job_id: str) -> None:
        """TERM first, KILL after a minute."""
        self._ask(lambda: self._api.delete_namespaced_pod(job_id, self.namespace, _request_timeout=_SECONDS))

    def output(self, job_id: str, folder: Path) -> str:
        """The end of its log."""
        read = self._api.read_namespaced_pod_log
        return self._ask(lambda: read(job_id, self.namespace, tail_lines=20, _request_timeout=_SECONDS), ok=400) or ""

    @cached_property
    def _api(self) -> Any:
        try:
            from kubernetes import client, config
        except ImportError as error:
            raise ConfigurationError("Install the client first: pip install 'dentsight_pipeline[k8s]'.") from error
        try:
            config.load_kube_config(os.environ.get("KUBECONFIG"))
        except config.ConfigException as error:
            try:
                config.load_incluster_config()
            except config.ConfigException:
                raise ConfigurationError(f"No cluster is known: {error} Set KUBECONFIG as for kubectl.") from error
        return client.CoreV1Api()

    def _ask(self, request: Callable[[], Any], ok: int = 404) -> Any:
        """What the API server answers; None where it answers 404, or what else is no fault here."""
        from kubernetes.client.exceptions import ApiException

        try:
            return request()
        except ApiException as error:
            if error.status in (404, ok):
                return None
            if error.status == 429 or not error.status or error.status >= 500:
                raise UnreachableError(f"Kubernetes answered {error.status}.") from error
            said = " ".join(str(error.body or error.reason).split())[:400]
            remedy = {401: "Log in again: the credentials have expired.", 403: "Look at quota and rights."}
            what = remedy.get(error.status, f"Correct {NAMESPACE_VARIABLE}, {SECRET_VARIABLE} or {IMAGE_VARIABLE}.")
            raise ConfigurationError(f"Kubernetes refused ({error.status}): {said} {what}") from error
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(f"Kubernetes does not answer ({type(error).__name__}).") from error


def _told(status: Any) -> tuple[str, str]:
    """A pod's phase, and the reason that it or its container gives."""
    if status.reason:
        return status.phase, f"{status.reason}: {status.message or ''}"
    for container in status.container_statuses or ():
        state = container.state
        for held in (state.waiting, state.terminated) if state else ():
            if held is not None and held.reason:
                return status.phase, f"{held.reason}: {held.message or ''}"
    return status.phase, ""
