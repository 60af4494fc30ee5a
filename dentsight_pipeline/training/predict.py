"""Whole splits predicted and published, resumable after a kill: one small file a batch until all are there."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from dentsight_pipeline.data import splits
from dentsight_pipeline.documents.annotations import Split, read_table, write_table
from dentsight_pipeline.documents.detections import DETECTIONS
from dentsight_pipeline.documents.facts import PredictedCounts, PredictionsFacts
from dentsight_pipeline.documents.job import CostCard, PredictJob, RunRecord
from dentsight_pipeline.documents.names import SUBSETS, Asset, Kind, with_article
from dentsight_pipeline.errors import ConfigurationError, DocumentError
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.canonical import digest as canonical_digest
from dentsight_pipeline.store.files import write_whole
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.training import cost, letterbox
from dentsight_pipeline.training.detector import DETECTIONS_PER_IMAGE, Detector, as_table, load_detector
from dentsight_pipeline.training.job import write_result
from dentsight_pipeline.training.letterbox import Letterbox
from dentsight_pipeline.training.machine import peak_memory_mib
from dentsight_pipeline.training.reporting import Reporter

BATCHES_AHEAD = 2
"""Batches that are read and letterboxed while the model works on one."""

T = TypeVar("T")


def run_predict(job: PredictJob, reporter: Reporter) -> str:
    """Predict the job's splits, publish them as a `predictions` manifest, and write `result.json`.

    Every batch becomes one small file under the job's folder, whole or not at all; a second start after a kill does
    only what is missing. Batches are cut the same way each time, so that the manifest does not depend on the kill.

    Returns:
        Digest of the manifest: `<split>.arrow` and `<split>.mirrored.arrow`, tables of schema `DETECTIONS`.

    Raises:
        ConfigurationError: Manifests of the wrong kinds, splits that do not exist, or a model of other classes.
        DataError: An image that cannot be read, or has another size than its record.
        TrainingError: The model answers with numbers that are none.
    """
    began = time.perf_counter()
    if job.threads:
        torch.set_num_threads(job.threads)
    store = objects.open_store(job.store_uri)
    checkpoint, subset = store.get_manifest(job.checkpoint), store.get_manifest(job.subset)
    _check_inputs(job, checkpoint, subset)
    started = job.folder / canonical_digest(
        {"checkpoint": job.checkpoint, "subset": job.subset, "batch_size": job.batch_size}, "A prediction's key"
    )
    content.materialise(store, checkpoint, started / "checkpoint", prefix="model/", link=True)
    detector = load_detector(started / "checkpoint", job.device)
    wanted = [(split, False) for split in job.splits] + [(split, True) for split in job.mirrored]
    passes = [_Pass(job, store, subset, detector, started, *one) for one in wanted]
    if not job.images_only:
        _require_same_classes(job, detector, passes[0].split)
    progress = _Progress(reporter, sum(len(one.split.images) for one in passes))
    digest = _publish(passes, checkpoint, [one.run(progress) for one in passes])
    write_result(job.folder, digest, _record(began, progress.images_per_s))
    shutil.rmtree(started, ignore_errors=True)  # everything in it is in the store now
    return digest


def _record(began: float, images_per_s: float | None) -> RunRecord:
    wall_s, memory = time.perf_counter() - began, peak_memory_mib()
    return cost.record(CostCard(wall_s=wall_s, peak_memory_mib=memory, images_per_s=images_per_s))


def _publish(passes: Sequence[_Pass], checkpoint: Manifest, found: Sequence[pa.Table]) -> str:
    """The manifest of what was found in each pass, in the store."""
    first, counts = passes[0], {}
    for one, results in zip(passes, found, strict=True):
        counts[one.name] = PredictedCounts(images=len(one.split.images), detections=len(results))
    facts = PredictionsFacts(splits=counts, classes=first.detector.classes, detections_per_image=DETECTIONS_PER_IMAGE)
    files = {f"{one.name}.arrow": write_table(results) for one, results in zip(passes, found, strict=True)}
    inputs = {_checkpoint_asset(checkpoint): checkpoint.digest, Kind(first.subset.kind).asset: first.subset.digest}
    return first.store.put_manifest(content.build(first.store, Kind.PREDICTIONS, files, inputs, facts))


class _Progress:
    """Images done of all, for the reporter; images of an earlier attempt count as done but not as speed."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total = reporter, total
        self._done = self._predicted = 0
        self._began = time.monotonic()
        reporter.progress("predict", 0, total)

    def add(self, images: int, *, predicted: bool) -> None:
        self._done += images
        self._predicted += images if predicted else 0
        rate = self.images_per_s
        left = None if rate is None else (self._total - self._done) / rate
        self._reporter.progress("predict", self._done, self._total, images_per_s=rate, seconds_left=left)

    @property
    def images_per_s(self) -> float | None:
        """Speed of this attempt; None before the first batch."""
        return self._predicted / max(time.monotonic() - self._began, 1e-9) if self._predicted else None


