"""The whole graph on a part of a real export: labels, leaks and pixels that no drawing would have thought of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dentsight_pipeline.data.splits import read_split
from dentsight_pipeline_tests.orchestration.assets.conftest import FEW_STEPS, new_home

pytestmark = pytest.mark.slow

KEPT = {"train": 48, "valid": 16, "test": 30}


def part_of(export: Path, out: Path) -> Path:
    """The first images of each split, by file name, with their annotations; the same ones every time."""
    for split, count in KEPT.items():
        (out / split).mkdir(parents=True)
        coco = json.loads((export / split / "_annotations.coco.json").read_text("utf-8"))
        images = sorted(coco["images"], key=lambda image: image["file_name"])[:count]
        kept = {image["id"] for image in images}
        coco["images"] = images
        coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] in kept]
        (out / split / "_annotations.coco.json").write_text(json.dumps(coco), "utf-8")
        for image in images:
            shutil.copyfile(export / split / image["file_name"], out / split / image["file_name"])
    for readme in export.glob("README*"):
        shutil.copyfile(readme, out / readme.name)
    return out


def test_a_real_export_runs_to_a_report_with_its_own_label_mapping(real_export: Path, tmp_path: Path) -> None:
    """Loose labels are used as that source means them, said to be loose, and nothing is called clinical."""
    home = new_home(tmp_path / "home")
    part = part_of(real_export, tmp_path / "part")
    done = home.dentsight(
        *("run", "--export", str(part), "--dataset", "dental-radiography-v2", "--recipe", "smoke", *FEW_STEPS, "--json")
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    report = Path(said["report"]).read_text("utf-8")
    subset = home.store.get_manifest(said["dataset_digest"])
    raw_names = {
        (item["raw_name"], item["category_id"])
        for item in read_split(home.store, subset, "train").to_coco()["annotations"]
    }

    assert said["verdict"] == "INCONCLUSIVE"
    assert subset.facts["corpus"]["kind"] == "roboflow"
    assert {name for name, _ in raw_names} == {"Cavity", "Fillings", "Impacted Tooth", "Implant"}
    assert "loose" in report
    assert "not a medical device" in report.lower()
