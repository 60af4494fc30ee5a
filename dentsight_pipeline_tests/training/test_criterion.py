"""D-FINE's loss term by term against numbers computed by hand, and which logits and heads it teaches."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher

from dentsight_pipeline.training import criterion as criteria
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.criterion import Boxes, Criterion, Pairs
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES
from dentsight_pipeline_tests.training.planted_collapse import tiny_detector, toy_batch

BINS = 4
CONFIG: dict[str, Any] = {
    "max_num_bins": BINS,
    "up": 0.5,
    "reg_scale": 4.0,
    "focal_loss_alpha": 0.75,
    "focal_loss_gamma": 2.0,
    "matcher_class_cost": 2.0,
    "matcher_bbox_cost": 5.0,
    "matcher_giou_cost": 2.0,
    "matcher_alpha": 0.25,
    "matcher_gamma": 2.0,
    "weight_loss_vfl": 1.0,
    "weight_loss_bbox": 1.0,
    "weight_loss_giou": 1.0,
    "weight_loss_fgl": 1.0,
    "weight_loss_ddf": 1.0,
    "use_focal_loss": True,
}
TARGET = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
HALF = [0.5, 0.5, 0.4, 0.2]
"""Overlaps the target by a half; as its hull is the target, generalised overlap is a half as well."""
FAR = [0.1, 0.1, 0.1, 0.1]


def terms(
    logits: Tensor, boxes: Tensor, corners: Tensor, target: dict[str, Tensor] = TARGET, **more: Any
) -> dict[str, Tensor]:
    """The terms of one image without denoising: logits [N, Q, C] and boxes [N, Q, 4] of the outputs before the first
    layer, of each layer and of the encoder; corners [L, Q, 4, R]; every distribution refines the query's first box."""
    references = boxes[:1].expand(len(corners), -1, -1)
    return Criterion(SimpleNamespace(**CONFIG), **more).terms(
        [target],
        logits[None, :-1],
        boxes[None, :-1],
        enc_topk_logits=logits[None, -1],
        enc_topk_bboxes=boxes[None, -1],
        predicted_corners=corners.flatten(-2)[None],
        initial_reference_points=references[None],
    )


