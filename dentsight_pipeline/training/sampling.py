"""Which images an epoch draws, and which of them each process gets.

An epoch's draws depend on (seed, epoch) alone. A step's batch is the same set of images however many processes train:
each takes every n-th of it, so that no image is seen twice and none is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.training.dataset import Draw
from dentsight_pipeline.training.recipe import Recipe


def class_balanced_weights(labels: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.float64]:
    """One weight an image: the sum of 1 / class_count over its annotations, as the v1 card's WeightedRandomSampler.

    All annotations of a class together weigh 1, whatever their number. An image without annotations gets the smallest
    weight of the others, since with 0 no epoch would ever see a true negative.

    Returns:
        [n] float64, summing to 1.
    """
    counts = np.bincount(np.concatenate([*labels, np.empty(0, np.int64)]).astype(np.int64), minlength=classes)
    inverse = 1.0 / np.maximum(counts, 1)
    weights = np.array([inverse[own].sum() for own in labels])
    annotated = weights[weights > 0]
    weights[weights == 0] = annotated.min() if len(annotated) else 1.0
    return weights / weights.sum()


def repeat_factors(
    labels: Sequence[NDArray[np.int64]], covered: NDArray[np.bool_], threshold: float, cap: float
) -> NDArray[np.float64]:
    """How often each image is drawn in an epoch on average (Gupta et al. 2019, LVIS, section 3.1), capped.

    The factor of a class is max(1, sqrt(threshold / its share of the images that cover it [n, classes])), that of an
    image the largest of its classes' and at most `cap`; 1 for an image without annotations.

    Returns:
        [n] float64, at least 1.
    """
    present = np.zeros(covered.shape, dtype=bool)
    for image, own in enumerate(labels):
        present[image, own] = True
    share = present.sum(axis=0) / np.maximum(covered.sum(axis=0), 1)
    of_class = np.maximum(1.0, np.sqrt(threshold / np.maximum(share, 1e-12)))
    return np.where(present, of_class, 1.0).max(axis=1).clip(1.0, cap)


class EpochSampler:
    """The draws of each epoch.

    Args:
        labels: Label indices by image of the training split.
        covered: [n, classes] which classes each image covers.
        recipe: Sampler, batch size and seed.

    Raises:
        DataError: There is no image, or none with an annotation.
    """

    def __init__(self, labels: Sequence[NDArray[np.int64]], covered: NDArray[np.bool_], recipe: Recipe) -> None:
        if not labels:
            raise DataError("The training split has no images. Give a dataset whose train split has some.")
        if not any(len(of_image) for of_image in labels):
            raise DataError(
                f"None of the {len(labels)} training images has an annotation, so there is nothing to learn. "
                "Give a dataset whose train split is annotated."
            )
        self._recipe, self._images = recipe, len(labels)
        self._weights = np.full(len(labels), 1 / len(labels))
        images = len(labels)
        if recipe.sampler == "class-balanced":
            self._weights = class_balanced_weights(labels, covered.shape[1])
        elif recipe.sampler == "repeat-factor":
            factors = repeat_factors(labels, covered, recipe.repeat_factor_threshold, recipe.repeat_factor_cap)
            self._weights, images = factors / factors.sum(), round(factors.sum())
        self.images_per_epoch = images
        """Images that count as one pass; with repeat factors more than the split has."""
        self.steps_per_epoch = recipe.steps_per_epoch(images)
        self.total_steps = recipe.total_steps(images)

    def draws(self, epoch: int) -> NDArray[np.int64]:
        """[steps_per_epoch * batch_size] image indices; the last batch is filled up with further draws."""
        random = np.random.default_rng([self._recipe.seed, epoch])
        count = self.steps_per_epoch * self._recipe.batch_size
        if self._recipe.sampler == "class-balanced":
            return random.choice(self._images, size=count, replace=True, p=self._weights)
        if self._recipe.sampler == "repeat-factor":
            # one random offset for all: every image is drawn floor or ceil of its expected number of times
            points = (random.random() + np.arange(count)) / count
            drawn = np.searchsorted(np.cumsum(self._weights), points, side="right").clip(max=self._images - 1)
            return random.permutation(drawn)
        rounds = -(-count // self._images)
        return np.concatenate([random.permutation(self._images) for _ in range(rounds)])[:count]


class MicroBatches:
    """The micro-batches of one process from a step to the end, for `DataLoader(batch_sampler=…)`.

    Args:
        sampler: The epochs' draws.
        recipe: Batch size, micro-batch size and end phase.
        first_step: Steps that are already done.
        process: This process's number, from 0.
        processes: Processes in all.

    Raises:
        ConfigurationError: The batch cannot be divided evenly over the processes.
    """

    def __init__(
        self, sampler: EpochSampler, recipe: Recipe, first_step: int = 0, process: int = 0, processes: int = 1
    ) -> None:
        if recipe.batch_size % processes:
            nearest = max(processes, round(recipe.batch_size / processes) * processes)
            raise ConfigurationError(
                f"batch_size = {recipe.batch_size} cannot be divided over {processes} processes. "
                f"The nearest legal value is {nearest}."
            )
        self._sampler, self._recipe, self._first_step = sampler, recipe, first_step
        self._process, self._processes = process, processes
        own = recipe.batch_size // processes
        size = min(recipe.micro_batch_size or own, own)
        self.size = next(d for d in range(size, 0, -1) if own % d == 0)
        """Images of one micro-batch: micro_batch_size, or the next smaller divisor of this process's share."""
        self.per_step = own // self.size
        """Micro-batches of one optimiser step."""
        self.plain_from_step = round(self._sampler.total_steps * (1.0 - recipe.plain_end_fraction))
        """First step of the end phase without augmentation."""

    def __len__(self) -> int:
        return (self._sampler.total_steps - self._first_step) * self.per_step

    def __iter__(self) -> Iterator[list[Draw]]:
        batch_size, steps_per_epoch = self._recipe.batch_size, self._sampler.steps_per_epoch
        epoch, draws = -1, np.empty(0, dtype=np.int64)
        for step in range(self._first_step, self._sampler.total_steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                draws = self._sampler.draws(epoch)
            start = (step % steps_per_epoch) * batch_size
            positions = range(start + self._process, start + batch_size, self._processes)
            own = [Draw(int(draws[p]), epoch, p, step >= self.plain_from_step) for p in positions]
            for first in range(0, len(own), self.size):
                yield own[first : first + self.size]
