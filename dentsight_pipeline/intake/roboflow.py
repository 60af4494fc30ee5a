"""A small client of Roboflow's HTTP API: list the versions of a project, and download one as a verified zip.

Three promises, each with tests against a real server. A download is whole or absent: bytes arrive in a `.part` file,
which is checked (size, and the checksum of every zip entry) before it gets its name. What was cut goes on where it
stopped. And the API key, which Roboflow takes in the URL, is in no log, error, `repr`, file name or record.

The official SDK is not used because it returns silently when the folder exists, even half downloaded, checks neither
the status of the zip's answer nor its bytes, and rewrites files of the export.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import requests
from filelock import FileLock
from pydantic import SecretStr

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.intake.files import is_whole_zip
from dentsight_pipeline.progress import Progress

API_URL = "https://api.roboflow.com"
KEY_VARIABLE, URL_VARIABLE = "ROBOFLOW_API_KEY", "ROBOFLOW_API_URL"
KEY_FILE_VARIABLE = "ROBOFLOW_API_KEY_FILE"
"""Names a file with the key, as secrets are mounted in containers; the variable with the key itself goes first."""

_RECEIVED_CHUNK = 2**15  # what a cut connection can lose
_LONGEST_WAIT_S = 300.0
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_EXPIRED_LINK = frozenset({400, 401, 403, 404, 410})
_RANGE_NOT_SATISFIABLE = 416
_CONFLICT = 409
_SLUG = re.compile(r"[A-Za-z0-9_-]+")
_SECRET_PARAMETER = re.compile(r"(?i)([?&;](?:api_key|key|token|[\w-]*signature|[\w-]*credential)=)[^&\s'\"<>)]*")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoboflowVersion:
    """One version of a project.

    Attributes:
        number: The version's number, the last part of its id.
        name: The name that it was given.
        images: How many images it holds, 0 when the API does not say.
        created: When it was made, ISO 8601 in UTC, empty when the API does not say.
    """

    number: int
    name: str
    images: int
    created: str


@dataclass(frozen=True, slots=True)
class DownloadedExport:
    """A verified zip of one version.

    Attributes:
        path: The zip.
        identity: `workspace`, `project`, `version`, `annotation_format`, and as far as the API says `name`, `licence`
            and `created`.
    """

    path: Path
    identity: Mapping[str, str]


def parse_location(location: str) -> tuple[str, str, int]:
    """Split `roboflow:workspace/project/version`.

    Raises:
        ConfigurationError: The location has another form.
    """
    parts = location.removeprefix("roboflow:").strip("/").split("/")
    if len(parts) != 3 or not all(_SLUG.fullmatch(part) for part in parts[:2]) or not parts[2].isdecimal():
        raise ConfigurationError(
            f"{location!r} is no version on Roboflow. Write roboflow:workspace/project/version with the names of the "
            "page's address, e.g. roboflow:my-team/opg-reporting/8."
        )
    return parts[0], parts[1], int(parts[2])


def parse_project(place: str) -> str:
    """The project of `workspace/project`; the key says which workspace is meant.

    Raises:
        ConfigurationError: The place has another form.
    """
    parts = place.removeprefix("roboflow:").strip("/").split("/")
    if len(parts) != 2 or not all(map(_SLUG.fullmatch, parts)):
        raise ConfigurationError(
            f"{place!r} is no project on Roboflow. Write workspace/project, e.g. my-team/opg-review."
        )
    return parts[1]


def read_key(variables: Mapping[str, str]) -> SecretStr | None:
    """The API key from the environment or from the file that it names; None when neither is set.

    Args:
        variables: The environment.

    Raises:
        ConfigurationError: The file cannot be read, or is empty.
    """
    if key := variables.get(KEY_VARIABLE, "").strip():
        return SecretStr(key)
    named = variables.get(KEY_FILE_VARIABLE, "").strip()
    if not named:
        return None
    try:
        key = Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError(
            f"The Roboflow API key cannot be read from {named} ({KEY_FILE_VARIABLE}): {why}. Name a readable file that "
            "holds the key alone."
        ) from error
    if not key:
        raise ConfigurationError(f"{named} ({KEY_FILE_VARIABLE}) is empty. It must hold the Roboflow API key alone.")
    return SecretStr(key)


class _Answer(msgspec.Struct):
    """What is read of the API's answers. Nothing is taken on trust: each use checks what it finds."""

    versions: Any = None
    export: object = None
    project: object = None
    version: object = None
    progress: object = None
    id: object = None
    error: object = msgspec.UNSET
    message: object = ""


