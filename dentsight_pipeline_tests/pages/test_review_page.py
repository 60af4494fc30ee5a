"""`dentsight review` from a stored dataset to corrections, by keyboard in a browser; and the queue as JSON."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from typer.testing import CliRunner

from dentsight_pipeline.cli import app
from dentsight_pipeline.data.normalise import normalise_export
from dentsight_pipeline.data.subset import select_conditions
from dentsight_pipeline.documents.review import ReviewEntry
from dentsight_pipeline.intake.ingest import ingest_export
from dentsight_pipeline.orchestration.resources import Workspace
from dentsight_pipeline.pages import server as pages_server
from dentsight_pipeline.pages.journal import read_journal
from dentsight_pipeline.phantom.export import write_phantom_export
from dentsight_pipeline_tests.data.export_builder import ExportBuilder
from dentsight_pipeline_tests.pages.browser import ENTER, Visitor, browser, press, served, text, wait

WHO = "A. Bell <script>document.title='owned'</script>"


@pytest.fixture
def subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset in a workspace: phantoms with a tooth on the wrong side and a crown labelled twice."""
    monkeypatch.chdir(tmp_path)
    write_phantom_export(tmp_path / "export", 6, 4, 640)
    path = tmp_path / "export/train/_annotations.coco.json"
    coco = json.loads(path.read_text())
    name = {row["id"]: row["name"] for row in coco["categories"]}
    teeth = [row for row in coco["annotations"] if name[row["category_id"]] in ("16", "26")]
    pairs = itertools.permutations(teeth, 2)
    left, right = next(
        (a, b) for a, b in pairs if a["image_id"] == b["image_id"] and a["category_id"] < b["category_id"]
    )
    left["category_id"], right["category_id"] = right["category_id"], left["category_id"]
    path.write_text(json.dumps(coco))
    store = Workspace().store
    return select_conditions(store, normalise_export(store, ingest_export(tmp_path / "export", store))).digest


@pytest.mark.slow
def test_labels_are_reviewed_by_keyboard_and_become_corrections(subset: str, tmp_path: Path) -> None:
    """Listed, decided, taken back, edited; two windows, a reload and a kill in between; written out with a name."""
    listed = CliRunner().invoke(app, ["review", subset, "--list", "--json"])
    suspects = json.loads(listed.stdout)["suspects"]
    assert {*suspects[0]} >= {"image", "kind", "class", "bbox", "score"}
    assert {(s["class"], s["proposed_class"]) for s in suspects[:2]} == {("16", "26"), ("26", "16")}
    assert [s["score"] for s in suspects] == sorted((s["score"] for s in suspects), reverse=True)

    command = ["review", subset, "--by", WHO, "--out", "r"]
    total = len(suspects)
    with browser() as driver:
        with served(command, tmp_path) as server:
            driver.get(server.links[WHO])
            wait(driver, "#progress", f"1 of {total}")
            assert text(driver, "#reader") == WHO
            for shown in (False, True):  # the bare X-ray, and back
                press(driver, "v")
                assert driver.find_element(By.CSS_SELECTOR, ".box.suspect").is_displayed() is shown
            press(driver, "a")
            wait(driver, "#progress", "1 decided")
            press(driver, "u")
            wait(driver, "#progress", "0 decided")
            driver.switch_to.new_window("tab")  # a second window decides; the first one must not decide it again
            driver.get(server.links[WHO])
            wait(driver, "#progress", "0 decided")
            press(driver, "a")
            wait(driver, "#progress", "1 decided")
            driver.switch_to.window(driver.window_handles[0])
            wait(driver, "#progress", "1 decided")
            driver.refresh()
            wait(driver, ".box.suspect", suspects[1]["class"])
            server.kill()
            press(driver, "s")
            wait(driver, "#message", "the server does not answer")
        with served(command, tmp_path) as again:
            driver.get(again.links[WHO].rpartition("/")[0] + "/" + server.links[WHO].rpartition("/")[2])
            assert "not of this start" in text(driver, "#refused")
            driver.get(again.links[WHO])
            wait(driver, "#progress", "1 decided")
            wait(driver, ".box.suspect", suspects[1]["class"])
            press(driver, "e")
            ActionChains(driver).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
            driver.save_screenshot(str(tmp_path / "review.png"))
            ActionChains(driver).send_keys(ENTER).perform()
            wait(driver, "#progress", "2 decided")
            for width in (700, 500):  # 1400 px at 200 %, and a narrow screen
                driver.set_window_size(width, 900)
                assert driver.execute_script("return document.documentElement.scrollWidth <= innerWidth")
            assert driver.find_element(By.ID, "accept").is_displayed() or total == 2
            assert "owned" not in driver.title
            assert driver.find_elements(By.CSS_SELECTOR, "#reader script") == []

    done = CliRunner().invoke(app, ["review", subset, "--corrections", "--out", "r", "--json"])
    files = {Path(path).name for path in json.loads(done.stdout)["files"]}
    made = json.loads((tmp_path / "r/corrections.json").read_text())["corrections"]
    assert "train.coco.json" in files
    assert [c["before_class"] for c in made] == [s["class"] for s in suspects[:2]]
    assert made[0]["after_class"] == suspects[0]["proposed_class"]
    assert made[1]["after_bbox"][0] > made[1]["before_bbox"][0]
    assert {c["who"] for c in made} == {WHO}