def same_outputs(layers: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Every output says the same: query 0 half on the target, query 1 far from it, all scores a half."""
    boxes = torch.tensor([[HALF, FAR]]).repeat(layers + 2, 1, 1)
    return torch.zeros(layers + 2, 2, 2), boxes, torch.zeros(layers, 2, 4, BINS + 1)


class TestTerms:
    def test_varifocal_weighs_negatives_by_their_score_and_positives_by_their_overlap(self) -> None:
        """Three negatives at score 1/2 weigh .75 × 1/4 each, the positive weighs its overlap 1/2; all lose ln 2."""
        found = terms(*same_outputs())

        each = (3 * 0.75 * 0.25 + 0.5) * math.log(2)
        assert found["loss_vfl"].item() == pytest.approx(3 * each)  # before the layer, the layer, the encoder

    def test_matchability_weighs_every_positive_alike_and_aims_at_the_overlap_to_gamma(self) -> None:
        """DEIM's point: a poorly placed match must not vanish. At score 1/2 any target loses ln 2; its weight is 1."""
        logits, boxes, corners = same_outputs()
        found = terms(logits, boxes, corners, class_loss="matchability")

        each = (3 * 0.75 * 0.25 + 1.0) * math.log(2)
        assert found["loss_vfl"].item() == pytest.approx(3 * each)
        logits = logits.requires_grad_()
        (gradient,) = torch.autograd.grad(terms(logits, boxes, corners, class_loss="matchability")["loss_vfl"], logits)
        assert gradient[0, 0, 1].item() == pytest.approx(0.5 - 0.5**2)  # score − overlap^gamma

    def test_boxes_are_taught_by_distance_and_generalised_overlap(self) -> None:
        """The matched box is .2 too low a height and overlaps by a half, in each of three outputs."""
        found = terms(*same_outputs())

        assert found["loss_bbox"].item() == pytest.approx(3 * 0.2)
        assert found["loss_giou"].item() == pytest.approx(3 * 0.5)

    def test_generalised_overlap_of_boxes_apart_counts_the_empty_hull(self) -> None:
        """Two boxes of area 1 in a hull of 3: 0 − (3 − 2) / 3."""
        overlap, generalised = criteria.overlaps(
            torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.tensor([[2.5, 0.5, 1.0, 1.0]])
        )

        assert (overlap.item(), generalised.item()) == pytest.approx((0.0, -1 / 3))

    def test_bins_grow_outwards_as_the_paper_has_them(self) -> None:
        """W(0) = −2ac, W(1) = −ac … W(N/2) = 0 … W(N − 1) = ac, W(N) = 2ac, with a = 1/2 and c = 4."""
        bins = criteria.bin_values(32, 0.5, 4.0)

        assert bins[[0, 1, 16, 31, 32]].tolist() == pytest.approx([-4, -2, 0, 2, 4])
        assert (bins.diff() > 0).all()
        assert criteria.bin_values(4, 0.5, 4.0).tolist() == pytest.approx([-4, -2, 0, 2, 4])

    def test_an_edge_is_taught_between_its_two_nearest_bins(self) -> None:
        """The true top lies .2 above the reference's centre, whose height is .2: .2 / (.2 / 4) − 2 = 2, bin 3 exactly;
        left and right fit: 0, bin 2 exactly. Far outside, the last bin is all there is."""
        bins = criteria.bin_values(4, 0.5, 4.0)
        reference = torch.tensor([HALF])

        left, share = criteria.edge_targets(reference, TARGET["boxes"], bins, 4.0)
        _, beyond = criteria.edge_targets(reference, torch.tensor([[0.5, 0.5, 9.0, 0.25]]), bins, 4.0)

        assert (left + share)[0].tolist() == pytest.approx([2, 3, 2, 3], abs=1e-4)
        assert beyond[0].tolist() == pytest.approx([1, 0.25, 1, 0.25], abs=1e-4)

    def test_fine_grained_localisation_is_cross_entropy_by_overlap_in_every_layer(self) -> None:
        """Even distributions over five values lose ln 5 an edge, weighted by the overlap 1/2; layers add up."""
        for layers in (1, 2, 3):
            found = terms(*same_outputs(layers))

            assert found["loss_fgl"].item() == pytest.approx(layers * 4 * 0.5 * math.log(5))

    def test_distributions_are_weighted_with_the_overlap_of_their_own_layer(self) -> None:
        """transformers pairs layer i's distributions with the boxes of layer i − 1."""
        logits, boxes, corners = same_outputs(2)
        boxes[2, 0] = TARGET["boxes"][0]  # outputs: before, layer 0, layer 1, encoder

        found = terms(logits, boxes, corners)

        assert found["loss_fgl"].item() == pytest.approx(4 * (0.5 + 1.0) * math.log(5))

    def test_distillation_averages_matched_and_unmatched_queries_apart(self) -> None:
        """One matched query, weight: its overlap 1/2; two unmatched, weight: the last layer's score, here .8; each
        T² × KL, the two means weighted by the roots 1 and √2 of their numbers."""
        logits, boxes, corners = (torch.cat([part, part[:, 1:]], dim=1) for part in same_outputs(2))
        logits[2] = math.log(4)  # of the last layer: outputs are before, layer 0, layer 1, encoder
        corners[1, 0, :, 0], corners[1, 1, :, 0] = 5.0, 10.0
        even = torch.full((BINS + 1,), 1 / (BINS + 1))

        def diverged(logit: float) -> float:
            teacher = (torch.tensor([logit, 0, 0, 0, 0]) / 5).softmax(0)
            return 25 * float((teacher * (teacher / even).log()).sum())

        found = terms(logits, boxes, corners)

        matched, unmatched = 0.5 * diverged(5), 0.8 * diverged(10) / 2
        expected = (matched + 2**0.5 * unmatched) / (1 + 2**0.5)
        assert found["loss_ddf"].item() == pytest.approx(expected, rel=1e-5)

    def test_nothing_is_taught_without_boxes_but_that_nothing_is_there(self) -> None:
        """True negatives stay in the corpus, so that a whole batch can be without ground truth."""
        target = {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}

        found = terms(*same_outputs(2), target)

        assert found["loss_vfl"].item() == pytest.approx(4 * 4 * 0.75 * 0.25 * math.log(2))
        assert [found[name].item() for name in ("loss_bbox", "loss_giou", "loss_fgl")] == [0, 0, 0]


class TestMatching:
    def test_it_is_transformers_matching_of_every_output(self) -> None:
        """The second witness: the same assignment, whatever the numbers of boxes."""
        random = torch.Generator().manual_seed(0)
        config = SimpleNamespace(**CONFIG)
        logits, boxes = torch.randn(3, 4, 20, 5, generator=random), torch.rand(3, 4, 20, 4, generator=random) / 2 + 0.2
        targets = [
            {"class_labels": torch.randint(5, (n,), generator=random), "boxes": torch.rand(n, 4, generator=random)}
            for n in (3, 0, 7, 1)
        ]

        ours = Criterion(config).match(logits, boxes, Boxes.of(targets))

        for number, matched in enumerate(ours):
            theirs = RTDetrHungarianMatcher(config)({"logits": logits[number], "pred_boxes": boxes[number]}, targets)
            for own, other in zip(matched, theirs, strict=True):
                assert [part.tolist() for part in own] == [part.tolist() for part in other]

    def test_the_union_keeps_a_querys_most_frequent_box(self) -> None:
        """GO: of three matchings, query 4 of image 0 has box 1 twice and box 0 once; ties go to the first box."""
        each = [
            Pairs(torch.tensor([0, 0, 1]), torch.tensor([4, 2, 0]), torch.tensor([box, 0, last]))
            for box, last in ((1, 5), (1, 4), (0, 6))
        ]

        union = criteria.union_of(each, queries=5)

        pairs = set(zip(*(part.tolist() for part in union), strict=True))
        assert pairs == {(0, 4, 1), (0, 2, 0), (1, 0, 4)}

    def test_boxes_are_taught_by_the_union_and_divided_by_it(self) -> None:
        """The encoder matches another query than the decoder: both learn the box, and it does not count twice."""
        logits, boxes, corners = same_outputs()
        boxes[-1] = boxes[-1].flip(0)

        found = terms(logits, boxes, corners)

        far = (torch.tensor(FAR) - TARGET["boxes"][0]).abs().sum().item()
        assert found["loss_bbox"].item() == pytest.approx(3 * (0.2 + far) / 2)

    def test_denoising_queries_are_taught_their_own_box_in_every_group(self) -> None:
        """transformers numbers positive denoising queries within an image; boxes are flat over the batch here."""
        counts = [2, 0, 1]
        truth = Boxes(torch.zeros(3, dtype=torch.long), torch.zeros(3, 4), counts)
        positive = [torch.tensor([0, 1, 4, 5]), torch.tensor([], dtype=torch.long), torch.tensor([0, 4])]

        pairs = criteria.denoising_pairs({"dn_num_group": 2, "dn_positive_idx": positive}, truth)

        assert [part.tolist() for part in pairs] == [[0, 0, 0, 0, 2, 2], [0, 1, 4, 5, 0, 4], [0, 1, 0, 1, 2, 2]]


class TestWhatIsTaught:
    @pytest.mark.parametrize("layers", [2, 4])
    def test_normal_and_denoising_queries_each_teach_every_head(self, layers: int) -> None:
        """In transformers 5.23 the last but one class head hears from denoising queries alone, the last from none."""
        model: Any = tiny_detector(decoder_layers=layers).train()
        model.loss_function = Criterion(model.config)
        outputs = model(**toy_batch(np.random.default_rng(0)))
        heads = [*(head.weight for head in model.model.decoder.class_embed)]
        boxes = [mlp.layers[-1].weight for mlp in model.model.decoder.bbox_embed]

        for suffix in ("", "_dn"):
            for name, weights in (("vfl", heads), ("fgl", boxes)):
                term = outputs.loss_dict[f"loss_{name}{suffix}"]
                gradients = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
                assert all(g is not None and bool(g.abs().sum() > 0) for g in gradients), (name, suffix)

    @pytest.mark.parametrize("criterion", ["transformers", "published"])
    def test_classes_that_an_image_does_not_cover_take_no_part_in_any_class_term(
        self, criterion: str, tiny_recipe: Recipe
    ) -> None:
        """What nobody looked for must not be taught as absent: no gradient in any layer, encoder or denoising query."""
        torch.manual_seed(0)
        model = models.build(tiny_recipe.override({"criterion": criterion}), CLASSES)
        box = torch.tensor([[0.3, 0.3, 0.2, 0.2]])
        labels = [
            {"class_labels": torch.tensor([0]), "boxes": box, "covered": torch.tensor([True, False, True])},
            {"class_labels": torch.tensor([1]), "boxes": box, "covered": torch.tensor([True, True, True])},
        ]

        outputs = model(pixel_values=torch.rand(2, 3, 64, 96), labels=labels)
        asked = [outputs.intermediate_logits, outputs.enc_topk_logits, outputs.logits]
        gradients = torch.autograd.grad(outputs.loss, asked, allow_unused=True)

        taught = torch.stack([g.flatten(1, -2).abs().sum(1) for g in gradients if g is not None]).sum(0)  # [2, 3]
        assert (taught == 0).tolist() == [[False, True, False], [False, False, False]]
        assert torch.isfinite(outputs.loss)

    def test_a_hidden_logit_has_no_score_and_no_loss(self) -> None:
        """The distillation weighs a query with its highest score: a class that nobody looked for must not give it."""
        labels = [{"covered": torch.tensor([True, False])}]

        hidden = criteria.only_covered(labels, torch.full((1, 3, 2), 2.0))

        assert hidden is not None
        assert hidden.sigmoid()[..., 1].max() == 0
        assert torch.nn.functional.softplus(hidden)[..., 1].max() == 0
        assert (hidden[..., 0] == 2).all()

    @pytest.mark.parametrize("criterion", ["transformers", "published"])
    def test_coverage_of_everything_changes_no_bit(self, criterion: str, tiny_recipe: Recipe) -> None:
        """Recipes and weights from before coverage must come out again."""
        model = models.build(tiny_recipe.override({"criterion": criterion}), CLASSES)
        label = {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]] * 2)}
        losses = []

        for more in ({}, {"covered": torch.ones(3, dtype=torch.bool)}):
            torch.manual_seed(1)
            losses.append(model(pixel_values=torch.rand(1, 3, 64, 96), labels=[{**label, **more}]).loss.item())

        assert losses[0] == losses[1]