@dataclass(frozen=True)
class RoboflowClient:
    """Talks to Roboflow with one API key.

    Attributes:
        api_key: The private key; shown nowhere.
        base_url: The API's address; `http://` is accepted for this machine only, because the key travels in the URL.
        timeout_s: Seconds to connect and between two received bytes.
        attempts: How often a request is tried before giving up; receiving bytes starts the count again.
        generation_timeout_s: How long to wait for Roboflow to generate an export.
        sleep: Waits that many seconds.
    """

    api_key: SecretStr
    base_url: str = API_URL
    timeout_s: tuple[float, float] = (10.0, 60.0)
    attempts: int = 6
    generation_timeout_s: float = 3600.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would give the key away."""
        if not self.api_key.get_secret_value().strip():
            raise ConfigurationError(f"The Roboflow API key is empty. Set {KEY_VARIABLE}; see docs/operations.md.")
        parts = urlsplit(self.base_url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and local):
            raise ConfigurationError(
                f"{_without_parameters(self.base_url)!r} is no address for Roboflow's API: the key would travel "
                f"unencrypted. Use https://, or leave {URL_VARIABLE} unset for {API_URL}."
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **options: Any) -> RoboflowClient:
        """Make a client from `ROBOFLOW_API_KEY` or `ROBOFLOW_API_KEY_FILE`, and `ROBOFLOW_API_URL` where it is set.

        Args:
            environment: The variables, by default the process's.
            options: Further fields of the client.

        Raises:
            ConfigurationError: There is no key, or its file cannot be read.
        """
        variables = os.environ if environment is None else environment
        key = read_key(variables)
        if key is None:
            raise ConfigurationError(
                f"Roboflow needs an API key: set the environment variable {KEY_VARIABLE}, or {KEY_FILE_VARIABLE} to a "
                "file that holds it (app.roboflow.com, Settings, API Keys), or export the version there and give the "
                "zip with --export."
            )
        return cls(key, variables.get(URL_VARIABLE) or API_URL, **options)

    def list_versions(self, workspace: str, project: str) -> list[RoboflowVersion]:
        """All versions of a project, the oldest first.

        Raises:
            ConfigurationError: The key was refused.
            DataError: There is no such project, or Roboflow does not answer.
        """
        status, answer = self._ask(f"{workspace}/{project}", {})
        if status != 200:
            raise self._refused(f"project {workspace}/{project}", status, answer)
        versions = [_version(record) for record in answer.versions or []]
        return sorted((version for version in versions if version), key=lambda version: version.number)

    def download(
        self,
        workspace: str,
        project: str,
        version: int,
        folder: Path,
        *,
        export_format: str = "coco-segmentation",
        progress: Progress | None = None,
    ) -> DownloadedExport:
        """Download a version's export into a folder, going on with what an earlier call left.

        A zip that an earlier call finished is verified again and used. Two processes may ask for the same version in
        the same folder: the second waits, then finds the zip.

        Args:
            workspace: The workspace's name in addresses.
            project: The project's name in addresses.
            version: The version's number.
            folder: Where the zip goes.
            export_format: Roboflow's name of the format: `coco-segmentation`, `coco`, `yolov8`, …
            progress: Told while Roboflow generates the export, of received bytes, and of the check.

        Raises:
            ConfigurationError: The key was refused.
            DataError: There is no such version, Roboflow does not answer, or what it sends stays damaged.
        """
        report = progress or (lambda stage, done, total: None)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{workspace}.{project}.v{version}.{export_format}.zip"
        with FileLock(target.with_name(target.name + ".lock")):
            answer = self._export(workspace, project, version, export_format, report)
            identity = _identity(workspace, project, version, export_format, answer)
            if not (target.exists() and is_whole_zip(target, report)):

                def fresh_link() -> str:
                    return _link(self._export(workspace, project, version, export_format, report))

                self._fetch(_link(answer), fresh_link, target, report)
        return DownloadedExport(target, identity)

    def upload_image(self, project: str, name: str, data: bytes, batch: str) -> str:
        """Put an image into a project, into a batch of its own, and give its id there; one that is there stays.

        Raises:
            ConfigurationError: The key was refused.
            DataError: There is no such project, or Roboflow does not answer.
        """
        sent = {"files": {"file": (name, data)}, "data": {"name": name}}
        status, answer = self._ask(f"dataset/{project}/upload", {"name": name, "batch": batch}, sent)
        if status != 200 or not isinstance(answer.id, str):
            raise self._refused(f"upload to project {project}", status, answer)
        return answer.id

    def annotate(self, project: str, image: str, name: str, coco: str, job: str) -> None:
        """Attach boxes to an image as pre-annotations, for people to approve; raises as `upload_image` does."""
        asked = {"name": f"{name}.coco.json", "jobName": job, "prediction": "true"}
        sent = {"json": {"annotationFile": coco, "labelmap": None}}
        status, answer = self._ask(f"dataset/{project}/annotate/{image}", asked, sent)
        if status != 200 and not (status == _CONFLICT and "already annotated" in _message(answer)):
            raise self._refused(f"annotation of image {image} of project {project}", status, answer)

    def _export(self, workspace: str, project: str, version: int, export_format: str, report: Progress) -> _Answer:
        """The API's answer that holds the link, after waiting for the export to be generated."""
        path = f"{workspace}/{project}/{version}/{export_format}"
        waited, pause = 0.0, 1.0
        while True:
            status, answer = self._ask(path, {"nocache": "true"})
            if status == 200 and _link_in(answer) is not None:
                return answer
            if status not in (200, 202):
                raise self._refused(f"version {path}", status, answer)
            if waited >= self.generation_timeout_s:
                raise DataError(
                    f"Roboflow has not generated {path} within {self.generation_timeout_s:.0f} s. "
                    "Look at the version's page there, and run this again: it goes on waiting where it stopped."
                )
            report("Roboflow generates the export", _percent(answer.progress), 100)
            self.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.5, 15.0)

    def _fetch(self, link: str, fresh_link: Callable[[], str], target: Path, report: Progress) -> None:
        """Download the zip until it is whole, then give it its name."""
        part = _Part(target.with_name(target.name + ".part"))
        if part.expected is not None and part.is_complete and is_whole_zip(part.path, report):
            part.finish(target)
            return
        worth_another = _RETRIED | _EXPIRED_LINK | {_RANGE_NOT_SATISFIABLE}
        failures = damaged = 0
        while True:
            before = part.size
            status, pause, problem = self._receive(link, part, report)
            if problem is None:
                if part.is_complete and is_whole_zip(part.path, report):
                    part.finish(target)
                    return
                damaged += 1
                part.discard()
                problem = "the zip arrived damaged"
            elif status in _EXPIRED_LINK:
                link = fresh_link()
            failures = 1 if part.size > before else failures + 1
            if failures >= self.attempts or damaged >= 3 or (status >= 400 and status not in worth_another):
                raise DataError(
                    f"Roboflow's export {target.name} could not be downloaded: {problem} "
                    f"({failures + damaged} attempts). Run it again later: what has arrived is kept and continued."
                )
            self._wait(failures, pause, problem)

    def _receive(self, link: str, part: _Part, report: Progress) -> tuple[int, float | None, str | None]:
        """One request for the rest of the zip: HTTP status, pause asked for, and what went wrong (None: nothing)."""
        with self._quiet_logs():
            try:
                headers = {"Accept-Encoding": "identity", **part.range_headers()}
                with requests.get(link, headers=headers, stream=True, timeout=self.timeout_s) as response:
                    if response.status_code not in (200, 206):
                        if response.status_code == _RANGE_NOT_SATISFIABLE:
                            part.discard()
                        return response.status_code, _retry_after(response), f"HTTP {response.status_code}"
                    with part.opened(response) as write:
                        for chunk in response.iter_content(_RECEIVED_CHUNK):
                            write(chunk)
                            report("downloading the export", part.size, part.expected or 0)
            except requests.RequestException as error:
                return 0, None, _kind(error)
        if part.expected is not None and part.size < part.expected:
            return 0, None, f"the connection ended after {part.size} of {part.expected} bytes"
        return 200, None, None

    def _ask(
        self, path: str, parameters: Mapping[str, str], sent: Mapping[str, Any] | None = None
    ) -> tuple[int, _Answer]:
        """GET a JSON document, or POST what is sent, tried again while Roboflow is busy or unreachable."""
        url = f"{self.base_url.rstrip('/')}/{quote(path)}"
        failures = 0
        while True:
            status, pause, answer, problem = self._ask_once(url, parameters, sent or {})
            if problem is None:
                return status, answer
            failures += 1
            if failures >= self.attempts:
                raise DataError(
                    f"Roboflow does not answer for {path}: {problem} ({failures} attempts). Check the network and "
                    "status.roboflow.com, or give an exported zip with --export."
                )
            self._wait(failures, pause, problem)

    def _ask_once(
        self, url: str, parameters: Mapping[str, str], sent: Mapping[str, Any]
    ) -> tuple[int, float | None, _Answer, str | None]:
        """One request. No exception leaves this frame: those of `requests` carry the URL, and the URL the key."""
        with self._quiet_logs():
            try:
                response = requests.request(
                    "POST" if sent else "GET",
                    url,
                    **sent,
                    params={**parameters, "api_key": self.api_key.get_secret_value()},
                    timeout=self.timeout_s,
                    allow_redirects=False,  # another host must not be handed the key
                )
                content = response.content
            except requests.RequestException as error:
                return 0, None, _Answer(), _kind(error)
        if response.status_code in _RETRIED:
            return response.status_code, _retry_after(response), _Answer(), f"HTTP {response.status_code}"
        try:
            answer, problem = msgspec.convert(json.loads(content), _Answer), None
        except ValueError:
            answer, problem = _Answer(), "its answer is no JSON object" if response.ok else None
        return response.status_code, None, answer, problem

    def _wait(self, failures: int, asked_s: float | None, problem: str) -> None:
        """Back off: what the server asks for, or 1, 2, 4, … seconds."""
        seconds = min(2.0 ** (failures - 1), 60.0) if asked_s is None else asked_s
        seconds = min(seconds, _LONGEST_WAIT_S)
        _logger.info("Roboflow: %s; trying again in %.0f s", self._redacted(problem), seconds)
        self.sleep(seconds)

    def _refused(self, what: str, status: int, answer: _Answer) -> DataError | ConfigurationError:
        """The error for an answer that trying again does not change."""
        said = self._redacted(_message(answer))
        said = f" It says: {said}" if said else ""
        if status in (401, 403):
            return ConfigurationError(
                f"Roboflow refuses the API key for {what} (HTTP {status}).{said} Check {KEY_VARIABLE}, and that its "
                "workspace may read this project."
            )
        if status == 404:
            return DataError(f"Roboflow has no {what}.{said} The names are those of the project page's address.")
        return DataError(f"Roboflow refuses {what} (HTTP {status}).{said}")

    def _redacted(self, text: str) -> str:
        """The text without the key, as it is or URL-encoded, and without other secrets of addresses."""
        key = self.api_key.get_secret_value()
        for secret in {key, quote(key, safe="")}:
            text = text.replace(secret, "***")
        return _SECRET_PARAMETER.sub(r"\1***", text)

    @contextmanager
    def _quiet_logs(self) -> Iterator[None]:
        """Keep addresses with secrets out of urllib3's debug log while a request runs."""

        def redact(record: logging.LogRecord) -> bool:
            record.msg, record.args = self._redacted(record.getMessage()), ()
            return True

        loggers = [logging.getLogger(name) for name in ("urllib3.connectionpool", "urllib3.util.retry")]
        for logger in loggers:
            logger.addFilter(redact)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeFilter(redact)


