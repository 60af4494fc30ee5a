"""Head health: the fault of transformers before 5.18 is planted, seen, and stops training; healthy runs pass."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from dentsight_pipeline.documents import codec
from dentsight_pipeline.documents.health import (
    HeadHealth,
    LayerScore,
    LogOnly,
    MatchCounts,
    MonitorState,
    Reading,
    RuleOutcome,
    Signals,
)
from dentsight_pipeline.errors import HeadCollapseError
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.health import HeadHealthMonitor, LabelledBatch
from dentsight_pipeline.training.layers import prior_probability, read_layers, scoring_layer, supervised_layers, unwrap
from dentsight_pipeline.training.matching import Matching
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES
from dentsight_pipeline_tests.training.planted_collapse import (
    TOY_CLASSES,
    collapsed_run,
    healthy_run,
    plant,
    tiny_detector,
    toy_batch,
    train_toy,
)

MATCHING = "no denoising query in the main loss"
RATIO = "last layer scores like the first"
MEDIAN = "matched queries score above the prior"
ACCURACY = "matched queries name the right class"


def batch(seed: int = 0, size: int = 4) -> LabelledBatch:
    return toy_batch(np.random.default_rng(seed), size)


def last_reading(report: HeadHealth) -> Signals:
    """The reading that a report rests on."""
    assert report.reading is not None
    return report.reading


def monitor_of(model: nn.Module, **changes: Any) -> HeadHealthMonitor:
    return HeadHealthMonitor(
        model, **{"total_steps": 400, "warmup_steps": 20, "num_labels": len(TOY_CLASSES), **changes}
    )


def reading(step: int, ratio: float = 1.0, median: float | None = 0.3, accuracy: float | None = 0.5) -> Reading:
    """A reading as `assess` returns it, with the figures that the rules look at."""
    layers = tuple(
        LayerScore(layer=i, mean_max_score=score, supervised_by_normal_queries=True, scores_at_inference=i == 1)
        for i, score in enumerate((0.4, 0.4 * ratio))
    )
    return Reading(
        step=step,
        layers=layers,
        ratio_last_to_first=ratio,
        matched_median_score=median,
        matched_class_accuracy=accuracy,
        images=8,
        matched=20,
        unmatched_median_score=0.02,
        prior=1 / 13,
        chance=1 / 12,
        training=Matching().summary(),
        log_only=LogOnly(
            auc_matched_over_unmatched=None,
            p99_score=None,
            mean_entropy_bits=None,
            bias_drift=None,
            head_gradient_norm=None,
        ),
    )


def with_readings(monitor: HeadHealthMonitor, *readings: Reading, matches: int = 100) -> None:
    """Give a monitor these readings, and a run in which so many matches were seen, none of a denoising query."""
    monitor.load_state(replace(monitor.state(), readings=readings, whole_run=MatchCounts(matches=matches)))


def judged(*readings: Reading, **changes: Any) -> HeadHealth:
    """The report of a run with these readings."""
    monitor = monitor_of(tiny_detector(), **changes)
    with_readings(monitor, *readings)
    return monitor.report()


def rule(report: HeadHealth, name: str) -> RuleOutcome:
    return next(row for row in report.rules if row.rule == name)


class TestPlantedFault:
    def test_training_on_the_planted_loss_is_aborted_at_the_first_evaluation(self) -> None:
        """Nobody should pay for epochs of a run whose head cannot learn: two steps are enough to know."""
        model = tiny_detector()
        plant(model)

        with pytest.raises(HeadCollapseError, match=rf"step 2 \({MATCHING}\).*denoising_share = 1") as caught:
            train_toy(model, steps=172, evaluations=(2,))

        assert caught.value.step == 2
        assert caught.value.evidence["denoising_share"] > 0.9  # pyright: ignore[reportOperatorIssue]

    def test_the_planted_loss_collapses_the_scores_and_the_ratio_rule_sees_it_too(self) -> None:
        """The matching rule alone would miss a collapse with another cause; the scores must tell by themselves."""
        report = collapsed_run().monitor.report()

        assert report.healthy is False
        assert rule(report, MATCHING).tripped is True
        assert rule(report, RATIO).tripped is True
        assert report.ratio_last_to_first is not None
        assert report.ratio_last_to_first < 0.5
        assert report.override == "shows what the planted fault does"

    def test_the_same_training_on_the_installed_loss_passes_every_rule(self) -> None:
        """An abort that also fires on healthy runs would be switched off within a week."""
        report = healthy_run().monitor.report()

        assert report.healthy is True
        assert [row.tripped for row in report.rules] == [False] * 4
        assert report.ratio_last_to_first is not None
        assert report.ratio_last_to_first > 0.7
        seen = last_reading(report)
        assert seen.training.denoising_share == 0.0
        assert seen.matched_median_score is not None and seen.unmatched_median_score is not None
        assert seen.matched_median_score > 2 * seen.unmatched_median_score

    def test_bias_drift_does_not_tell_the_two_apart(self) -> None:
        """The card blamed a bias that "never moved off its prior"; AdamW moves it alike, so no rule may read it."""
        collapsed, healthy = (
            last_reading(run.monitor.report()).log_only.bias_drift for run in (collapsed_run(), healthy_run())
        )

        assert collapsed is not None and healthy is not None
        assert abs(collapsed - healthy) < 0.02

    def test_the_product_cannot_reach_the_planted_loss(self) -> None:
        """A re-created fault is only safe where no import of the package leads to it."""
        package = Path(__file__).parents[2] / "dentsight_pipeline"
        imported = {
            name
            for path in package.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }

        assert not [name for name in imported if "dentsight_pipeline_tests" in name or "planted" in name]


class TestWhoSupervisesWhichHead:
    def test_no_denoising_query_reaches_the_main_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fixed split is transformers' and could be lost again in any release: it is checked where it acts."""
        model = tiny_detector().train()
        seen: list[int] = []
        original = RTDetrHungarianMatcher.forward

        def spy(matcher: Any, outputs: Any, targets: Any) -> Any:
            seen.append(outputs["logits"].shape[1])
            return original(matcher, outputs, targets)

        monkeypatch.setattr(RTDetrHungarianMatcher, "forward", spy)
        outputs = model(**batch())

        denoising, normal = outputs.denoising_meta_values["dn_num_split"]
        assert denoising > 0
        assert seen[0] == normal == model.config.num_queries

    @pytest.mark.parametrize("planted", [False, True])
    def test_the_main_loss_pulls_scores_of_normal_queries_up_unless_the_fault_is_planted(self, planted: bool) -> None:
        """The collapse itself: under the fault every normal query of the last layer is a negative, and nothing else."""
        model = tiny_detector().train()
        if planted:
            plant(model)

        outputs = model(**batch())
        (gradient,) = torch.autograd.grad(outputs.loss_dict["loss_vfl"], outputs.logits)

        normal = gradient[:, outputs.denoising_meta_values["dn_num_split"][0] :]
        assert bool((normal < 0).any()) is not planted

    @pytest.mark.parametrize("decoder_layers", [2, 3, 4, 6])
    def test_every_class_head_of_the_inference_path_learns_from_normal_queries(self, decoder_layers: int) -> None:
        """Inference uses the encoder's score head and the scoring layer's: both must be taught by what they will see.

        Heads before them are taught as well except the last but one, which `rescue` must therefore refuse.
        """
        model: Any = tiny_detector(decoder_layers=decoder_layers).train()
        outputs = model(**batch())
        terms = [term for name, term in outputs.loss_dict.items() if "_dn_" not in name and "vfl" in name]
        weights = [head.weight for head in [*model.model.decoder.class_embed, model.model.enc_score_head]]

        gradients = torch.autograd.grad(torch.stack(terms).sum(), weights, allow_unused=True)

        taught = [i for i, g in enumerate(gradients) if g is not None and bool(g.abs().sum() > 0)]
        assert taught == [*supervised_layers(model.config), decoder_layers]
        assert scoring_layer(model.config) in taught


