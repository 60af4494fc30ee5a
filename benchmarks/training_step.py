"""What a training step costs here, as a ratio to transformers' Trainer on the same model and the same images.

Claim: a step of our loop costs at most .65 of one of `Trainer` with the stock image processor, its own loss and a plain
collator, and waits for data less than 5 % of its time.

Both sides train the same architecture from the same seed, on the same JPEG files, with the same batch, optimiser,
clipping and canvas, on one thread. Times are CPU seconds of the process, so that other work on the machine does not
count; the median over the steps after the first two, of each round, in which both take their turn. Our image cache is
built beforehand; its cost is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import RTDetrImageProcessor, Trainer, TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from dentsight_pipeline.data.splits import split_files
from dentsight_pipeline.documents.job import FitJob
from dentsight_pipeline.store import content, objects
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store
from dentsight_pipeline.training import loop, processes
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training.dataset import read_labelled
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline.training.reporting import Reporter
from dentsight_pipeline.training.sampling import MicroBatches
from dentsight_pipeline.training.setup import Setup
from dentsight_pipeline_tests.data.coco import from_coco
from dentsight_pipeline_tests.documents.facts_for_tests import subset_facts

CLASSES = [f"condition {i + 1}" for i in range(13)]
IMAGE_SIZE = (1662, 1077)
BOXES_PER_IMAGE = 13
WARM_UP_STEPS = 2


def draw_subset(store: Store, images: int) -> Manifest:
    """A subset of gray JPEGs of a panoramic X-ray's size, with boxes at random places."""
    random = np.random.default_rng(0)
    files: dict[str, Any] = {}
    records, annotations = [], []
    for i in range(1, images + 1):
        coarse = random.integers(20, 220, (27, 42)).astype(np.uint8)
        pixels = cv2.resize(coarse, IMAGE_SIZE, interpolation=cv2.INTER_CUBIC)
        pixels = cv2.add(pixels, random.integers(0, 18, pixels.shape).astype(np.uint8))
        encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
        digest = hashlib.sha256(encoded).hexdigest()
        files[f"images/{digest}.jpg"] = encoded
        size = {"width": IMAGE_SIZE[0], "height": IMAGE_SIZE[1]}
        records.append({"id": i, "sha256": digest, "file_name": f"images/{digest}.jpg", **size})
        for _ in range(BOXES_PER_IMAGE):
            x, y, w, h = random.uniform([0, 0, 30, 30], [1500, 950, 120, 110])
            record = {"id": len(annotations) + 1, "image_id": i, "category_id": int(random.integers(1, 14))}
            annotations.append({**record, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    files |= split_files(
        [from_coco("train", {"images": records, "annotations": annotations, "categories": categories})]
    )
    subset = content.build(store, "condition-subset", files, {}, subset_facts(CLASSES))
    store.put_manifest(subset)
    return subset


class StockDataset(Dataset[dict[str, Any]]):
    """The usual fine-tuning dataset: Pillow, transformers' image processor, COCO annotations."""

    def __init__(self, store: Store, subset: Manifest, recipe: Recipe) -> None:
        split = read_labelled(store, subset, "train")
        self._paths = [str(store.local_path(digest)) for digest in split.digests]
        self._annotations: list[dict[str, Any]] = []
        for image in range(len(split)):
            rows = zip(split.boxes_of(image).tolist(), split.labels_of(image).tolist(), strict=True)
            boxes = [{"bbox": b, "category_id": c, "area": b[2] * b[3], "iscrowd": 0} for b, c in rows]
            self._annotations.append({"image_id": image, "annotations": boxes})
        width, height = recipe.image_size
        self._processor: Any = RTDetrImageProcessor(
            size={"max_height": height, "max_width": width},
            do_pad=True,
            pad_size={"height": height, "width": width},
            do_normalize=True,
            do_convert_annotations=True,
            image_mean=[recipe.pixel_mean] * 3,
            image_std=[recipe.pixel_std] * 3,
        )
        self.cpu_s = 0.0

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = time.process_time()
        image = Image.open(self._paths[index]).convert("RGB")
        found = self._processor(images=image, annotations=self._annotations[index], return_tensors="pt")
        self.cpu_s += time.process_time() - start
        return {"pixel_values": found["pixel_values"][0], "labels": found["labels"][0]}


def stock_collator(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Stacked images, labels as a list."""
    return {
        "pixel_values": torch.stack([s["pixel_values"] for s in samples]),
        "labels": [{k: s["labels"][k] for k in ("class_labels", "boxes")} for s in samples],
    }


class StepClock(TrainerCallback):
    """CPU time at the end of each step; on a GPU the time on the wall, when it has done its work."""

    def __init__(self, *, on_gpu: bool) -> None:
        self.ends: list[float] = []
        self._on_gpu = on_gpu

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter() if self._on_gpu else time.process_time())


def trainer_steps(
    store: Store, subset: Manifest, recipe: Recipe, steps: int, folder: Path, *, on_gpu: bool = False, workers: int = 0
) -> tuple[list[float], float]:
    """(Seconds by step, share of them in the dataset) of transformers' Trainer and its own loss."""
    torch.manual_seed(recipe.seed)
    stock = recipe.override({"criterion": "transformers", "class_loss": "varifocal"})
    model = models.build(stock, read_labelled(store, subset, "train").classes)
    model.loss_function = model.loss_function.inner  # as transformers has it
    data, clock = StockDataset(store, subset, recipe), StepClock(on_gpu=on_gpu)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=recipe.micro_batch_size or recipe.batch_size,
        gradient_accumulation_steps=recipe.batch_size // (recipe.micro_batch_size or recipe.batch_size),
        bf16=on_gpu and recipe.precision == "bf16",
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm or 0.0,
        lr_scheduler_type="cosine",
        use_cpu=not on_gpu,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=workers,
    )
    Trainer(model, arguments, data_collator=stock_collator, train_dataset=data, callbacks=[clock]).train()
    spent = [later - earlier for earlier, later in zip(clock.ends, clock.ends[1:], strict=False)]
    return spent[WARM_UP_STEPS - 1 :], data.cpu_s / sum(spent)  # on a GPU workers read: the share says nothing


def our_steps(
    store: Store, subset: Manifest, recipe: Recipe, steps: int, folder: Path
) -> tuple[list[float], float, float]:
    """(CPU seconds by step, share of time waiting for data, CPU seconds of building the cache) of our loop."""
    job = FitJob(
        store_uri=store.uri,
        subset=subset.digest,
        recipe=recipe.model_dump(),
        workdir=str(folder),
        threads=1,
        device="cpu",
    )
    with Reporter(None) as reporter:
        start = time.process_time()
        training = loop.Training(Setup.of(job), processes.start(job, recipe), reporter)
        preparing = time.process_time() - start
        batches = MicroBatches(training.sampler, recipe)
        training._loop_started, training._first_step = time.perf_counter(), 0
        spent = []
        with training.monitor.watch(training.learner.model):
            loader = iter(training._loader(batches))
            for _ in range(steps):
                start = time.process_time()
                training._train_step(loader, batches.per_step)
                spent.append(time.process_time() - start)
    return spent[WARM_UP_STEPS:], training.meters.cost.data_wait_s / training.meters.cost.training_s, preparing


def main() -> None:
    """Prints both sides' step and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--architecture", default="tiny")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    size = {"image_width": given.width, "image_height": given.height, "architecture": given.architecture}
    fast = {"criterion": "published", "memory_format": "channels-last", "weights": None}
    recipe = recipes.named("smoke").override({**size, **fast, "max_steps": given.steps, "augment_flip": 0.5})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = objects.open_store(folder / "store")
        subset = draw_subset(store, given.images)
        print(f"{given.architecture} at {given.width}×{given.height}, batch {recipe.batch_size}, one thread")
        ratios, preparations = [], []
        for number in range(given.rounds):
            theirs, their_share = trainer_steps(store, subset, recipe, given.steps, folder / f"trainer-{number}")
            ours, our_share, preparing = our_steps(store, subset, recipe, given.steps, folder / f"ours-{number}")
            stock, own = statistics.median(theirs), statistics.median(ours)
            ratios.append(own / stock)
            preparations.append(preparing)
            print(
                f"Trainer {stock:.3f} CPU s a step, {their_share:.1%} loading data; ours with health and average "
                f"{own:.3f}, {our_share:.2%} waiting for data; ratio {ratios[-1]:.2f}"
            )
    print(f"ratio ours / Trainer: median {statistics.median(ratios):.2f} (claim: at most 0.65)")
    print(f"paid once: model and cache of {given.images} images, {statistics.median(preparations):.2f} CPU s")


if __name__ == "__main__":
    main()