class _Part:
    """A download that is not finished: `<name>.part`, and beside it what is needed to go on."""

    def __init__(self, path: Path) -> None:
        self.path, self._notes = path, path.with_name(path.name + ".json")
        self.expected: int | None = None
        self._validator = ""
        try:
            notes = json.loads(self._notes.read_text())
            self.expected, self._validator = notes["expected"], notes["validator"]
        except (OSError, ValueError, KeyError):
            self.discard()

    @property
    def size(self) -> int:
        """Bytes received."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def is_complete(self) -> bool:
        """Whether as many bytes arrived as were announced; without an announcement the zip itself must tell."""
        return self.expected is None or self.size == self.expected

    def range_headers(self) -> dict[str, str]:
        """Ask for the rest, provided that the file is still the same."""
        if not self.size or not self._validator or self.size == self.expected:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self._validator}

    @contextmanager
    def opened(self, response: requests.Response) -> Iterator[Callable[[bytes], object]]:
        """Open for what the answer brings: the rest (206), or all of it again (200)."""
        start = self._start(response)
        if start != self.size:
            self.discard()
        length = response.headers.get("Content-Length", "")
        self.expected = start + int(length) if length.isdecimal() else None
        self._validator = _validator(response)
        self._notes.write_text(json.dumps({"expected": self.expected, "validator": self._validator}))
        if start != self.size:
            raise requests.ConnectionError("the server continued at another byte than asked for")
        with self.path.open("ab", buffering=0) as stream:
            yield stream.write

    def _start(self, response: requests.Response) -> int:
        """At which byte the answer's body begins."""
        if response.status_code != 206:
            return 0
        found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        return int(found[1]) if found else 0

    def discard(self) -> None:
        """Forget what was received."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.expected, self._validator = None, ""

    def finish(self, target: Path) -> None:
        """Give the verified file its name."""
        with self.path.open("rb") as stream:
            os.fsync(stream.fileno())
        self.path.replace(target)
        self._notes.unlink(missing_ok=True)


def _validator(response: requests.Response) -> str:
    """What proves that two answers are about the same bytes: a strong ETag, or the date of the last change."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _link_in(answer: _Answer) -> str | None:
    """What an answer gives as the zip's address, which is a secret of its own."""
    link = _mapping(answer.export).get("link")
    return link if isinstance(link, str) else None