@dataclass(frozen=True)
class _Pass:
    """One look at every image of one split, plain or mirrored, in batches of which each becomes a file."""

    job: PredictJob
    store: objects.Store
    subset: Manifest
    detector: Detector
    started: Path
    split_name: str
    mirrored: bool

    @property
    def name(self) -> str:
        """`test`, or `test.mirrored`."""
        return f"{self.split_name}.mirrored" if self.mirrored else self.split_name

    @cached_property
    def split(self) -> Split:
        """The images."""
        return splits.read_split(self.store, self.subset, self.split_name)

    @cached_property
    def batches(self) -> list[range]:
        """Rows of the split's images."""
        rows, size = range(len(self.split.images)), self.job.batch_size
        return [rows[first : first + size] for first in rows[::size]]

    def run(self, progress: _Progress) -> pa.Table:
        """All detections, in the order of the images."""
        self._file(0).parent.mkdir(parents=True, exist_ok=True)
        done = {number: shard for number in range(len(self.batches)) if (shard := self._read(number)) is not None}
        for number in done:
            progress.add(len(self.batches[number]), predicted=False)
        missing = [number for number in range(len(self.batches)) if number not in done]
        for number, (canvases, geometry) in zip(missing, _ahead(self._load, missing), strict=True):
            done[number] = self._detect(number, canvases, geometry)
            write_whole(self._file(number), write_table(done[number]))
            progress.add(len(self.batches[number]), predicted=True)
        shards = [done[number] for number in range(len(self.batches))]
        return pa.concat_tables([DETECTIONS.empty_table(), *shards])

    def _file(self, number: int) -> Path:
        return self.started / self.name / f"{number:06d}.arrow"

    def _read(self, number: int) -> pa.Table | None:
        """One finished batch of an earlier attempt, or None when it is not there or damaged."""
        try:
            shard = read_table(self._file(number), DETECTIONS, f"batch {number}")
        except DocumentError:
            return None
        found = np.unique(shard["image_id"].to_numpy())
        return shard if np.array_equal(found, np.sort(self.split.image_ids[self.batches[number]])) else None

    def _load(self, number: int) -> tuple[NDArray[np.uint8], list[Letterbox]]:
        """The images of one batch on their canvases, and how they came there."""
        rows, columns = self.batches[number], ["file_name", "width", "height"]
        canvases, geometry = [], []
        for record in self.split.images.select(columns).slice(rows.start, len(rows)).to_pylist():
            path, size = self.subset.entry(record["file_name"]).sha256, (record["width"], record["height"])
            image = letterbox.read_grayscale(str(self.store.local_path(path)), size)
            geometry.append(self.detector.preprocessing.letterbox(size))
            canvases.append(geometry[-1].apply(np.ascontiguousarray(image[:, ::-1]) if self.mirrored else image))
        return np.stack(canvases), geometry

    def _detect(self, number: int, canvases: NDArray[np.uint8], geometry: Sequence[Letterbox]) -> pa.Table:
        found = self.detector.detect_canvases(canvases, geometry)
        if self.mirrored:
            classes = self.detector.classes
            found = [one.unmirrored(own.width, classes) for one, own in zip(found, geometry, strict=True)]
        ids = self.split.image_ids[self.batches[number]].tolist()
        return as_table(list(zip(ids, found, strict=True)))


def _ahead(read: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """`read` of every number in order, a few of them in the background while the caller works."""
    with ThreadPoolExecutor(max_workers=BATCHES_AHEAD, thread_name_prefix="read-images") as pool:
        remaining = iter(numbers)
        waiting: deque[Future[T]] = deque(pool.submit(read, i) for i in islice(remaining, BATCHES_AHEAD))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(read, i) for i in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def _check_inputs(job: PredictJob, checkpoint: Manifest, subset: Manifest) -> None:
    for given, kinds in ((checkpoint, (Kind.CHECKPOINT,)), (subset, sorted(SUBSETS.values()))):
        if given.kind not in kinds:
            raise ConfigurationError(f"{given.digest} is {with_article(given.kind)}, a {' or '.join(kinds)} is needed.")
    existing, wanted = splits.split_names(subset), [*job.splits, *job.mirrored]
    unknown = sorted(set(wanted) - set(existing))
    if unknown or not wanted:
        raise ConfigurationError(
            f"The subset {job.subset[:12]} has no split {', '.join(unknown) or '(none was given)'}; "
            f"it has {', '.join(existing)}."
        )


def _require_same_classes(job: PredictJob, detector: Detector, split: Split) -> None:
    if detector.classes != split.classes:
        raise ConfigurationError(
            f"The checkpoint {job.checkpoint[:12]} finds {', '.join(detector.classes)}; the subset {job.subset[:12]} "
            f"has {', '.join(split.classes)}. Choose a checkpoint that was trained on these classes."
        )


def _checkpoint_asset(checkpoint: Manifest) -> str:
    """The asset that a checkpoint is: stage 1 is trained on teeth."""
    return Asset.TOOTH_CHECKPOINT if Asset.TOOTH_SUBSET in checkpoint.inputs else Asset.TRAINED_CHECKPOINT
