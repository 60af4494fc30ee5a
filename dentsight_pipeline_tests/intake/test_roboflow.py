"""The Roboflow client against a real HTTP server that is slow, busy, cuts, lies and sends damaged bytes."""

from __future__ import annotations

import io
import logging
import time
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from pydantic import SecretStr

from dentsight_pipeline.errors import ConfigurationError, DataError, DentsightError
from dentsight_pipeline.intake.roboflow import RoboflowClient, RoboflowVersion, parse_location
from dentsight_pipeline_tests.local_server import QuietHandler, serving

KEY = "rf_s3cret+key/42"
LINK_SECRET = "lnk-9f8e7d"


def make_zip(seed: int = 0) -> bytes:
    """An export of about 300 kB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("README.roboflow.txt", "OPG REPORTING - v8")
        for number in range(3):
            archive.writestr(f"train/{number}.jpg", np.random.default_rng(seed + number).bytes(100_000))
    return buffer.getvalue()


ZIP = make_zip()


@dataclass
class Script:
    """What the server is to do next; when the lists are used up, it behaves."""

    api: list[tuple[int, dict[str, str], object]] = field(default_factory=list)
    """Status, headers, body (JSON) of the next answers of the API."""
    zips: list[str] = field(default_factory=list)
    """How the next downloads go: `cut`, `corrupt`, `slow`, `500`, `expired`, `no ranges`, `stall`, `no length`."""
    content: bytes = field(default=ZIP)
    etag: str = '"v8"'
    seen: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)


class Handler(QuietHandler):
    """Plays Roboflow's API and its file server."""

    protocol_version = "HTTP/1.1"
    script: Script

    def do_GET(self) -> None:
        """Answer the API or the zip."""
        self.script.seen.append(self.path)
        parts = urlsplit(self.path)
        if parts.path == "/zip":
            self._send_zip()
        elif parse_qs(parts.query).get("api_key") != [KEY]:
            self._json(401, {}, {"error": {"message": f"key {parse_qs(parts.query).get('api_key')} is not known"}})
        elif self.script.api:
            self._json(*self.script.api.pop(0))
        elif parts.path == "/team/opg/8/coco-segmentation":
            link = f"http://127.0.0.1:{self.connection.getsockname()[1]}/zip?token={LINK_SECRET}"
            project = {"name": "OPG REPORTING", "license": "CC BY 4.0"}
            self._json(
                200, {}, {"export": {"link": link}, "project": project, "version": {"id": "team/opg/8", "created": 1e9}}
            )
        elif parts.path == "/team/opg":
            versions = [
                {"id": "team/opg/8", "name": "reduced", "images": 2213, "created": 1e9},
                {"id": "team/opg/2", "name": "first", "images": 100},
                {"id": "broken"},
            ]
            self._json(200, {}, {"versions": versions})
        else:
            self._json(404, {}, {"error": {"message": "nothing here"}})

    def _json(self, status: int, headers: dict[str, str], body: object) -> None:
        self.answer(status, body, headers)

    def _send_zip(self) -> None:
        how = self.script.zips.pop(0) if self.script.zips else ""
        self.script.ranges.append(self.headers.get("Range"))
        if how == "500":
            return self._json(500, {}, {})
        if how == "expired":
            return self._json(403, {}, {})
        content = bytes(self.script.content)
        if how == "corrupt":
            content = content[:150_000] + bytes([255 - content[150_000]]) + content[150_001:]
        wanted = self.headers.get("Range")
        start = 0
        if wanted and how != "no ranges" and self.headers.get("If-Range", self.script.etag) == self.script.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", self.script.etag)
        if how == "no length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        if how in ("cut", "no length"):
            self.wfile.write(body[:120_000])
            self.close_connection = True
            return None
        if how == "stall":
            self.wfile.write(body[:50_000])
            self.wfile.flush()
            time.sleep(0.8)
            self.close_connection = True
            return None
        for offset in range(0, len(body), 60_000):
            self.wfile.write(body[offset : offset + 60_000])
            if how == "slow":
                time.sleep(0.05)
        return None


@pytest.fixture
def script() -> Script:
    """The server's script, empty: everything works."""
    return Script()


@pytest.fixture
def base_url(script: Script) -> Iterator[str]:
    """The address of a running server that follows the script."""
    with serving(type("Scripted", (Handler,), {"script": script})) as address:
        yield address