DIES = """
import os, signal
from dentsight_pipeline.pages import journal

def append(self, entry):
    line = journal._line(self._head, entry) + b"\\n"
    self._file.write(line[:len(line) {}])
    self._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)

if os.path.isfile("r/decisions.jsonl"):
    journal.Journal.append = append
"""
"""A server that is killed in the middle of an append: half of the line is in the file, or all of it and no answer."""


@pytest.mark.slow
def test_a_server_killed_between_and_in_decisions_loses_none_that_it_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shown as decided is; of a decision under way all is there, or nothing and it is asked again."""
    monkeypatch.chdir(tmp_path)
    builder = ExportBuilder(tmp_path / "export")
    for split in ("train", "train", "train", "train", "valid", "test"):
        builder.image(split, {"crown": [[4, 4, 20, 20], [4, 4, 20, 17]]})
    store = Workspace().store
    splits = normalise_export(store, ingest_export(builder.write(), store)).digest
    command = ["review", splits, "--by", "B", "--out", "r"]

    def decided(changed: str, posts: int, verb: str = "accept") -> tuple[int, int]:
        with served(command, tmp_path, changed) as server:
            visitor = Visitor(server.links["B"])
            before = visitor.ask("/state")
            with contextlib.suppress(http.client.RemoteDisconnected, ConnectionResetError):
                for position in range(before["position"], before["position"] + posts):
                    visitor.ask("/decide", {"position": position, "verb": verb})
            server.kill()
        return before["decided"], before["position"]

    assert decided("", 2) == (0, 0)
    assert decided(DIES.format("// 2"), 1) == (2, 2)
    assert decided(DIES.format("* 1"), 1, "reject") == (2, 2)
    assert decided("", 1) == (3, 3)
    verbs = [entry.verb for entry in read_journal(tmp_path / "r/decisions.jsonl", ReviewEntry)[1:]]
    assert verbs == ["accept", "accept", "reject", "accept"]


def test_a_queue_without_suspects_says_how_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that thanks for everything decided, when nothing was asked, reads as labels that somebody looked at."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pages_server, "serve", lambda *given: pytest.fail("served"))
    builder = ExportBuilder(tmp_path / "export")
    for split in ("train", "valid", "test"):
        builder.image(split, {"crown": [[4, 4, 20, 20]]})
    store = Workspace().store
    splits = normalise_export(store, ingest_export(builder.write(), store)).digest

    asked = (["--by", "B"], ["--hand-over", "out"], ["--answers", "given.xml", "--by", "B"])

    for more in asked:
        refused = CliRunner().invoke(app, ["review", splits, *more])
        assert "is suspect, so there is nothing to review" in str(refused.exception)
    assert not (tmp_path / "reviews").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--hand-over", "export"), "export is not empty. Give a new folder"),
        (("--hand-over", "answers.xml"), "answers.xml is not empty. Give a new folder"),
        (("--to", "nobody"), "'nobody' is no project on Roboflow"),
        (("--answers", "answers.xml"), "give yours with --by"),
        (("--answers", "answers.xml", "--by", "B"), "neither `CVAT for images 1.1` nor COCO"),
    ],
)
def test_an_exchange_with_other_tools_that_is_refused_leaves_no_review_behind(
    more: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of decisions in which nothing was decided reads as a review that somebody began."""
    monkeypatch.chdir(tmp_path)
    builder = ExportBuilder(tmp_path / "export")
    for split in ("train", "valid", "test"):
        builder.image(split, {"crown": [[4, 4, 20, 20], [4, 4, 20, 17]]})
    store = Workspace().store
    splits = normalise_export(store, ingest_export(builder.write(), store)).digest
    (tmp_path / "answers.xml").write_text("no answers")

    refused = CliRunner().invoke(app, ["review", splits, *more])

    assert says in str(refused.exception)
    assert not (tmp_path / "reviews").exists()


@pytest.mark.slow
def test_nobody_corrects_without_a_name(subset: str) -> None:
    """A correction without a name is no evidence."""
    refused = CliRunner().invoke(app, ["review", subset])

    assert "--by NAME" in str(refused.exception)
