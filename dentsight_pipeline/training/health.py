"""Head health: is the classification head learning scores, or does AP only hide that it is not?

A detector ranks its boxes by score, and AP sees nothing but the ranking. v1's model had a plausible AP while every
score lay under the prior that the head was initialised with. Its cause was a fault of transformers before 5.18 (see
huggingface/transformers PR #48528): the last decoder layer's Hungarian loss ran over denoising queries too, which start
beside the ground truth, win the matching, and leave nothing but negatives to the queries that inference uses.

Here belong the readings that tell a healthy head from a collapsed one, the rules on them, and the verdict. Four
signals discriminate (docs/training.md, "Head health"); all others are kept for the log and decide nothing.

Auditing a checkpoint that somebody else trained is `heads.py`; it reads the layers with `read_layers` of this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from dentsight_pipeline.errors import HeadCollapseError

RATIO_FLOOR = 0.5
"""R below this is a collapsed reading: measured .48 falling to .26 under the bug, .84 rising to 1.1 without it."""
RATIO_EVALUATIONS_IN_A_ROW = 2
"""One reading under the floor happens to healthy runs early on; two in a row did not."""
RATIO_FROM_SHARE_OF_TRAINING = 0.25
SCORES_FROM_SHARE_OF_TRAINING = 0.5
FIRST_JUDGED_STEP = 150
"""No rule but the matching one speaks before this step: a shorter run says nothing about its head, healthy or not."""
FEWEST_CLASSES = 3
"""With one or two classes the prior is 1/2 or 1/3 and twice chance is 1 or more: score rules 3 and 4 cannot apply."""
HISTOGRAM_BINS = 1000
"""Scores of training steps are kept as counts in bins this fine, so that a resumed run reports the same medians."""


_MEASURED = ("ratio_last_to_first", "matched_median_score", "matched_class_accuracy")


@dataclass(frozen=True)
class LayerReadings:
    """What every decoder layer's class head says about one batch, in eval mode.

    Attributes:
        layer_logits: One `[batch_size, num_queries, num_classes]` tensor a layer: `class_embed[i](hidden_states[i])`,
            before the localisation-quality estimate is added.
        logits: The model's own output `[batch_size, num_queries, num_classes]`.
        boxes_cxcywh: The model's own boxes `[batch_size, num_queries, 4]`, relative to the padded canvas.
    """

    layer_logits: list[Tensor]
    logits: Tensor
    boxes_cxcywh: Tensor


def unwrap(model: nn.Module) -> nn.Module:
    """The detector itself, without the shells of DistributedDataParallel, accelerate, `AveragedModel` or compile."""
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "module", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def scoring_layer(config: Any) -> int:
    """Index of the decoder layer whose class head scores at inference (`eval_idx`, negative from the end)."""
    return config.eval_idx if config.eval_idx >= 0 else config.decoder_layers + config.eval_idx


def supervised_layers(config: Any) -> tuple[int, ...]:
    """The decoder layers whose class heads normal queries supervise in transformers' D-FINE loss.

    The loss zips L+1 class outputs (layer 0 counts twice) with L−1 corner distributions, so that the head of layer
    L−2 gets no target from a normal query; denoising queries alone teach it. The last head has the main loss, or,
    under the bug of transformers before 5.18, only its negatives.

    Returns:
        Ascending indices; the last is the last layer's.
    """
    last = config.decoder_layers - 1
    return tuple(sorted({0, *range(max(0, last - 1)), last}))


def prior_probability(config: Any) -> float:
    """The score that a class head gives to everything before it has learned anything."""
    return config.initializer_bias_prior_prob or 1.0 / (config.num_labels + 1)


@torch.no_grad()
def read_layers(model: nn.Module, pixel_values: Tensor) -> LayerReadings:
    """Apply every layer's class head to its own hidden states.

    In eval mode transformers computes the logits of the scoring layer only, and `intermediate_logits` holds that one
    layer: a ratio of its last to its first entry would be 1 whatever the model does.

    Args:
        model: A D-FINE detector, possibly wrapped; its training mode is restored afterwards.
        pixel_values: `[batch_size, 3, height, width]`, on the model's device.
    """
    detector: Any = unwrap(model)
    was_training = detector.training
    detector.eval()
    try:
        outputs = detector(pixel_values=pixel_values)
    finally:
        detector.train(was_training)
    hidden_states = outputs.intermediate_hidden_states  # [decoder_layers, batch_size, num_queries, d_model]
    heads = detector.model.decoder.class_embed
    return LayerReadings(
        layer_logits=[
            head(hidden.to(head.weight.dtype)).float() for head, hidden in zip(heads, hidden_states, strict=False)
        ],
        logits=outputs.logits.float(),
        boxes_cxcywh=outputs.pred_boxes.float(),
    )


@dataclass
class _Matching:
    """Counts of the main loss's matching over training steps; integers only, so that resuming is exact."""

    steps: int = 0
    matches: int = 0
    denoising_matches: int = 0
    correct_class: int = 0
    matched_scores: np.ndarray = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, dtype=np.int64))
    unmatched_scores: np.ndarray = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, dtype=np.int64))

    def add(self, other: _Matching) -> None:
        self.steps += other.steps
        self.matches += other.matches
        self.denoising_matches += other.denoising_matches
        self.correct_class += other.correct_class
        self.matched_scores += other.matched_scores
        self.unmatched_scores += other.unmatched_scores

    def summary(self) -> dict[str, float | int | None]:
        normal = self.matches - self.denoising_matches
        return {
            "steps": self.steps,
            "matches": self.matches,
            "denoising_matches": self.denoising_matches,
            "denoising_share": self.denoising_matches / self.matches if self.matches else None,
            "matched_median_score": _histogram_median(self.matched_scores),
            "unmatched_median_score": _histogram_median(self.unmatched_scores),
            "matched_class_accuracy": self.correct_class / normal if normal else None,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "matches": self.matches,
            "denoising_matches": self.denoising_matches,
            "correct_class": self.correct_class,
            "matched_scores": _sparse(self.matched_scores),
            "unmatched_scores": _sparse(self.unmatched_scores),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> _Matching:
        return cls(
            state["steps"],
            state["matches"],
            state["denoising_matches"],
            state["correct_class"],
            _dense(state["matched_scores"]),
            _dense(state["unmatched_scores"]),
        )


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
        detector: Any = unwrap(model)
        self.total_steps, self.warmup_steps, self.num_labels = total_steps, warmup_steps, num_labels
        self.prior = prior_probability(detector.config)
        self.chance = 1.0 / num_labels
        self.ratio_from_step = max(
            math.ceil(RATIO_FROM_SHARE_OF_TRAINING * total_steps), warmup_steps, FIRST_JUDGED_STEP
        )
        self.scores_from_step = max(
            math.ceil(SCORES_FROM_SHARE_OF_TRAINING * total_steps), warmup_steps, FIRST_JUDGED_STEP
        )
        self._initial_bias = _mean_bias(detector)
        self._gradient_norm: Tensor | float | None = None
        self._awaiting_main_loss = False
        self._since_last_reading, self._whole_run = _Matching(), _Matching()
        self._readings: list[dict[str, Any]] = []
        self._tripped: dict[str, str] = {}
        self._override: str | None = None

    # ── During training forwards ────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Observe the main loss's Hungarian matching in every training forward of `model` until the block ends.

        The first matching after a training forward began is the main loss's, in every version of transformers' loss;
        it is observed where it happens, not recomputed, so that a loss that matches the wrong queries is seen to do
        so. The cost is two small copies to the CPU a step, where the matcher itself copies its whole cost matrix.

        Args:
            model: The model that trains, possibly wrapped (the detector inside is hooked).
        """
        detector: Any = unwrap(model)
        num_queries = detector.config.num_queries
        matcher_forward = RTDetrHungarianMatcher.forward

        def observed_forward(matcher: RTDetrHungarianMatcher, outputs: Any, targets: Any) -> Any:
            indices = matcher_forward(matcher, outputs, targets)
            if self._awaiting_main_loss:
                self._awaiting_main_loss = False
                self.record_matching(outputs["logits"], targets, indices, num_queries=num_queries)
            return indices

        def before_forward(module: nn.Module, *_: Any) -> None:
            self._awaiting_main_loss = module.training

        def keep_gradient_norm(gradient: Tensor) -> None:
            self._gradient_norm = gradient.detach().float().norm()

        handles: list[Any] = [detector.register_forward_pre_hook(before_forward)]
        head_weight = detector.model.decoder.class_embed[scoring_layer(detector.config)].weight
        if head_weight.requires_grad:
            handles.append(head_weight.register_hook(keep_gradient_norm))
        matcher_class: Any = RTDetrHungarianMatcher  # the class, because every loss call builds a fresh matcher
        matcher_class.forward = observed_forward
        try:
            yield
        finally:
            matcher_class.forward = matcher_forward
            for handle in handles:
                handle.remove()
            self._awaiting_main_loss = False

    @torch.no_grad()
    def record_matching(
        self,
        logits: Tensor,
        targets: Sequence[Mapping[str, Tensor]],
        indices: Sequence[tuple[Tensor, Tensor]],
        *,
        num_queries: int,
    ) -> None:
        """Count one main-loss matching; `watch` calls it, and a loss of one's own may call it directly.

        Args:
            logits: `[batch_size, queries, num_classes]`, as they entered the main loss. Queries beyond `num_queries`
                are denoising queries and stand first.
            targets: One mapping an image, with `class_labels`.
            indices: The matching: (query indices, ground-truth indices) an image.
            num_queries: Normal queries of the model.
        """
        denoising_queries = logits.shape[1] - num_queries
        scores, classes = logits.detach().float().sigmoid().max(-1)  # [batch_size, queries] each
        scores_by_image, classes_by_image = scores.cpu().numpy(), classes.cpu().numpy()
        step = _Matching(steps=1)
        for image, (queries, truths) in enumerate(indices):
            matched = queries.cpu().numpy()
            normal = matched >= denoising_queries
            labels = targets[image]["class_labels"].cpu().numpy()[truths.cpu().numpy()]
            unmatched = np.ones(logits.shape[1], dtype=bool)
            unmatched[:denoising_queries] = False
            unmatched[matched] = False
            step.matches += len(matched)
            step.denoising_matches += int((~normal).sum())
            step.correct_class += int((classes_by_image[image][matched] == labels)[normal].sum())
            step.matched_scores += _histogram(scores_by_image[image][matched[normal]])
            step.unmatched_scores += _histogram(scores_by_image[image][unmatched])
        self._since_last_reading.add(step)
        self._whole_run.add(step)

    # ── At evaluations ──────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def assess(self, step: int, model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Take one reading of every decoder layer on labelled batches, and judge it.

        Args:
            step: Optimiser steps taken so far.
            model: The model that would be released now (the EMA where there is one), possibly wrapped.
            batches: Mappings with `pixel_values` `[batch_size, 3, height, width]` and `labels` (one mapping an image
                with `class_labels` and `boxes`, cxcywh relative to the padded canvas). A few dozen images are enough.

        Returns:
            JSON-able: `layers`, `ratio_last_to_first`, `matched_median_score`, `unmatched_median_score`,
            `matched_class_accuracy`, `training` (the same from training's own matching since the last reading, with
            `denoising_share`), `log_only`, and `rules`. A figure that could not be measured is None.
        """
        detector: Any = unwrap(model)
        config, device = detector.config, next(detector.parameters()).device
        matcher = RTDetrHungarianMatcher(config)
        layer_maxima: list[list[Tensor]] = [[] for _ in range(config.decoder_layers)]
        matched: list[Tensor] = []
        unmatched: list[Tensor] = []
        correct: list[Tensor] = []
        for batch in batches:
            readings = read_layers(detector, batch["pixel_values"].to(device))
            for maxima, logits in zip(layer_maxima, readings.layer_logits, strict=True):
                maxima.append(logits.sigmoid().amax((1, 2)).cpu())
            labels = [
                {k: v.to(device) for k, v in image.items() if k in ("class_labels", "boxes")}
                for image in batch["labels"]
            ]
            scores, classes = readings.logits.sigmoid().max(-1)  # [batch_size, num_queries] each
            is_matched = torch.zeros_like(scores, dtype=torch.bool)
            if any(len(image["class_labels"]) for image in labels):
                outputs = {"logits": readings.logits, "pred_boxes": readings.boxes_cxcywh.clamp(0, 1)}
                for image, (queries, truths) in enumerate(matcher.forward(outputs, labels)):
                    is_matched[image, queries.to(device)] = True
                    correct.append(
                        (classes[image, queries.to(device)] == labels[image]["class_labels"][truths.to(device)]).cpu()
                    )
            matched.append(scores[is_matched].cpu())
            unmatched.append(scores[~is_matched].cpu())

        layers = layer_rows(config, [torch.cat(m).mean().item() if m else math.nan for m in layer_maxima])
        matched_scores, unmatched_scores = _cat(matched), _cat(unmatched)
        every_score = np.concatenate([matched_scores, unmatched_scores])
        reading: dict[str, Any] = {
            "step": step,
            "images": sum(len(m) for m in layer_maxima[0]),
            "layers": layers,
            "ratio_last_to_first": ratio_last_to_first(layers),
            "matched": len(matched_scores),
            "matched_median_score": _finite(np.median(matched_scores)) if len(matched_scores) else None,
            "unmatched_median_score": _finite(np.median(unmatched_scores)) if len(unmatched_scores) else None,
            "matched_class_accuracy": _finite(_cat(correct).mean()) if len(matched_scores) else None,
            "prior": self.prior,
            "chance": self.chance,
            "training": self._since_last_reading.summary(),
            "log_only": {
                "auc_matched_over_unmatched": _auc(matched_scores, unmatched_scores),
                "p99_score": _finite(np.quantile(every_score, 0.99)) if len(every_score) else None,
                "mean_entropy_bits": _entropy_bits(every_score),
                "bias_drift": _finite(_mean_bias(detector) - self._initial_bias),
                "head_gradient_norm": None if self._gradient_norm is None else _finite(float(self._gradient_norm)),
            },
        }
        self._readings.append(reading)
        self._since_last_reading = _Matching()
        reading["rules"] = self._judge()
        return reading

    def _judge(self) -> list[dict[str, Any]]:
        """Every rule on all readings so far: `tripped` is None while a rule cannot be judged yet."""
        rules = [self._denoising_rule(), self._ratio_rule(), self._median_rule(), self._accuracy_rule()]
        for rule in rules:
            if rule["tripped"]:
                self._tripped.setdefault(rule["rule"], rule["evidence"])
            elif rule["rule"] in self._tripped:
                rule.update(tripped=True, evidence=f"tripped earlier: {self._tripped[rule['rule']]}")
        return rules

    def _denoising_rule(self) -> dict[str, Any]:
        run = self._whole_run
        if not run.matches:
            return _rule("no denoising query in the main loss", None, "no training match was observed")
        share = run.denoising_matches / run.matches
        evidence = f"{run.denoising_matches} of {run.matches} main-loss matches ({share:.3g}) are denoising queries"
        return _rule("no denoising query in the main loss", run.denoising_matches > 0, evidence)

    def _ratio_rule(self) -> dict[str, Any]:
        name = "last layer scores like the first"
        judged = [
            r for r in self._readings if r["step"] > self.ratio_from_step and r["ratio_last_to_first"] is not None
        ]
        if not judged:
            return _rule(name, None, f"judged after step {self.ratio_from_step}; no reading since")
        latest = judged[-RATIO_EVALUATIONS_IN_A_ROW:]
        shown = ", ".join(f"R = {r['ratio_last_to_first']:.3f} at step {r['step']}" for r in latest)
        low = [r["ratio_last_to_first"] < RATIO_FLOOR for r in latest]
        if low[-1] and len(low) < RATIO_EVALUATIONS_IN_A_ROW:
            return _rule(name, None, f"{shown}: under {RATIO_FLOOR}, and a second reading must confirm it")
        return _rule(
            name, all(low), f"{shown}; floor {RATIO_FLOOR} on {RATIO_EVALUATIONS_IN_A_ROW} evaluations in a row"
        )

    def _median_rule(self) -> dict[str, Any]:
        name = "matched queries score above the prior"
        return self._score_rule(name, "matched_median_score", self.prior, f"prior {self.prior:.4f}")

    def _accuracy_rule(self) -> dict[str, Any]:
        name = "matched queries name the right class"
        return self._score_rule(
            name,
            "matched_class_accuracy",
            2 * self.chance,
            f"twice chance, 2/{self.num_labels} = {2 * self.chance:.4f}",
        )

    def _score_rule(self, name: str, key: str, floor: float, floor_in_words: str) -> dict[str, Any]:
        if self.num_labels < FEWEST_CLASSES:
            return _rule(name, False, f"does not apply to {self.num_labels} class(es)", applicable=False)
        judged = [r for r in self._readings if r["step"] >= self.scores_from_step and r[key] is not None]
        if not judged:
            return _rule(name, None, f"judged from step {self.scores_from_step} on; no reading with ground truth since")
        value, step = judged[-1][key], judged[-1]["step"]
        return _rule(
            name, value < floor, f"{key.replace('_', ' ')} {value:.4f} at step {step}; floor: {floor_in_words}"
        )

    # ── Verdict ─────────────────────────────────────────────────────────────────────────────────────────────────────

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
        latest: dict[str, Any] = self._readings[-1] if self._readings else {"step": 0}
        evidence: dict[str, float | str] = dict(self._tripped)
        measured = {
            **{name: latest.get(name) for name in _MEASURED},
            "denoising_share": self._whole_run.summary()["denoising_share"],
            "prior": self.prior,
        }
        evidence.update({name: value for name, value in measured.items() if value is not None})
        raise HeadCollapseError(latest["step"], self._tripped, evidence)

    def report(self, step: int | None = None) -> dict[str, Any]:
        """The run's head health: the content of `health.json`, and what the gates read.

        Args:
            step: Show the layers of the reading at this step (the best checkpoint's), or the latest where there is
                none at it. The rules always cover the whole run.

        Returns:
            `healthy` (None when a rule could not be judged: gates fail closed on it), `layers`,
            `ratio_last_to_first`, `rules`, `override`, `steps`, and `reading` in full.
        """
        latest = self._readings[-1] if self._readings else {"layers": [], "ratio_last_to_first": None}
        shown = next((reading for reading in reversed(self._readings) if reading["step"] == step), latest)
        rules = self._judge()
        judged = [rule["tripped"] for rule in rules]
        return {
            "healthy": False if any(judged) else (None if None in judged else True),
            "layers": shown["layers"],
            "ratio_last_to_first": shown["ratio_last_to_first"],
            "rules": rules,
            "override": self._override,
            "steps": self.total_steps,
            "reading": {key: value for key, value in shown.items() if key not in ("rules", "layers")},
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to report what the uninterrupted run would; plain JSON."""
        gradient_norm = self._gradient_norm
        return {
            "initial_bias": self._initial_bias,
            "gradient_norm": None if gradient_norm is None else float(gradient_norm),
            "since_last_reading": self._since_last_reading.state_dict(),
            "whole_run": self._whole_run.state_dict(),
            "readings": self._readings,
            "tripped": self._tripped,
            "override": self._override,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict` of the same run."""
        self._initial_bias = state["initial_bias"]
        self._gradient_norm = state["gradient_norm"]
        self._since_last_reading = _Matching.from_state_dict(state["since_last_reading"])
        self._whole_run = _Matching.from_state_dict(state["whole_run"])
        self._readings = [dict(reading) for reading in state["readings"]]
        self._tripped = dict(state["tripped"])
        self._override = state["override"]


def ratio_last_to_first(layers: Sequence[Mapping[str, Any]]) -> float | None:
    """R: the scoring layer's mean per-image maximum score over the first layer's; None when either is missing.

    "Last" is the layer that scores at inference; in all published D-FINE configurations that is the last one.
    """
    first = layers[0]["mean_max_score"] if layers else None
    last = next((row["mean_max_score"] for row in layers if row["scores_at_inference"]), None)
    return last / first if first and last is not None else None


def layer_rows(config: Any, mean_max_scores: Sequence[float]) -> list[dict[str, Any]]:
    """One JSON-able row a decoder layer: its mean per-image maximum score and its part in training and inference."""
    supervised, scoring = supervised_layers(config), scoring_layer(config)
    return [
        {
            "layer": i,
            "mean_max_score": _finite(score),
            "supervised_by_normal_queries": i in supervised,
            "scores_at_inference": i == scoring,
        }
        for i, score in enumerate(mean_max_scores)
    ]


def _rule(name: str, tripped: bool | None, evidence: str, *, applicable: bool = True) -> dict[str, Any]:
    return {"rule": name, "tripped": tripped, "applicable": applicable, "evidence": evidence}


def _mean_bias(detector: Any) -> float:
    head = detector.model.decoder.class_embed[scoring_layer(detector.config)]
    return float(head.bias.detach().float().mean())


def _finite(value: Any) -> float | None:
    """A Python float, or None for what JSON has no number for."""
    number = float(value)
    return number if math.isfinite(number) else None


def _cat(parts: Sequence[Tensor]) -> np.ndarray:
    return torch.cat([p.flatten().float() for p in parts]).double().numpy() if parts else np.empty(0)


def _histogram(scores: np.ndarray) -> np.ndarray:
    bins = np.minimum((np.nan_to_num(scores) * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    return np.bincount(bins, minlength=HISTOGRAM_BINS)


def _histogram_median(counts: np.ndarray) -> float | None:
    """The middle of the bin that holds the (lower) median."""
    total = int(counts.sum())
    if not total:
        return None
    middle = int(np.searchsorted(np.cumsum(counts), (total + 1) // 2))
    return (middle + 0.5) / HISTOGRAM_BINS


def _sparse(counts: np.ndarray) -> list[list[int]]:
    return [[int(i), int(counts[i])] for i in np.flatnonzero(counts)]


def _dense(pairs: Sequence[Sequence[int]]) -> np.ndarray:
    counts = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    for index, count in pairs:
        counts[index] = count
    return counts


def _auc(positives: np.ndarray, negatives: np.ndarray) -> float | None:
    """Probability that a matched query outscores an unmatched one (Mann and Whitney's U; ties count half)."""
    if not len(positives) or not len(negatives):
        return None
    ordered = np.sort(negatives)
    below, not_above = np.searchsorted(ordered, positives, "left"), np.searchsorted(ordered, positives, "right")
    return _finite((below + not_above).mean() / (2 * len(negatives)))


def _entropy_bits(scores: np.ndarray) -> float | None:
    """Mean binary entropy of the queries' scores: near 0 for a head that decides, higher for one that cannot."""
    if not len(scores):
        return None
    p = np.clip(scores, 1e-12, 1 - 1e-12)
    return _finite(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)).mean())
