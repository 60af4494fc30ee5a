"""Which places of the encoder are taught which box, by hand-made cases, and what the loss of all places teaches."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dentsight_pipeline.training import dense
from dentsight_pipeline.training import model as models
from dentsight_pipeline.training.criterion import Boxes
from dentsight_pipeline.training.recipe import Recipe
from dentsight_pipeline_tests.training.conftest import CLASSES

PLACES = dense.centres((80, 20), [10])
"""Two rows of eight: x = .0625, .1875 … .9375 and y = .25, .75."""
WEIGHTS = {"weight_loss_vfl": 1.0, "weight_loss_bbox": 5.0, "weight_loss_giou": 2.0}


def assigned(said: Tensor, *boxes: list[float], logits: Tensor | None = None) -> dict[int, tuple[int, float]]:
    """Box and quality by place, of one image whose boxes are of class 0, 1 …; `said` [S, 4] is what the places say."""
    logits = torch.zeros(len(said), 2) if logits is None else logits
    truth = Boxes(torch.arange(len(boxes)), torch.tensor(boxes).reshape(-1, 4), [len(boxes)])
    pairs, quality = dense.assigned(logits.sigmoid()[None], said[None], PLACES, truth)
    return {p: (b, q) for p, b, q in zip(pairs.query.tolist(), pairs.box.tolist(), quality.tolist(), strict=True)}


def saying(box: list[float]) -> Tensor:
    """Every place says the same box."""
    return torch.tensor(box).expand(len(PLACES), 4).clone()


class TestPlaces:
    def test_centres_go_level_by_level_and_row_by_row(self) -> None:
        """transformers flattens feature maps so; another order would teach boxes to places elsewhere."""
        found = dense.centres((96, 64), [32, 64])

        third, half = [1 / 6, 1 / 2, 5 / 6], [1 / 3]
        expected = [[x, y] for y in (0.25, 0.75) for x in third] + [[x, 0.5] for x in half]
        torch.testing.assert_close(found, torch.tensor(expected))

    def test_they_are_where_the_models_own_anchors_are(self, tiny_recipe: Recipe) -> None:
        model = models.build(tiny_recipe, CLASSES)
        width, height = tiny_recipe.image_size
        shapes = tuple((height // stride, width // stride) for stride in model.config.feat_strides)

        anchors, valid = model.model.generate_anchors(shapes)

        ours = dense.centres(tiny_recipe.image_size, model.config.feat_strides)
        torch.testing.assert_close(ours[valid[0, :, 0]], anchors.sigmoid()[0, valid[0, :, 0], :2])


class TestAssignment:
    def test_a_box_is_taught_to_the_places_in_it(self) -> None:
        """Centres at .3125 and .4375 of the upper row lie in it; they are to score their overlap, here 1."""
        box = [0.375, 0.25, 0.25, 0.4]

        assert assigned(saying(box), box) == {2: (0, pytest.approx(1)), 3: (0, pytest.approx(1))}

    def test_a_box_between_the_centres_is_taught_to_the_nearest_place(self) -> None:
        """A carious spot of some pixels holds no centre of a coarse level, and must be taught all the same."""
        box = [0.26, 0.3, 0.02, 0.02]

        assert list(assigned(saying(box), box)) == [2]

    def test_only_the_places_that_suit_a_box_best_are_taught_it(self) -> None:
        """All 16 lie in it: the ten that overlap it most, whose quality falls with overlap to the sixth."""
        box = [0.5, 0.5, 1.0, 1.0]
        said = saying(box)
        said[:, 3] = torch.linspace(1, 0.25, len(said))  # the overlap

        found = assigned(said, box)

        assert sorted(found) == list(range(10))
        assert found[2][1] == pytest.approx(0.9**6)

    def test_a_place_that_is_sure_of_the_class_suits_it_better(self) -> None:
        """Score to the power of a half: four times the score is twice the quality."""
        box = [0.375, 0.25, 0.25, 0.4]
        logits = torch.zeros(len(PLACES), 2)
        logits[2, 0], logits[3, 0] = math.log(0.8 / 0.2), math.log(0.2 / 0.8)

        found = assigned(saying(box), box, logits=logits)

        assert (found[2][1], found[3][1]) == (pytest.approx(1.0), pytest.approx(0.5))

    def test_a_place_in_two_boxes_is_taught_the_one_that_it_overlaps_most(self) -> None:
        """Whatever it is surer of: it says .75 of the wide one, of which the narrow one is two thirds."""
        wide, narrow = [0.5, 0.25, 1.0, 0.4], [0.5, 0.25, 0.5, 0.4]
        surely_narrow = torch.tensor([[-5.0, 5.0]]).repeat(len(PLACES), 1)

        assert assigned(saying([0.5, 0.25, 0.75, 0.4]), wide, narrow, logits=surely_narrow)[3][0] == 0
        assert assigned(saying([0.5, 0.25, 0.60, 0.4]), wide, narrow)[3][0] == 1

    def test_rows_of_the_batch_follow_the_images(self) -> None:
        """An image without boxes between two others shifts nothing."""
        box = torch.tensor([0.375, 0.25, 0.25, 0.4])
        truth = Boxes(torch.tensor([1, 0]), box.expand(2, 4), [1, 0, 1])
        said = box.expand(3, len(PLACES), 4)

        pairs, _ = dense.assigned(torch.full((3, len(PLACES), 2), 0.5), said, PLACES, truth)

        assert [part.tolist() for part in pairs] == [[0, 0, 2, 2], [2, 3, 2, 3], [0, 0, 1, 1]]


NARROW = [0.375, 0.25, 0.1, 0.4]
TARGET = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.375, 0.25, 0.2, 0.4]])}
"""Holds places 2 and 3; `NARROW` overlaps it by a half."""


def terms(logits: Tensor, said: list[float], target: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of one image on the canvas of `PLACES`."""
    outputs = SimpleNamespace(enc_outputs_class=logits[None], enc_outputs_coord_logits=saying(said).logit()[None])
    return dense.terms(outputs, [target], (80, 20), SimpleNamespace(**WEIGHTS, feat_strides=[10]))


