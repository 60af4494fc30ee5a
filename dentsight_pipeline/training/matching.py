"""Training's own Hungarian matching, watched where it happens: which queries the main loss teaches what.

The first matching after a training forward began is the main loss's, in every version of transformers' loss. It is
observed, not recomputed, so that a loss that matches the wrong queries is seen to do so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from dentsight_pipeline.documents.health import MatchCounts, TrainingMatches
from dentsight_pipeline.training.criterion import Criterion
from dentsight_pipeline.training.layers import unwrap

HISTOGRAM_BINS = 1000
"""Scores of training steps are kept as counts in bins this fine, so that a resumed run reports the same medians."""

Counts = NDArray[np.int64]
Seen = Callable[[Tensor, Sequence[Mapping[str, Tensor]], Sequence[tuple[Tensor, Tensor]]], None]
"""Told the logits, the targets and the indices of a matching."""


def _empty() -> Counts:
    return np.zeros(HISTOGRAM_BINS, dtype=np.int64)


@dataclass
class Matching:
    """Counts of the main loss's matching over training steps; integers only, so that resuming is exact."""

    steps: int = 0
    matches: int = 0
    denoising_matches: int = 0
    correct_class: int = 0
    matched_scores: Counts = field(default_factory=_empty)
    unmatched_scores: Counts = field(default_factory=_empty)

    def add(self, other: Matching) -> None:
        """Counts another one's steps as well."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def denoising_share(self) -> float | None:
        """Matches that are denoising queries; None without any match."""
        return self.denoising_matches / self.matches if self.matches else None

    def summary(self) -> TrainingMatches:
        """The counts as shares and medians."""
        normal = self.matches - self.denoising_matches
        return TrainingMatches(
            steps=self.steps,
            matches=self.matches,
            denoising_matches=self.denoising_matches,
            denoising_share=self.denoising_share,
            matched_median_score=_median(self.matched_scores),
            unmatched_median_score=_median(self.unmatched_scores),
            matched_class_accuracy=self.correct_class / normal if normal else None,
        )

    def counts(self) -> MatchCounts:
        """The counts as a resumable checkpoint keeps them."""
        sparse = {"matched_scores": _sparse(self.matched_scores), "unmatched_scores": _sparse(self.unmatched_scores)}
        return MatchCounts(**{**vars(self), **sparse})

    @classmethod
    def of(cls, counts: MatchCounts) -> Matching:
        """What `counts` gave."""
        numbers = (counts.steps, counts.matches, counts.denoising_matches, counts.correct_class)
        return cls(*numbers, _dense(counts.matched_scores), _dense(counts.unmatched_scores))


@torch.no_grad()
def count_matching(
    logits: Tensor,
    targets: Sequence[Mapping[str, Tensor]],
    indices: Sequence[tuple[Tensor, Tensor]],
    num_queries: int,
) -> Matching:
    """The counts of one main-loss matching.

    Args:
        logits: `[batch_size, queries, num_classes]`, as they entered the main loss. Queries beyond `num_queries`
            are denoising queries and stand first.
        targets: One mapping an image, with `class_labels`.
        indices: The matching: (query indices, ground-truth indices) an image.
        num_queries: Normal queries of the model.
    """
    scores, classes = logits.detach().float().sigmoid().max(-1)  # [batch_size, queries] each
    step = Matching(steps=1)
    for target, pairs, of_image, best in zip(targets, indices, scores.cpu(), classes.cpu(), strict=True):
        matched, truths = (part.cpu().numpy() for part in pairs)
        labels = target["class_labels"].cpu().numpy()[truths]
        step.add(_count_image(of_image.numpy(), best.numpy(), matched, labels, logits.shape[1] - num_queries))
    return step


def _count_image(
    scores: NDArray[np.float32], classes: Counts, matched: Counts, labels: Counts, denoising_queries: int
) -> Matching:
    """The counts of one image: scores and best classes `[queries]`, matched queries and their labels `[matches]`."""
    normal = matched >= denoising_queries
    unmatched = np.arange(len(scores)) >= denoising_queries
    unmatched[matched] = False
    return Matching(
        matches=len(matched),
        denoising_matches=int((~normal).sum()),
        correct_class=int((classes[matched] == labels)[normal].sum()),
        matched_scores=_histogram(scores[matched[normal]]),
        unmatched_scores=_histogram(scores[unmatched]),
    )


@contextmanager
def watching(model: nn.Module, seen: Seen) -> Iterator[None]:
    """Tell `seen` of the main loss's matching in every training forward of `model` until the block ends.

    The cost is two small copies to the CPU a step, where the matcher itself copies its whole cost matrix.

    Args:
        model: The model that trains, possibly wrapped (the detector inside is hooked).
        seen: Told about each matching.
    """
    matcher: Any = RTDetrHungarianMatcher  # the class, because every loss call builds a fresh matcher
    matcher_forward, awaiting = matcher.forward, False

    def observed_forward(own: RTDetrHungarianMatcher, outputs: Mapping[str, Tensor], targets: Any) -> Any:
        nonlocal awaiting
        indices = matcher_forward(own, outputs, targets)
        if awaiting:
            awaiting = False
            seen(outputs["logits"], targets, indices)
        return indices

    def before_forward(module: nn.Module, *_: object) -> None:
        nonlocal awaiting
        awaiting = module.training

    with ExitStack() as stack:
        stack.callback(unwrap(model).register_forward_pre_hook(before_forward).remove)
        stack.callback(setattr, matcher, "forward", matcher_forward)
        matcher.forward = observed_forward
        own = getattr(unwrap(model).loss_function, "inner", None)
        if isinstance(own, Criterion):
            stack.callback(setattr, own, "seen", None)
            own.seen = seen
        yield


def _histogram(scores: NDArray[np.float32]) -> Counts:
    bins = np.minimum((np.nan_to_num(scores) * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    return np.bincount(bins, minlength=HISTOGRAM_BINS)


def _median(counts: Counts) -> float | None:
    """The middle of the bin that holds the (lower) median."""
    total = int(counts.sum())
    if not total:
        return None
    middle = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    return (middle + 0.5) / HISTOGRAM_BINS


def _sparse(counts: Counts) -> tuple[tuple[int, int], ...]:
    return tuple((int(i), int(counts[i])) for i in np.flatnonzero(counts))


def _dense(pairs: Sequence[tuple[int, int]]) -> Counts:
    counts = _empty()
    for index, count in pairs:
        counts[index] = count
    return counts