def _link(answer: _Answer) -> str:
    link = _link_in(answer) or ""
    if urlsplit(link).scheme not in ("https", "http"):
        raise DataError("Roboflow's answer holds no web address for the zip. Export the version by hand.")
    return link


def _identity(workspace: str, project: str, version: int, export_format: str, answer: _Answer) -> dict[str, str]:
    """What the manifest records of the source; never the link."""
    about_project, about_version = _mapping(answer.project), _mapping(answer.version)
    known = {
        "workspace": workspace,
        "project": project,
        "version": str(version),
        "annotation_format": export_format,
        "name": str(about_project.get("name") or ""),
        "licence": str(about_project.get("license") or ""),
        "created": _moment(about_version.get("created")),
    }
    return {name: value for name, value in known.items() if value}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _version(record: object) -> RoboflowVersion | None:
    """A record of the API's list, or None when it has no number."""
    if not isinstance(record, Mapping):
        return None
    number = str(record.get("id") or "").rpartition("/")[2]
    if not number.isdecimal():
        return None
    images = record.get("images")
    return RoboflowVersion(
        int(number),
        str(record.get("name") or ""),
        images if isinstance(images, int) else 0,
        _moment(record.get("created")),
    )


def _moment(seconds: object) -> str:
    """Unix seconds as ISO 8601; the API's own text unchanged."""
    if isinstance(seconds, int | float):
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return seconds if isinstance(seconds, str) else ""


def _percent(share: object) -> int:
    """Progress from 0 to 1 as whole percent; 0 when the API does not say."""
    return round(100 * min(max(float(share), 0.0), 1.0)) if isinstance(share, int | float) else 0


def _retry_after(response: requests.Response) -> float | None:
    """Seconds that the server asks to wait (RFC 9110, 10.2.3: a number or a date), or None."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _message(answer: _Answer) -> str:
    """What the API says about an error, at most 300 characters."""
    error = answer.message if answer.error is msgspec.UNSET else answer.error
    error = _mapping(error).get("message", "") if isinstance(error, Mapping) else error
    return str(error or "")[:300]


def _kind(error: requests.RequestException) -> str:
    """An exception of `requests` in words that cannot hold its URL."""
    kinds = (
        (requests.Timeout, "no answer in time"),
        (requests.exceptions.SSLError, "the server's certificate is not accepted"),
        (requests.exceptions.ChunkedEncodingError, "the connection was cut"),
        (requests.ConnectionError, "the connection failed"),
    )
    return next((words for kind, words in kinds if isinstance(error, kind)), type(error).__name__)


def _without_parameters(url: str) -> str:
    return url.split("?")[0].split("#")[0]
