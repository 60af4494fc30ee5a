"""Dense supervision of the encoder: each box is taught to several places of the feature maps.

D-FINE's encoder scores every place of its feature maps and gives it a box; the best become the decoder's queries. They
are taught one query a box, as the decoder is, from which random weights learn slowly: nearly all places hear only "no".
Here the places are taught beside that as those of a dense detector are, with the task-aligned assignment of TOOD (Feng
et al., arXiv 2108.07755); RT-DETRv3 (arXiv 2409.08475) does so with a branch of its own. Prediction is as before.

Shapes: B images, S places of all levels, C classes, n boxes of an image, P pairs of a box and a place; boxes are cxcywh
in [0, 1], relative to the canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dentsight_pipeline.training.criterion import Boxes, Pairs, Targets, only_covered, overlaps, pairs_of

PLACES_PER_BOX = 10
"""The most places that are taught one box."""
SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""A place suits a box by score^a × overlap^b (TOOD, equation 3, with YOLOv8's values)."""


def terms(outputs: Any, targets: Targets, canvas: tuple[int, int], config: Any) -> dict[str, Tensor]:
    """The weighted terms of all places, named as the criterion's and ending in `_dense`.

    Each is divided by the sum of the qualities, as dense detectors do, not by the number of boxes.

    Args:
        outputs: transformers', of a forward pass in training mode.
        targets: By image.
        canvas: (width, height) in pixels.
        config: The model's: strides of its levels, weights of the terms.
    """
    logits = only_covered(targets, outputs.enc_outputs_class.float())
    assert logits is not None
    scores, boxes = logits.detach().sigmoid(), outputs.enc_outputs_coord_logits.float().sigmoid()
    truth = Boxes.of(targets)
    pairs, quality = assigned(scores, boxes, centres(canvas, config.feat_strides).to(boxes.device), truth)
    wanted = torch.zeros_like(logits)
    wanted[pairs.image, pairs.query, truth.labels[pairs.box]] = quality
    weight = (scores - wanted).square()
    classes = F.binary_cross_entropy_with_logits(logits, wanted, weight, reduction="sum")
    own, due = boxes[pairs.image, pairs.query], truth.cxcywh[pairs.box]
    distance, (_, generalised) = (own - due).abs().sum(-1), overlaps(own, due)
    total = quality.sum().clamp(min=1.0)
    return {
        "loss_vfl_dense": classes * (config.weight_loss_vfl / total),
        "loss_bbox_dense": (distance * quality).sum() * (config.weight_loss_bbox / total),
        "loss_giou_dense": ((1 - generalised) * quality).sum() * (config.weight_loss_giou / total),
    }


def centres(canvas: tuple[int, int], strides: Sequence[int]) -> Tensor:
    """[S, 2]: (x, y) in [0, 1] of the places' centres, level after level, each row by row."""
    levels = [
        torch.cartesian_prod(*((torch.arange(side // stride) + 0.5) * stride / side for side in reversed(canvas)))
        for stride in strides
    ]
    return torch.cat(levels).flip(-1)


@torch.no_grad()
def assigned(scores: Tensor, boxes: Tensor, places: Tensor, truth: Boxes) -> tuple[Pairs, Tensor]:
    """Which places are taught which box.

    A box takes the places that suit it best of those whose centre lies in it, or the nearest where none does; a place
    that several boxes take is the one's that it overlaps most.

    Args:
        scores: [B, S, C].
        boxes: [B, S, 4], what the places say.
        places: [S, 2], their centres.
        truth: The batch's boxes.

    Returns:
        The places as queries with their boxes, and their quality [P]: the score that the place is to give, its suit
        scaled so that the best place of a box has the box's best overlap.
    """
    split = zip(truth.cxcywh.split(truth.counts), truth.labels.split(truth.counts), strict=True)
    found = [
        _of_image(scores[image][:, labels].T, boxes[image], places, wanted)
        for image, (wanted, labels) in enumerate(split)
    ]
    pairs = pairs_of([(place, box) for place, box, _ in found], truth, boxes.device)
    return pairs, torch.cat([quality for _, _, quality in found])


def _of_image(scores: Tensor, boxes: Tensor, places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Place, box and quality [P] of one image, from the places' scores [n, S] for the boxes' classes."""
    if not len(wanted):
        nothing = places.new_empty(0, dtype=torch.long)
        return nothing, nothing, places.new_empty(0)
    away = (places - wanted[:, None, :2]).abs()  # [n, S, 2]
    inside = (away <= wanted[:, None, 2:] / 2).all(-1)
    nearest = F.one_hot(away.square().sum(-1).argmin(1), len(places)).bool()
    candidates = torch.where(inside.any(1, keepdim=True), inside, nearest)
    overlap, _ = overlaps(boxes, wanted[:, None])
    suit = (scores**SCORE_POWER * overlap**OVERLAP_POWER).masked_fill(~candidates, -1.0)
    best = suit.topk(min(PLACES_PER_BOX, len(places)), dim=1).indices
    taken = torch.zeros_like(candidates).scatter_(1, best, True) & candidates
    owner = overlap.masked_fill(~taken, -1.0).argmax(0)  # [S]
    taken &= F.one_hot(owner, len(wanted)).T.bool()
    suit, overlap = suit * taken, overlap * taken
    scale = overlap.amax(1, keepdim=True) / suit.amax(1, keepdim=True).clamp(min=torch.finfo(suit.dtype).tiny)
    box, place = taken.nonzero(as_tuple=True)
    return place, box, (suit * scale)[box, place]