class TestTerms:
    def test_they_are_what_hand_computed_numbers_say(self) -> None:
        """Two places overlap their box by a half and are to score .5; they score it, which weighs nothing. The 14 other
        scores of .5 weigh .25 and lose ln 2; boxes are .1 too narrow. All is divided by the sum of qualities, 1."""
        logits = torch.tensor([-20.0, 0.0]).repeat(16, 1)

        found = terms(logits, NARROW, TARGET)

        assert {name: value.item() for name, value in found.items()} == {
            "loss_vfl_dense": pytest.approx(14 * 0.25 * math.log(2)),
            "loss_bbox_dense": pytest.approx(5 * 0.1, rel=1e-4),
            "loss_giou_dense": pytest.approx(2 * 0.5, rel=1e-4),
        }

    def test_an_image_without_boxes_teaches_that_nothing_is_there(self) -> None:
        target = {"class_labels": torch.zeros(0, dtype=torch.long), "boxes": torch.zeros(0, 4)}

        found = terms(torch.zeros(16, 2), NARROW, target)

        assert found["loss_vfl_dense"].item() == pytest.approx(32 * 0.25 * math.log(2))
        assert (found["loss_bbox_dense"], found["loss_giou_dense"]) == (0, 0)

    def test_classes_that_an_image_does_not_cover_teach_nothing(self) -> None:
        """What nobody looked for is not known to be absent, at no place."""
        logits = torch.zeros(16, 2, requires_grad=True)

        found = terms(logits, NARROW, {**TARGET, "covered": torch.tensor([False, True])})
        (gradient,) = torch.autograd.grad(found["loss_vfl_dense"], logits)

        assert (gradient.abs().sum(0) > 0).tolist() == [False, True]

    def test_they_teach_the_encoder_and_what_lies_before_it_and_no_decoder(self, tiny_recipe: Recipe) -> None:
        torch.manual_seed(0)
        model = models.build(tiny_recipe, CLASSES)
        labels = [{"class_labels": torch.tensor([0]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2]])}]

        outputs = model(pixel_values=torch.rand(1, 3, *reversed(tiny_recipe.image_size)), labels=labels)
        found = dense.terms(outputs, labels, tiny_recipe.image_size, model.config)
        sum(found.values(), torch.tensor(0.0)).backward()

        taught = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
        parts = {".".join(name.split(".")[1:2]) for name in taught}
        assert {"backbone", "encoder", "enc_output", "enc_score_head", "enc_bbox_head"} <= parts
        assert not any("decoder.layers" in name or "class_embed" in name for name in taught)