@dataclass
class Sleeps:
    """Stands in for waiting; remembers how long."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def sleeps() -> Sleeps:
    """The pauses that the client made."""
    return Sleeps()


@pytest.fixture
def client(base_url: str, sleeps: Sleeps) -> RoboflowClient:
    """A client of the scripted server."""
    return RoboflowClient(SecretStr(KEY), base_url, timeout_s=(2.0, 0.4), sleep=sleeps)


def visible(folder: Path) -> list[str]:
    """What a person sees as finished in the folder."""
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".zip")


def test_a_version_arrives_as_a_whole_zip_with_its_identity(client: RoboflowClient, tmp_path: Path) -> None:
    """The manifest is to say which version of which project, under which licence, in which format."""
    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert visible(tmp_path) == [fetched.path.name]
    assert fetched.identity == {
        "workspace": "team",
        "project": "opg",
        "version": "8",
        "annotation_format": "coco-segmentation",
        "name": "OPG REPORTING",
        "licence": "CC BY 4.0",
        "created": "2001-09-09T01:46:40+00:00",
    }


def test_waiting_for_the_export_to_be_generated_is_visible(
    client: RoboflowClient, script: Script, sleeps: Sleeps, tmp_path: Path
) -> None:
    """Roboflow takes minutes to generate a format; silence would look like a hang."""
    script.api = [(202, {}, {"progress": share}) for share in (None, 0.25, 0.9)]
    reports: list[tuple[str, int, int]] = []

    client.download("team", "opg", 8, tmp_path, progress=lambda *report: reports.append(report))

    assert [done for stage, done, _ in reports if stage == "Roboflow generates the export"] == [0, 25, 90]
    assert ("downloading the export", len(ZIP), len(ZIP)) in reports
    assert ("checking the zip", 4, 4) in reports
    assert len(sleeps.seconds) == 3


def test_an_export_that_is_never_generated_ends_with_advice(
    base_url: str, script: Script, sleeps: Sleeps, tmp_path: Path
) -> None:
    """A nightly run must not wait for ever."""
    script.api = [(202, {}, {"progress": 0.5})] * 20
    client = RoboflowClient(SecretStr(KEY), base_url, sleep=sleeps, generation_timeout_s=10)

    with pytest.raises(DataError, match=r"has not generated team/opg/8/coco-segmentation within 10 s"):
        client.download("team", "opg", 8, tmp_path)


def test_too_many_requests_waits_as_long_as_asked(client: RoboflowClient, script: Script, sleeps: Sleeps) -> None:
    """Coming back earlier than Retry-After is how clients get banned."""
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    script.api = [(429, {"Retry-After": "7"}, {}), (429, {"Retry-After": in_a_minute}, {}), (429, {}, {})]

    versions = client.list_versions("team", "opg")

    assert versions == [
        RoboflowVersion(2, "first", 100, ""),
        RoboflowVersion(8, "reduced", 2213, "2001-09-09T01:46:40+00:00"),
    ]
    assert sleeps.seconds[0] == 7
    assert 50 < sleeps.seconds[1] <= 61
    assert sleeps.seconds[2] == 4


def test_server_errors_are_tried_again_with_growing_pauses_and_then_given_up(
    client: RoboflowClient, script: Script, sleeps: Sleeps
) -> None:
    """Two bad minutes at Roboflow must not fail a night's run; a bad night must end with a clear line."""
    script.api = [(500, {}, {}), (503, {}, b"<html>busy</html>")]
    client.list_versions("team", "opg")
    assert sleeps.seconds == [1, 2]

    script.api = [(502, {}, {})] * 6
    with pytest.raises(DataError, match=r"does not answer for team/opg: HTTP 502 \(6 attempts\)"):
        client.list_versions("team", "opg")


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_cut_download_goes_on_where_it_stopped(
    client: RoboflowClient, script: Script, tmp_path: Path, how: str
) -> None:
    """A gigabyte over a bad line arrives in pieces, each byte once."""
    script.zips = [how, how]

    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert script.ranges[0] is None
    assert all(asked and int(asked[6:-1]) > 0 for asked in script.ranges[1:])


