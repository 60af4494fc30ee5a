"""Head health: is the classification head learning scores, or does AP only hide that it is not?

A detector ranks its boxes by score, and AP sees nothing but the ranking. v1's model had a plausible AP while every
score lay under the prior that the head was initialised with. Its cause was a fault of transformers before 5.18 (see
huggingface/transformers PR #48528): the last decoder layer's Hungarian loss ran over denoising queries too, which start
beside the ground truth, win the matching, and leave nothing but negatives to the queries that inference uses.

Here belong the readings that tell a healthy head from a collapsed one, and the verdict of one training. Four signals
discriminate (docs/training.md, "Head health"), and `rules.py` judges them; all others are kept for the log and decide
nothing. `matching.py` watches the loss, `layers.py` reads the layers; auditing a checkpoint that somebody else trained
is `heads.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from msgspec.structs import asdict, replace
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from dentsight_pipeline.documents.health import HeadHealth, LogOnly, MonitorState, Reading, RuleOutcome, Signals
from dentsight_pipeline.errors import HeadCollapseError
from dentsight_pipeline.training.criterion import only_covered
from dentsight_pipeline.training.layers import (
    LayerReadings,
    finite,
    image_maxima,
    layer_scores,
    prior_probability,
    ratio_last_to_first,
    read_layers,
    scoring_head,
    unwrap,
)
from dentsight_pipeline.training.matching import Matching, count_matching, watching
from dentsight_pipeline.training.rules import Floors, judge

_EVIDENCE = ("ratio_last_to_first", "matched_median_score", "matched_class_accuracy")

Floats = NDArray[np.float64]
Target = Mapping[str, Tensor]
"""`class_labels` `[n]` and `boxes` `[n, 4]` (cxcywh relative to the padded canvas) of one image."""


class LabelledBatch(TypedDict):
    """What a reading is taken on."""

    pixel_values: Tensor
    """`[batch_size, 3, height, width]`."""
    labels: Sequence[Target]
    """One an image."""


class HeadHealthMonitor:
    """Watches one training run's class heads and says, with evidence, when they have collapsed.

    Use `with monitor.watch(model):` around the training loop, call `assess` at each evaluation, then
    `raise_if_collapsed`. A tripped rule stays tripped: a run that collapsed once is not healthy, even if somebody
    chose to go on.

    Args:
        model: The detector at the start of training, possibly wrapped; the bias drift is counted from here.
        total_steps: Optimiser steps of the whole run.
        warmup_steps: Optimiser steps of the learning-rate warm-up.
        num_labels: Classes that the head scores.
    """

    def __init__(self, model: nn.Module, *, total_steps: int, warmup_steps: int, num_labels: int) -> None:
        self.floors = Floors(total_steps, warmup_steps, num_labels, prior_probability(unwrap(model).config))
        self._initial_bias = _mean_bias(model)
        self._gradient_norm: Tensor | float | None = None
        self._since_last_reading, self._whole_run = Matching(), Matching()
        self._readings: list[Reading] = []
        self._tripped: dict[str, str] = {}
        self._override: str | None = None

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Observe the main loss's matching in every training forward of `model` until the block ends.

        Args:
            model: The model that trains, possibly wrapped (the detector inside is hooked).
        """
        num_queries, weight = unwrap(model).config.num_queries, scoring_head(model).weight
        hook = weight.register_hook(self._keep_gradient_norm) if weight.requires_grad else None
        try:
            with watching(model, lambda *matching: self.record_matching(*matching, num_queries=num_queries)):
                yield
        finally:
            if hook is not None:
                hook.remove()

    def record_matching(
        self,
        logits: Tensor,
        targets: Sequence[Target],
        indices: Sequence[tuple[Tensor, Tensor]],
        *,
        num_queries: int,
    ) -> None:
        """Count one main-loss matching (see `count_matching`); a loss of one's own may call it directly."""
        step = count_matching(logits, targets, indices, num_queries)
        self._since_last_reading.add(step)
        self._whole_run.add(step)

    def assess(self, step: int, model: nn.Module, batches: Iterable[LabelledBatch]) -> Reading:
        """Take one reading of every decoder layer on labelled batches, and judge it.

        Args:
            step: Optimiser steps taken so far.
            model: The model that would be released now (the EMA where there is one), possibly wrapped.
            batches: A few dozen images are enough.

        Returns:
            The reading; a figure that could not be measured is None.
        """
        scores = _Scores.of(unwrap(model), batches)
        layers = layer_scores(unwrap(model).config, scores.layer_means)
        reading = Reading(
            step=step,
            images=scores.images,
            layers=layers,
            ratio_last_to_first=ratio_last_to_first(layers),
            matched=len(scores.matched),
            matched_median_score=_figure(np.median, scores.matched),
            unmatched_median_score=_figure(np.median, scores.unmatched),
            matched_class_accuracy=_figure(np.mean, scores.correct),
            prior=self.floors.prior,
            chance=self.floors.chance,
            training=self._since_last_reading.summary(),
            log_only=self._log_only(scores, model),
        )
        self._since_last_reading = Matching()
        self._readings.append(reading)
        self._readings[-1] = replace(reading, rules=self._judge())
        return self._readings[-1]

    def _log_only(self, scores: _Scores, model: nn.Module) -> LogOnly:
        every_score = np.concatenate([scores.matched, scores.unmatched])
        return LogOnly(
            auc_matched_over_unmatched=_auc(scores.matched, scores.unmatched),
            p99_score=_figure(lambda values: np.quantile(values, 0.99), every_score),
            mean_entropy_bits=_figure(_entropy_bits, every_score),
            bias_drift=finite(_mean_bias(model) - self._initial_bias),
            head_gradient_norm=None if self._gradient_norm is None else finite(float(self._gradient_norm)),
        )

    def _judge(self) -> tuple[RuleOutcome, ...]:
        """Every rule on all readings so far; one that has tripped stays tripped."""
        outcomes = judge(self.floors, self._whole_run, self._readings)
        for outcome in outcomes:
            if outcome.tripped:
                self._tripped.setdefault(outcome.rule, outcome.evidence)
        return tuple(self._sticking(outcome) for outcome in outcomes)

    def _sticking(self, outcome: RuleOutcome) -> RuleOutcome:
        if outcome.tripped or outcome.rule not in self._tripped:
            return outcome
        return replace(outcome, tripped=True, evidence=f"tripped earlier: {self._tripped[outcome.rule]}")

    def raise_if_collapsed(self, allow: str | None = None) -> None:
        """Stop the run when a rule has tripped.

        Args:
            allow: Somebody's reason to go on all the same; it is recorded in the report, and the model stays
                unhealthy there.

        Raises:
            HeadCollapseError: A rule has tripped and no reason was given; with the rules and every measured signal.
        """
        if not self._tripped:
            return
        if allow:
            self._override = allow
            return
        latest = asdict(self._readings[-1]) if self._readings else {"step": 0}
        measured = {name: latest.get(name) for name in _EVIDENCE}
        measured |= {"denoising_share": self._whole_run.denoising_share, "prior": self.floors.prior}
        known = {name: value for name, value in measured.items() if value is not None}
        raise HeadCollapseError(latest["step"], self._tripped, {**self._tripped, **known})

    def report(self, step: int | None = None) -> HeadHealth:
        """The run's head health, `health.json`.

        Args:
            step: Show the layers of the reading at this step (the best checkpoint's), or the latest where there is
                none at it. The rules always cover the whole run.
        """
        latest = self._readings[-1] if self._readings else None
        shown = next((reading for reading in reversed(self._readings) if reading.step == step), latest)
        rules = self._judge()
        judged = [rule.tripped for rule in rules]
        return HeadHealth(
            healthy=False if any(judged) else (None if None in judged else True),
            layers=shown.layers if shown else (),
            ratio_last_to_first=shown.ratio_last_to_first if shown else None,
            rules=rules,
            override=self._override,
            steps=self.floors.total_steps,
            reading=_signals(shown) if shown else None,
        )

    def state(self) -> MonitorState:
        """All that a resumed run needs to report what the uninterrupted run would."""
        return MonitorState(
            initial_bias=self._initial_bias,
            gradient_norm=None if self._gradient_norm is None else float(self._gradient_norm),
            since_last_reading=self._since_last_reading.counts(),
            whole_run=self._whole_run.counts(),
            readings=tuple(self._readings),
            tripped=dict(self._tripped),
            override=self._override,
        )

    def load_state(self, state: MonitorState) -> None:
        """Go on from `state` of the same run."""
        self._initial_bias, self._gradient_norm = state.initial_bias, state.gradient_norm
        self._since_last_reading = Matching.of(state.since_last_reading)
        self._whole_run = Matching.of(state.whole_run)
        self._readings, self._tripped = list(state.readings), dict(state.tripped)
        self._override = state.override

    def _keep_gradient_norm(self, gradient: Tensor) -> None:
        self._gradient_norm = gradient.detach().float().norm()


