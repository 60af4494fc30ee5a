"""`health.json` and what leads to it: the readings of a detector's class heads, and the rules on them.

How a figure is measured and why a rule is what it is, is `training/health.py`'s to say.
"""

from __future__ import annotations

from dentsight_pipeline.documents.codec import Document


class LayerScore(Document, frozen=True, kw_only=True):
    """One decoder layer's class head."""

    layer: int
    """From 0."""
    mean_max_score: float | None
    """Mean over images of the image's highest score; None when it is no number."""
    supervised_by_normal_queries: bool
    """Whether the loss teaches this head on the queries that inference uses."""
    scores_at_inference: bool
    """Whether a released model scores with this head."""


class RuleOutcome(Document, frozen=True, kw_only=True):
    """What one rule says."""

    rule: str
    """The claim that it checks."""
    tripped: bool | None
    """None while it cannot be judged."""
    applicable: bool = True
    """False where the number of classes leaves it no meaning."""
    evidence: str
    """The numbers, in words."""


class TrainingMatches(Document, frozen=True, kw_only=True):
    """The matching of the main loss, as training itself made it."""

    steps: int
    """Forward passes that were watched."""
    matches: int
    """Ground truths that were matched."""
    denoising_matches: int
    """Those matched to denoising queries: always 0 in a sound loss."""
    denoising_share: float | None
    """Their share."""
    matched_median_score: float | None
    """Median score of matched normal queries, to a thousandth."""
    unmatched_median_score: float | None
    """Median score of the other normal queries, to a thousandth."""
    matched_class_accuracy: float | None
    """Share of matched normal queries whose best class is the ground truth's."""


class LogOnly(Document, frozen=True, kw_only=True):
    """Figures that do not tell a healthy head from a collapsed one; no rule reads them."""

    auc_matched_over_unmatched: float | None
    """Probability that a matched query outscores an unmatched one."""
    p99_score: float | None
    """99th percentile of all queries' scores."""
    mean_entropy_bits: float | None
    """Mean binary entropy of the queries' scores."""
    bias_drift: float | None
    """Mean bias of the scoring head, less what it was at the start."""
    head_gradient_norm: float | None
    """Norm of the last gradient of the scoring head's weight."""


class Signals(Document, frozen=True, kw_only=True):
    """What one reading measured."""

    step: int
    """Optimiser steps taken."""
    images: int
    """Images that were read."""
    ratio_last_to_first: float | None
    """R: the scoring layer's mean maximum score over the first layer's."""
    matched: int
    """Queries matched to ground truth."""
    matched_median_score: float | None
    """Their median score."""
    unmatched_median_score: float | None
    """The other queries'."""
    matched_class_accuracy: float | None
    """Share of matched queries that name the right class."""
    prior: float
    """What an untrained head scores."""
    chance: float
    """1 / classes."""
    training: TrainingMatches
    """The same figures from training's own matching since the last reading."""
    log_only: LogOnly
    """Figures that decide nothing."""


class Reading(Signals, frozen=True, kw_only=True):
    """One reading with every layer, and what the rules made of all readings so far."""

    layers: tuple[LayerScore, ...]
    """First to last."""
    rules: tuple[RuleOutcome, ...] = ()
    """All four, in a fixed order."""


class HeadHealth(Document, frozen=True, kw_only=True):
    """`health.json` of a checkpoint: what gates and reports read."""

    healthy: bool | None
    """None when a rule could not be judged: gates fail closed on it."""
    layers: tuple[LayerScore, ...]
    """Of the reading shown."""
    ratio_last_to_first: float | None
    """R of the reading shown."""
    rules: tuple[RuleOutcome, ...]
    """On the whole run; one that tripped stays tripped."""
    override: str | None = None
    """Somebody's reason to go on after a rule had tripped; the head stays unhealthy."""
    steps: int | None = None
    """Optimiser steps of the whole run."""
    reading: Signals | None = None
    """The reading of the published weights, or the latest; None without any."""


class MatchCounts(Document, frozen=True, kw_only=True):
    """Running counts of training's matching; whole numbers only, so that a resumed run goes on exactly."""

    steps: int = 0
    """Forward passes."""
    matches: int = 0
    """Ground truths that were matched."""
    denoising_matches: int = 0
    """Those matched to denoising queries."""
    correct_class: int = 0
    """Matched normal queries that named the right class."""
    matched_scores: tuple[tuple[int, int], ...] = ()
    """Histogram of matched normal queries' scores: bin of a thousandth, count."""
    unmatched_scores: tuple[tuple[int, int], ...] = ()
    """The same of the other normal queries."""


class MonitorState(Document, frozen=True, kw_only=True):
    """All that a resumed run needs to report what the uninterrupted one would."""

    initial_bias: float
    """Mean bias of the scoring head at step 0."""
    gradient_norm: float | None
    """Of the scoring head's weight, at the last step."""
    since_last_reading: MatchCounts
    """Counts that the next reading will show."""
    whole_run: MatchCounts
    """Counts since step 0."""
    readings: tuple[Reading, ...]
    """All so far."""
    tripped: dict[str, str]
    """Rules that have tripped, with the evidence of then."""
    override: str | None
    """Somebody's reason to go on."""


# The audit of a finished checkpoint --------------------------------------------------------------------------------


class AuditedImages(Document, frozen=True, kw_only=True):
    """What a checkpoint's heads were audited on."""

    count: int
    """How many."""
    kind: str
    """`given`, or `phantom`: drawn from a fixed seed."""


class HeadAudit(Document, frozen=True, kw_only=True):
    """What the class heads of a finished checkpoint say."""

    layers: tuple[LayerScore, ...]
    """First to last."""
    ratio_last_to_first: float | None
    """R."""
    healthy: bool | None
    """None = the images do not show it."""
    verdict: str
    """In words."""
    rules: tuple[RuleOutcome, ...]
    """The one rule that a finished checkpoint can be judged by."""
    images: AuditedImages
    """What it was audited on."""
    prior: float
    """What an untrained head scores."""
    classes: tuple[str, ...]
    """In label order."""
    rescue_heads: tuple[int, ...]
    """The layers that `rescue` accepts."""
    notes: tuple[str, ...]
    """What had to be assumed."""


class Precision(Document, frozen=True, kw_only=True):
    """A checkpoint on a ground truth."""

    ap: float | None
    """Macro AP[.50:.95]."""
    ap50: float | None
    """Macro AP at IoU .50."""
    max_score: float | None
    """Mean over images of the highest score."""


class Rescue(Document, frozen=True, kw_only=True):
    """A checkpoint that scores with an earlier layer's head."""

    head: int
    """The layer that scores now."""
    replaced: int
    """The layer that scored."""
    method: str
    """How, in words."""
    note: str | None
    """What to beware of."""
    out: str
    """Its folder."""
    before: Precision | None = None
    """With a ground truth: the checkpoint as it was."""
    after: Precision | None = None
    """With a ground truth: the rescued one."""