def test_a_later_call_continues_what_an_earlier_one_left(
    base_url: str, script: Script, sleeps: Sleeps, tmp_path: Path
) -> None:
    """The process may have been killed; only the `.part` file is there, and nobody takes it for the export."""
    script.zips = ["cut", "500"]
    impatient = RoboflowClient(SecretStr(KEY), base_url, sleep=sleeps, attempts=1)
    with pytest.raises(DataError, match="what has arrived is kept and continued"):
        impatient.download("team", "opg", 8, tmp_path)
    assert visible(tmp_path) == []

    script.zips = []
    fetched = RoboflowClient(SecretStr(KEY), base_url, sleep=sleeps).download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert script.ranges[-1] == f"bytes={120_000 // 2**15 * 2**15}-"


def test_a_file_that_changed_between_two_pieces_is_fetched_anew(
    base_url: str, script: Script, sleeps: Sleeps, tmp_path: Path
) -> None:
    """Roboflow may generate the export again: the halves of two exports are no export."""
    script.zips = ["cut"]
    with pytest.raises(DataError, match="could not be downloaded"):
        RoboflowClient(SecretStr(KEY), base_url, sleep=sleeps, attempts=1).download("team", "opg", 8, tmp_path)
    script.etag, script.content = '"again"', make_zip(seed=10)

    fetched = RoboflowClient(SecretStr(KEY), base_url, sleep=sleeps).download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == script.content
    assert len(script.ranges) == 2


def test_a_server_without_ranges_starts_again(client: RoboflowClient, script: Script, tmp_path: Path) -> None:
    """The whole file (200) after a request for the rest must not be appended to the first half."""
    script.zips = ["cut", "no ranges"]

    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert len(script.ranges) == 2


def test_a_damaged_zip_is_found_by_its_checksums_and_fetched_again(
    client: RoboflowClient, script: Script, tmp_path: Path
) -> None:
    """One flipped bit has the right size; only the entries' CRC can tell."""
    script.zips = ["corrupt"]

    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert len(script.ranges) == 2


def test_a_zip_that_stays_damaged_is_refused_and_never_visible(
    client: RoboflowClient, script: Script, tmp_path: Path
) -> None:
    """Better no dataset than one with a broken image in it."""
    script.zips = ["corrupt"] * 5

    with pytest.raises(DataError, match="arrived damaged"):
        client.download("team", "opg", 8, tmp_path)

    assert visible(tmp_path) == []


def test_an_answer_without_length_that_ends_early_is_no_zip(
    client: RoboflowClient, script: Script, tmp_path: Path
) -> None:
    """Without a length only the zip's directory at the end proves that it is whole."""
    script.zips = ["no length"]

    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP


def test_an_expired_link_is_asked_for_again(client: RoboflowClient, script: Script, tmp_path: Path) -> None:
    """Signed links live for minutes; the download of a large export may not."""
    script.zips = ["cut", "expired", "slow"]

    fetched = client.download("team", "opg", 8, tmp_path)

    assert fetched.path.read_bytes() == ZIP
    assert sum(path.startswith("/team/opg/8") for path in script.seen) == 2


def test_a_finished_download_is_verified_and_used_but_a_damaged_one_is_replaced(
    client: RoboflowClient, script: Script, tmp_path: Path
) -> None:
    """The official SDK returns silently when something is there, even half of it."""
    first = client.download("team", "opg", 8, tmp_path)
    again = client.download("team", "opg", 8, tmp_path)
    assert again.path == first.path
    assert len(script.ranges) == 1

    first.path.write_bytes(ZIP[:200_000])
    client.download("team", "opg", 8, tmp_path)

    assert first.path.read_bytes() == ZIP
    assert len(script.ranges) == 2