@dataclass(frozen=True)
class _Scores:
    """Scores of one reading.

    Attributes:
        layer_means: Mean over images of the highest score, by decoder layer.
        images: How many.
        matched: Scores of queries that are matched to a ground truth.
        unmatched: Scores of all others.
        correct: 1 for each matched query that names the right class, else 0.
    """

    layer_means: list[float]
    images: int
    matched: Floats
    unmatched: Floats
    correct: Floats

    @classmethod
    def of(cls, detector: nn.Module, batches: Iterable[LabelledBatch]) -> _Scores:
        """The model's own scores on some batches."""
        parts = [_read_batch(detector, batch) for batch in batches]
        if not parts:
            return cls([float("nan")] * unwrap(detector).config.decoder_layers, 0, *(np.empty(0),) * 3)
        maxima, matched, unmatched, correct = (torch.cat(part) for part in zip(*parts, strict=True))
        means = [layer.mean().item() for layer in maxima.T.contiguous()]  # [decoder_layers, images]
        return cls(means, len(maxima), *(part.double().numpy() for part in (matched, unmatched, correct)))


@torch.no_grad()
def _read_batch(detector: Any, batch: LabelledBatch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per-image maxima `[batch_size, decoder_layers]`; scores matched, scores unmatched, whether the class is right."""
    device = next(detector.parameters()).device
    readings = read_layers(detector, batch["pixel_values"].to(device))
    labels = [{name: value.to(device) for name, value in image.items()} for image in batch["labels"]]
    readings = dataclasses.replace(readings, logits=only_covered(labels, readings.logits))
    scores, classes = readings.logits.sigmoid().max(-1)  # [batch_size, num_queries] each
    is_matched, correct = torch.zeros_like(scores, dtype=torch.bool), [torch.empty(0)]
    for image, (queries, truths) in enumerate(_match(detector.config, readings, labels)):
        is_matched[image, queries.to(device)] = True
        right = classes[image, queries.to(device)] == labels[image]["class_labels"][truths.to(device)]
        correct.append(right.float().cpu())
    return image_maxima(readings), scores[is_matched].cpu(), scores[~is_matched].cpu(), torch.cat(correct)


def _match(config: Any, readings: LayerReadings, labels: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """transformers' own matching of the model's answers: (query indices, ground-truth indices) an image."""
    if not any(len(image["class_labels"]) for image in labels):
        return []
    outputs = {"logits": readings.logits, "pred_boxes": readings.boxes_cxcywh.clamp(0, 1)}
    return RTDetrHungarianMatcher(config).forward(outputs, labels)


def _signals(reading: Reading) -> Signals:
    return Signals(**{name: getattr(reading, name) for name in Signals.__struct_fields__})


def _mean_bias(model: nn.Module) -> float:
    return float(scoring_head(model).bias.detach().float().mean())


def _figure(measure: Any, values: Floats) -> float | None:
    """A figure of some values; None without any, or where it is no number."""
    return finite(measure(values)) if len(values) else None


def _auc(positives: Floats, negatives: Floats) -> float | None:
    """Probability that a matched query outscores an unmatched one (Mann and Whitney's U; ties count half)."""
    if not len(positives) or not len(negatives):
        return None
    ordered = np.sort(negatives)
    below, not_above = np.searchsorted(ordered, positives, "left"), np.searchsorted(ordered, positives, "right")
    return finite((below + not_above).mean() / (2 * len(negatives)))


def _entropy_bits(scores: Floats) -> float:
    """Mean binary entropy of the queries' scores: near 0 for a head that decides, higher for one that cannot."""
    p = np.clip(scores, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean()