class TestWatching:
    def test_matches_are_counted_and_denoising_queries_are_told_apart(self) -> None:
        """The counts are the evidence of the strictest rule: every ground truth is matched exactly once."""
        batches = [batch(seed) for seed in range(3)]
        truths = sum(len(target["boxes"]) for b in batches for target in b["labels"])
        for planted, share in ((False, 0.0), (True, 1.0)):
            model = tiny_detector().train()
            if planted:
                plant(model)
            monitor = monitor_of(model)
            with monitor.watch(model):
                for b in batches:
                    model(**b)

            seen = monitor.assess(3, model, batches).training

            assert (seen.steps, seen.matches, seen.denoising_share) == (3, truths, share)

    def test_only_training_forwards_of_the_watched_model_are_counted(self) -> None:
        """Validation inside the training loop must not dilute what training's own matching looked like."""
        model, other = tiny_detector().train(), tiny_detector(seed=1).train()
        monitor = monitor_of(model)

        with monitor.watch(model):
            other(**batch())
            model.eval()(**batch())
            monitor.assess(0, model, [batch()])
        model.train()(**batch())

        assert monitor.state().whole_run.steps == 0

    def test_the_matcher_is_left_as_it_was(self) -> None:
        """The hook sits on transformers' class; an error in the loop must not leave it there."""
        before = RTDetrHungarianMatcher.forward
        model = tiny_detector()

        with pytest.raises(KeyError, match="loop"), monitor_of(model).watch(model):
            raise KeyError("loop")

        assert RTDetrHungarianMatcher.forward is before
        assert not model._forward_pre_hooks

    def test_a_model_in_distributed_wrapping_is_watched_and_assessed(self) -> None:
        """With more than one GPU the loop holds a DistributedDataParallel, whose forward is not the detector's."""
        from torch.distributed import HashStore  # pyright: ignore[reportPrivateImportUsage] # documented, not listed

        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
        try:
            wrapped = nn.parallel.DistributedDataParallel(tiny_detector().train(), find_unused_parameters=True)
            monitor = monitor_of(wrapped)
            with monitor.watch(wrapped):
                wrapped(**batch()).loss.backward()

            result = monitor.assess(1, wrapped, [batch()])
        finally:
            torch.distributed.destroy_process_group()

        assert result.training.matches > 0
        assert (result.log_only.head_gradient_norm or 0) > 0
        assert unwrap(wrapped) is wrapped.module

    @pytest.mark.parametrize("criterion", ["transformers", "published"])
    def test_the_products_own_model_is_watched_through_its_criterion(self, criterion: str, tiny_recipe: Recipe) -> None:
        """The trainer wraps the loss; a wrapper that hid the matching would switch the first rule off."""
        model = models.build(tiny_recipe.override({"criterion": criterion}), CLASSES)
        target = {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]] * 2)}
        monitor = monitor_of(model, num_labels=len(CLASSES))

        with monitor.watch(model):
            model(pixel_values=torch.zeros(1, 3, 64, 96), labels=[target])

        run = monitor.state().whole_run
        assert (run.steps, run.matches, run.denoising_matches) == (1, 2, 0)

    def test_batches_without_any_box_are_taken(self) -> None:
        """True negatives stay in the corpus, so that a whole batch can be without ground truth."""
        model = tiny_detector().train()
        empty = batch()
        empty["labels"] = [{"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}] * 4
        monitor = monitor_of(model)

        with monitor.watch(model):
            model(**empty)
        result = monitor.assess(1, model, [empty])

        assert result.matched_median_score is None
        assert result.training.denoising_share is None
        assert rule(monitor.report(), MATCHING).tripped is None

    def test_a_resumed_run_reports_what_the_uninterrupted_one_does(self) -> None:
        """`health.json` is part of the checkpoint's digest: a kill must not change it."""

        def watched_steps(model: Any, monitor: HeadHealthMonitor, seeds: range) -> None:
            with monitor.watch(model):
                for seed in seeds:
                    torch.manual_seed(seed)
                    model.zero_grad()
                    model(**batch(seed)).loss.backward()

        model = tiny_detector().train()
        whole, first = monitor_of(model), monitor_of(model)
        watched_steps(model, whole, range(4))
        watched_steps(model, first, range(2))
        resumed = monitor_of(tiny_detector(seed=9))
        resumed.load_state(codec.read(codec.write(first.state()), MonitorState, "state.json"))
        watched_steps(model, resumed, range(2, 4))

        expected, found = (m.assess(4, model, [batch(7)]) for m in (whole, resumed))

        assert codec.write(found) == codec.write(expected)
        assert codec.write(resumed.report()) == codec.write(whole.report())


class TestReadings:
    def test_every_layer_is_read_with_its_own_head(self) -> None:
        """In eval mode transformers keeps one layer's logits, so that a naive last-to-first ratio is always 1."""
        model: Any = tiny_detector(decoder_layers=3).train()
        pixels = batch()["pixel_values"]

        readings = read_layers(model, pixels)

        assert model.training  # restored
        naive = model.eval()(pixel_values=pixels)
        assert naive.intermediate_logits.shape[1] == 1
        assert len(readings.layer_logits) == 3
        for head, hidden, logits in zip(
            model.model.decoder.class_embed, naive.intermediate_hidden_states, readings.layer_logits, strict=True
        ):
            assert torch.equal(logits, head(hidden))
        # an untrained quality estimate adds exactly nothing, so the last reading must be the model's own answer
        assert torch.equal(readings.layer_logits[-1], naive.logits)

    def test_a_reading_holds_the_figures_of_its_definitions(self) -> None:
        """Each figure is recomputed here the slow way, on a model whose scores were set by hand."""
        model: Any = tiny_detector(decoder_layers=2).eval()
        with torch.no_grad():
            for head, score in zip(model.model.decoder.class_embed, (0.4, 0.1), strict=True):
                head.weight.zero_()
                head.bias.fill_(torch.logit(torch.tensor(score)))
                head.bias[3] += 1.0
        labelled = batch(size=2)

        result = monitor_of(model).assess(5, model, [labelled])

        first, last = (torch.sigmoid(torch.logit(torch.tensor(s)) + 1.0).item() for s in (0.4, 0.1))
        assert [row.mean_max_score for row in result.layers] == pytest.approx([first, last])
        assert result.ratio_last_to_first == pytest.approx(last / first)
        assert result.matched_median_score == pytest.approx(last)
        assert result.unmatched_median_score == pytest.approx(last)
        labels = torch.cat([target["class_labels"] for target in labelled["labels"]])
        assert result.matched == len(labels)
        assert result.matched_class_accuracy == pytest.approx((labels == 3).double().mean().item())
        assert result.log_only.auc_matched_over_unmatched == pytest.approx(0.5)  # all scores tie

    def test_assessing_draws_no_random_number_and_leaves_no_gradient(self) -> None:
        """Assessed or not, training must take the same course."""
        model = tiny_detector().train()
        state = torch.get_rng_state()

        monitor_of(model).assess(1, model, [batch()])

        assert torch.equal(torch.get_rng_state(), state)
        assert all(p.grad is None for p in model.parameters())

    def test_the_prior_is_the_models_own(self) -> None:
        """v3 starts from a prior of 0.01, not 1/(classes+1); scores are compared with what the head started from."""
        assert prior_probability(tiny_detector().config) == pytest.approx(1 / (len(TOY_CLASSES) + 1))
        assert prior_probability(tiny_detector(initializer_bias_prior_prob=0.01).config) == 0.01


class TestRules:
    def test_a_low_ratio_trips_only_on_two_evaluations_in_a_row(self) -> None:
        """A single dip happens to healthy runs; a fall that stays does not."""
        assert rule(judged(reading(250, 0.3)), RATIO).tripped is None
        assert rule(judged(reading(250, 0.3), reading(300, 0.6)), RATIO).tripped is False
        assert rule(judged(reading(250, 0.3), reading(300, 0.3)), RATIO).tripped is True

    @pytest.mark.parametrize(
        ("total_steps", "warmup_steps", "judged_after"), [(400, 20, 150), (4000, 20, 1000), (1000, 600, 600)]
    )
    def test_the_ratio_is_judged_after_a_quarter_the_warm_up_and_150_steps(
        self, total_steps: int, warmup_steps: int, judged_after: int
    ) -> None:
        """Before that, healthy heads are as low as collapsed ones (measured: R = .60 at a quarter of a short run)."""
        early = [reading(judged_after - 10, 0.2), reading(judged_after, 0.2)]
        late = [reading(judged_after + 1, 0.2), reading(judged_after + 2, 0.2)]
        lengths = {"total_steps": total_steps, "warmup_steps": warmup_steps}

        assert rule(judged(*early, **lengths), RATIO).tripped is None
        assert rule(judged(*early, *late, **lengths), RATIO).tripped is True

    @pytest.mark.parametrize(("name", "signal", "floor"), [(MEDIAN, "median", 1 / 13), (ACCURACY, "accuracy", 2 / 12)])
    def test_scores_and_classes_are_judged_from_half_of_training_on(self, name: str, signal: str, floor: float) -> None:
        """Floors: the prior, 1/(classes + 1), for the median score, and twice chance, 2/classes, for the class."""
        low, high = {signal: floor - 0.001}, {signal: floor + 0.001}

        assert rule(judged(reading(199, **low)), name).tripped is None
        assert rule(judged(reading(200, **low)), name).tripped is True
        assert rule(judged(reading(200, **high)), name).tripped is False

    def test_a_run_too_short_to_be_judged_is_neither_healthy_nor_collapsed(self) -> None:
        """Gates fail closed on None; a smoke test of 50 steps must still be able to run."""
        report = judged(reading(25, 0.1, 0.01, 0.0), reading(50, 0.1, 0.01, 0.0), total_steps=50)

        assert report.healthy is None

    def test_readings_without_ground_truth_leave_the_score_rules_open(self) -> None:
        """What was not measured is not healthy."""
        report = judged(reading(300, median=None, accuracy=None))

        assert rule(report, MEDIAN).tripped is None
        assert report.healthy is None

    def test_score_rules_do_not_apply_to_fewer_than_three_classes(self) -> None:
        """Twice chance of two classes is certainty, which no detector reaches."""
        report = judged(reading(200, accuracy=0.6), reading(300, accuracy=0.6), num_labels=2)

        assert [rule(report, name).applicable for name in (MEDIAN, ACCURACY)] == [False, False]
        assert report.healthy is True

    def test_a_collapse_with_a_reason_to_go_on_is_recorded_and_stays_unhealthy(self) -> None:
        """An override lets a person look further; it must not launder the checkpoint."""
        monitor = monitor_of(tiny_detector())
        with_readings(monitor, reading(300, 0.3), reading(350, 0.3))
        monitor.report()

        with pytest.raises(HeadCollapseError, match=r"R = 0\.300 at step 350"):
            monitor.raise_if_collapsed()
        monitor.raise_if_collapsed(allow="ablation for the paper")

        with_readings(monitor, *monitor.state().readings, reading(375, 1.0), reading(400, 1.0))
        report = monitor.report()
        assert (report.healthy, report.override) == (False, "ablation for the paper")
        assert "tripped earlier" in rule(report, RATIO).evidence

    def test_the_report_shows_the_layers_of_the_chosen_step(self) -> None:
        """The best checkpoint is seldom the last: its own layers belong beside it, the rules cover the whole run."""
        monitor = monitor_of(tiny_detector())
        with_readings(monitor, reading(300, 0.9), reading(400, 0.7))

        assert monitor.report(300).ratio_last_to_first == 0.9
        assert monitor.report(17).ratio_last_to_first == monitor.report().ratio_last_to_first == 0.7

    def test_a_run_without_any_reading_has_a_report(self) -> None:
        """A killed or refused run still writes its health: unknown."""
        report = monitor_of(tiny_detector()).report()

        assert (report.healthy, report.layers, report.ratio_last_to_first) == (None, (), None)
        codec.write(report)


def test_scores_that_are_no_numbers_become_none() -> None:
    """JSON has no NaN, and a diverged model must not pass for one with a measured ratio."""
    model: Any = tiny_detector(decoder_layers=2)
    with torch.no_grad():
        model.model.decoder.class_embed[1].bias.fill_(float("nan"))

    result = monitor_of(model).assess(1, model, [batch(size=1)])

    assert result.ratio_last_to_first is None
    codec.write(result)


def test_one_matching_can_be_recorded_by_hand() -> None:
    """A loss of one's own, which builds no Hungarian matcher of transformers', can report its matching."""
    monitor = monitor_of(tiny_detector())
    logits = torch.full((1, 5, 3), -4.0)  # 2 denoising and 3 normal queries
    logits[0, 2, 1] = 4.0
    indices: list[tuple[Tensor, Tensor]] = [(torch.tensor([0, 2]), torch.tensor([0, 1]))]

    monitor.record_matching(logits, [{"class_labels": torch.tensor([0, 1])}], indices, num_queries=3)

    run = monitor.state().whole_run
    assert (run.matches, run.denoising_matches, run.correct_class) == (2, 1, 1)
    assert run.matched_scores == ((982, 1),)  # sigmoid(4) = 0.982
    assert run.unmatched_scores == ((17, 2),)  # sigmoid(-4) = 0.018