def test_a_decompression_bomb_is_refused_before_it_unpacks(
    client: RoboflowClient, script: Script, tmp_path: Path
) -> None:
    """Checking the checksums of a bomb would be unpacking it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/0.jpg", bytes(50_000_000))
    script.content = buffer.getvalue()

    with pytest.raises(DataError, match="bomb"):
        client.download("team", "opg", 8, tmp_path)

    assert visible(tmp_path) == []


def test_a_version_that_does_not_exist_is_named(client: RoboflowClient, tmp_path: Path) -> None:
    """404 is not worth a retry, and the user wants to know which part is wrong."""
    with pytest.raises(DataError, match=r"Roboflow has no version team/opg/9/coco-segmentation.*nothing here"):
        client.download("team", "opg", 9, tmp_path)


def test_the_key_is_in_no_error_log_repr_or_file(
    base_url: str, script: Script, sleeps: Sleeps, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key travels in the URL, and URLs are what HTTP libraries put into their logs and errors.

    Every way to fail is taken with all loggers at DEBUG: a refused key that the server echoes, a server that is gone,
    timeouts, damaged zips. Neither the key nor the link's own secret may come out anywhere.
    """
    caplog.set_level(logging.DEBUG)
    wrong = "wrong_" + KEY
    clients = [
        RoboflowClient(SecretStr(wrong), base_url, sleep=sleeps),
        RoboflowClient(SecretStr(KEY), "http://127.0.0.1:9", sleep=sleeps, attempts=2),
        RoboflowClient(SecretStr(KEY), base_url, timeout_s=(2.0, 0.2), sleep=sleeps, attempts=2),
    ]
    script.zips = ["stall", "500"] + ["corrupt"] * 10
    texts = []
    for number, client in enumerate(clients):
        with pytest.raises(DentsightError, match="Roboflow") as caught:
            client.download("team", "opg", 8, tmp_path / str(number))
        error: BaseException | None = caught.value
        texts += [repr(client), str(vars(client)), repr(error), "".join(traceback.format_exception(error))]
        assert error.__cause__ is None and error.__context__ is None
    texts += [record.getMessage() + str(record.args) for record in caplog.records]
    texts += [path.read_text() for path in tmp_path.rglob("*.json")]
    texts += [str(path) for path in tmp_path.rglob("*")]

    everything = "\n".join(texts)

    assert "GET /team/opg/8" in everything  # the debug log was really on
    for secret in (KEY, "s3cret", "rf_s3cret%2Bkey%2F42", LINK_SECRET):
        assert secret not in everything


def test_a_refused_key_says_which_variable_to_check(base_url: str) -> None:
    """The person who reads it is not the person who knows the client."""
    with pytest.raises(ConfigurationError, match=r"refuses the API key .*HTTP 401.*Check ROBOFLOW_API_KEY"):
        RoboflowClient(SecretStr("other"), base_url).list_versions("team", "opg")


def test_the_environment_gives_key_and_address_or_a_clear_line(base_url: str) -> None:
    """Nothing is read at import time, and a missing key says where to get one."""
    environment = {"ROBOFLOW_API_KEY": f" {KEY}\n", "ROBOFLOW_API_URL": base_url}

    assert len(RoboflowClient.from_environment(environment).list_versions("team", "opg")) == 2
    with pytest.raises(ConfigurationError, match="set the environment variable ROBOFLOW_API_KEY"):
        RoboflowClient.from_environment({})


def test_the_key_can_come_from_a_file_and_the_variable_goes_first(base_url: str, tmp_path: Path) -> None:
    """Containers mount secrets as files; and whoever sets the variable by hand means it."""
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    environment = {"ROBOFLOW_API_KEY_FILE": str(path), "ROBOFLOW_API_URL": base_url}

    assert len(RoboflowClient.from_environment(environment).list_versions("team", "opg")) == 2
    with pytest.raises(ConfigurationError, match="refuses the API key"):
        RoboflowClient.from_environment({**environment, "ROBOFLOW_API_KEY": "other"}).list_versions("team", "opg")


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_key_file_that_cannot_be_meant_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """An empty key would be told as a wrong one, and looked for at Roboflow."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(ConfigurationError, match="ROBOFLOW_API_KEY_FILE"):
        RoboflowClient.from_environment({"ROBOFLOW_API_KEY_FILE": str(tmp_path / "key")})


def test_the_key_is_never_sent_unencrypted_to_another_machine() -> None:
    """It stands in the URL: every proxy on the way would read it."""
    with pytest.raises(ConfigurationError, match="would travel unencrypted"):
        RoboflowClient(SecretStr(KEY), "http://roboflow.example.org")


def test_a_location_is_workspace_project_and_version() -> None:
    """It is what a person copies from the page's address."""
    assert parse_location("roboflow:my-team/opg-reporting/8") == ("my-team", "opg-reporting", 8)
    for wrong in ("roboflow:opg/8", "roboflow:a/b/v8", "roboflow:a/../8", "roboflow:a/b/8/coco"):
        with pytest.raises(ConfigurationError, match="Write roboflow:workspace/project/version"):
            parse_location(wrong)
