"""D-FINE's loss as it was published: one object a training, all decoder layers at once.

Terms and weights are those of Peng et al., "D-FINE" (arXiv 2410.13842, section 4 and the authors' code). transformers'
own criterion (5.23) pairs each layer's distributions with the boxes of the layer before, gives the last layer's
distributions no target, and matches each layer for itself; here

- a layer's distributions are taught with that layer's boxes, in the last layer too;
- boxes and distributions of all layers share the union of their matchings ("GO"), the most frequent target a query;
- denoising queries teach every head, the one before the first layer and the last included.

`covered` in an image's labels takes the classes that nobody looked for out of all class terms, whichever criterion
computes them (`only_covered`).

Shapes: N outputs (before the first layer, of each of L layers, of the encoder), B images, Q queries, C classes, M boxes
of the batch, P pairs of a query with a box, R = bins + 1 values of an edge's distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 5.0
"""T of the decoupled distillation focal loss."""
HIDDEN_LOGIT = -1e4
"""A logit whose score, loss and gradient are 0 in every class term."""

Targets = Sequence[Mapping[str, Tensor]]
"""By image: `class_labels` [n], `boxes` [n, 4] cxcywh, and `covered` [C] where not every class was looked for."""
Indices = Sequence[tuple[Tensor, Tensor]]
"""By image: matched queries and the numbers of their boxes within the image."""


class Pairs(NamedTuple):
    """Queries with the boxes that they are taught, flat over the batch; each [P]."""

    image: Tensor
    query: Tensor
    box: Tensor
    """Row of the batch's boxes."""


@dataclass(frozen=True)
class Outputs:
    """What one kind of queries, normal or denoising, was given by the decoder."""

    logits: Tensor
    """[N, B, Q, C]."""
    boxes: Tensor
    """[N, B, Q, 4] cxcywh in [0, 1]."""
    corners: Tensor
    """[L, B, Q, 4, R]: distributions of the four edges."""
    references: Tensor
    """[B, Q, 4]: the boxes that the distributions refine."""
    first_layer: int
    """Number of the output that the first distributions belong to."""

    @property
    def layers(self) -> slice:
        """Outputs that have distributions."""
        return slice(self.first_layer, self.first_layer + len(self.corners))


@dataclass(frozen=True)
class Boxes:
    """The batch's ground truth, flat."""

    labels: Tensor
    """[M]."""
    cxcywh: Tensor
    """[M, 4]."""
    counts: list[int]
    """Boxes of each image."""

    @classmethod
    def of(cls, targets: Targets) -> Boxes:
        """All images' boxes one after the other."""
        labels, boxes = (torch.cat([one[name] for one in targets]) for name in ("class_labels", "boxes"))
        return cls(labels, boxes.float(), [len(one["class_labels"]) for one in targets])

    @property
    def offsets(self) -> list[int]:
        """First row of each image."""
        return [0, *np.cumsum(self.counts)[:-1].tolist()]


class Criterion:
    """The loss, with the signature of transformers' `DFineForObjectDetectionLoss`.

    Args:
        config: The model's: weights of the terms and of the matching, bins, alpha and gamma.
        class_loss: `varifocal` as D-FINE (alpha weighs negatives, the overlap positives), or `matchability` as DEIM
            (arXiv 2412.04234, equation 4: the target is overlap^gamma and every positive weighs 1).
    """

    def __init__(self, config: Any, class_loss: str = "varifocal") -> None:
        self._config, self._class_loss = config, class_loss
        self._bins: Tensor = bin_values(config.max_num_bins, abs(config.up), abs(config.reg_scale))
        self.seen: Callable[[Tensor, Targets, Indices], None] | None = None
        """Told the last layer's logits, the targets and their matching."""

    def __call__(
        self, logits: Tensor, labels: Targets, device: Any, pred_boxes: Tensor, config: Any, *args: Any, **more: Any
    ) -> Any:
        """(Loss, its weighted terms, None)."""
        terms = self.terms(labels, *args, **more)
        return torch.stack(list(terms.values())).sum(), terms, None

    def terms(
        self,
        targets: Targets,
        outputs_class: Tensor,
        outputs_coord: Tensor,
        *,
        enc_topk_logits: Tensor,
        enc_topk_bboxes: Tensor,
        predicted_corners: Tensor,
        initial_reference_points: Tensor,
        denoising_meta_values: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """The weighted terms, each summed over outputs; those of denoising queries end in `_dn`."""
        decoder = (outputs_class, outputs_coord, predicted_corners, initial_reference_points)
        queries = outputs_class.shape[2]
        split = [0, queries] if denoising_meta_values is None else denoising_meta_values["dn_num_split"]
        truth = Boxes.of(targets)
        normal = _outputs(decoder, slice(split[0], queries), (enc_topk_logits, enc_topk_bboxes))
        found = self._normal_terms(normal, truth, targets)
        if denoising_meta_values is not None:
            denoising = _outputs(decoder, slice(0, split[0]))
            pairs = denoising_pairs(denoising_meta_values, truth)
            boxes = max(1, len(truth.labels)) * denoising_meta_values["dn_num_group"]
            own = self._terms(denoising, truth, [pairs] * len(denoising.logits), pairs, (boxes, boxes))
            found |= {f"{name}_dn": value for name, value in own.items()}
        return found

    def _normal_terms(self, outputs: Outputs, truth: Boxes, targets: Targets) -> dict[str, Tensor]:
        matched = self.match(outputs.logits, outputs.boxes, truth)  # [N][B]
        last = outputs.layers.stop - 1
        if self.seen is not None:
            self.seen(outputs.logits[last], targets, matched[last])
        each = [pairs_of(indices, truth, outputs.logits.device) for indices in matched]
        union = union_of(each, outputs.logits.shape[2])
        return self._terms(outputs, truth, each, union, (max(1, len(truth.labels)), max(1, len(union.image))))

    def _terms(
        self, outputs: Outputs, truth: Boxes, of_class: list[Pairs], of_box: Pairs, counts: tuple[int, int]
    ) -> dict[str, Tensor]:
        """All terms of one kind of queries; class terms by each output's own pairs, the others by `of_box`."""
        config = self._config
        boxes = outputs.boxes[:, of_box.image, of_box.query]  # [N, P, 4]
        wanted = truth.cxcywh[of_box.box].expand_as(boxes)
        overlap, generalised = overlaps(boxes, wanted)  # [N, P] each
        overlap = overlap.detach()
        terms = {
            "loss_vfl": self._class_term(outputs, truth, of_class) * (config.weight_loss_vfl / counts[0]),
            "loss_bbox": (boxes - wanted).abs().sum() * (config.weight_loss_bbox / counts[1]),
            "loss_giou": (1 - generalised).sum() * (config.weight_loss_giou / counts[1]),
        }
        overlap = overlap[outputs.layers]
        fine = self._fine_grained(outputs, wanted[0], of_box, overlap)
        terms["loss_fgl"] = fine * (config.weight_loss_fgl / counts[1])
        terms["loss_ddf"] = self._distillation(outputs, of_box, overlap) * config.weight_loss_ddf
        return terms

    def _class_term(self, outputs: Outputs, truth: Boxes, each: list[Pairs]) -> Tensor:
        """Sum over all logits: a positive's target is its overlap, a negative weighs alpha × score^gamma."""
        logits, config = outputs.logits, self._config
        number = torch.cat([torch.full_like(own.image, n) for n, own in enumerate(each)])
        image, query, box = (torch.cat(parts) for parts in zip(*each, strict=True))
        overlap, _ = overlaps(outputs.boxes[number, image, query].detach(), truth.cxcywh[box])
        places = (number, image, query, truth.labels[box])
        target = torch.zeros_like(logits)
        positive = torch.zeros_like(logits)
        positive[places] = 1.0
        weight = config.focal_loss_alpha * logits.detach().sigmoid().pow(config.focal_loss_gamma) * (1 - positive)
        if self._class_loss == "matchability":
            target[places], weight = overlap.pow(config.focal_loss_gamma), weight + positive
        else:
            target[places] = overlap
            weight = weight + target
        return F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")

    def _fine_grained(self, outputs: Outputs, wanted: Tensor, pairs: Pairs, overlap: Tensor) -> Tensor:
        """Fine-grained localisation: each edge's two nearest bins, weighted by the layer's overlap [L, P]."""
        corners = outputs.corners[:, pairs.image, pairs.query].log_softmax(-1)  # [L, P, 4, R]
        references = outputs.references[pairs.image, pairs.query]
        bins = self._bins.to(corners.device)
        left, right_share = edge_targets(references, wanted, bins, abs(self._config.reg_scale))  # [P, 4] each
        left = left.expand(len(corners), -1, -1)[..., None]
        at_left, at_right = corners.gather(-1, left)[..., 0], corners.gather(-1, left + 1)[..., 0]
        lost = -(at_left * (1 - right_share) + at_right * right_share)  # [L, P, 4]
        return (lost * overlap[..., None]).sum()

    def _distillation(self, outputs: Outputs, pairs: Pairs, overlap: Tensor) -> Tensor:
        """Decoupled distillation: every layer's distributions towards the last one's, summed over layers.

        Matched and unmatched queries are averaged apart and weighted by the roots of their numbers, so that the few
        matched ones are not drowned (paper, equation 6).
        """
        if len(outputs.corners) < 2:
            return outputs.corners.sum() * 0.0
        student, teacher = outputs.corners[:-1] / TEMPERATURE, outputs.corners[-1:].detach() / TEMPERATURE
        teacher = teacher.log_softmax(-1).expand_as(student)
        diverged = F.kl_div(student.log_softmax(-1), teacher, reduction="none", log_target=True).sum((-1, -2)) / 4
        score = outputs.logits[outputs.layers.stop - 1].detach().sigmoid().amax(-1)  # [B, Q]
        weight = score.expand(len(student), -1, -1).clone()  # [L - 1, B, Q]
        weight[:, pairs.image, pairs.query] = overlap[:-1]
        matched = torch.zeros_like(score, dtype=torch.bool)
        matched[pairs.image, pairs.query] = True
        lost = weight * diverged * TEMPERATURE**2
        parts = [(lost[:, own], float(own.sum()) ** 0.5) for own in (matched, ~matched)]
        parts = [(values.mean(1).sum() * root, root) for values, root in parts if root]
        return torch.stack([value for value, _ in parts]).sum() / sum(root for _, root in parts)

    @torch.no_grad()
    def match(self, logits: Tensor, boxes: Tensor, truth: Boxes) -> list[Indices]:
        """The cheapest one-to-one matching of each output [N] in each image [B], as transformers' matcher has it."""
        from scipy.optimize import linear_sum_assignment

        costs = torch.nan_to_num(self._costs(logits, boxes, truth), nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy()
        assigned = [
            [linear_sum_assignment(own[:, :count]) for own, count in zip(output, truth.counts, strict=True)]
            for output in costs
        ]
        return [[(torch.as_tensor(q), torch.as_tensor(b)) for q, b in output] for output in assigned]

    def _costs(self, logits: Tensor, boxes: Tensor, truth: Boxes) -> Tensor:
        """[N, B, Q, most boxes of an image]: class, L1 and overlap costs; places without a box hold anything."""
        config, (alpha, gamma) = self._config, (self._config.matcher_alpha, self._config.matcher_gamma)
        labels = torch.nn.utils.rnn.pad_sequence([*truth.labels.split(truth.counts)], batch_first=True)
        cxcywh = [*truth.cxcywh.split(truth.counts)]
        wanted = torch.nn.utils.rnn.pad_sequence(cxcywh, batch_first=True, padding_value=0.5)
        score = logits.sigmoid().gather(-1, labels[None, :, None].expand(*logits.shape[:3], -1))
        as_positive = alpha * (1 - score) ** gamma * -(score + 1e-8).log()
        as_negative = (1 - alpha) * score**gamma * -(1 - score + 1e-8).log()
        distance = torch.cdist(boxes, wanted.expand(len(boxes), -1, -1, -1), p=1)
        _, generalised = overlaps(boxes[:, :, :, None], wanted[None, :, None])
        class_cost = config.matcher_class_cost * (as_positive - as_negative)
        return class_cost + config.matcher_bbox_cost * distance - config.matcher_giou_cost * generalised


def only_covered(targets: Targets, logits: Tensor | None) -> Tensor | None:
    """Logits in which the classes that an image does not cover are hidden: no score, no loss, no gradient.

    Args:
        targets: By image; without `covered` in the first of them nothing is hidden.
        logits: [B, …, C].
    """
    if logits is None or not targets or "covered" not in targets[0]:
        return logits
    covered = torch.stack([one["covered"] for one in targets])  # [B, C]
    return logits.masked_fill(~covered.view(len(covered), *[1] * (logits.ndim - 2), -1), HIDDEN_LOGIT)


def union_of(each: Sequence[Pairs], queries: int) -> Pairs:
    """The pairs of all matchings together, one a query: its most frequent box, of equally frequent ones the first."""
    image, query, box = (np.concatenate([part.cpu().numpy() for part in parts]) for parts in zip(*each, strict=True))
    rows, counts = np.unique(np.stack([image * queries + query, box], axis=1), axis=0, return_counts=True)
    order = np.lexsort((rows[:, 1], -counts, rows[:, 0]))
    place, first = np.unique(rows[order, 0], return_index=True)
    chosen = (place // queries, place % queries, rows[order, 1][first])
    return Pairs(*(torch.as_tensor(part, device=each[0].image.device) for part in chosen))


def denoising_pairs(meta: Mapping[str, Any], truth: Boxes) -> Pairs:
    """Positive denoising queries with the boxes that they were made from."""
    device = truth.labels.device
    groups = int(meta["dn_num_group"])
    image = [torch.full((count * groups,), i) for i, count in enumerate(truth.counts)]
    box = [(start + torch.arange(n)).tile(groups) for start, n in zip(truth.offsets, truth.counts, strict=True)]
    return Pairs(torch.cat(image).to(device), torch.cat(list(meta["dn_positive_idx"])), torch.cat(box).to(device))


def overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union, and the generalised one (Rezatofighi et al. 2019), of boxes [..., 4] one by one."""
    low, high = boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2
    other_low, other_high = others[..., :2] - others[..., 2:] / 2, others[..., :2] + others[..., 2:] / 2
    shared = (torch.minimum(high, other_high) - torch.maximum(low, other_low)).clamp(min=0).prod(-1)
    union = boxes[..., 2:].prod(-1) + others[..., 2:].prod(-1) - shared
    hull = (torch.maximum(high, other_high) - torch.minimum(low, other_low)).clamp(min=0).prod(-1)
    overlap = shared / union.clamp(min=1e-12)
    return overlap, overlap - (hull - union) / hull.clamp(min=1e-12)


def bin_values(bins: int, bound: float, scale: float) -> Tensor:
    """[bins + 1]: W(n), the offset that each value of a distribution stands for (paper, equation 2)."""
    base = (bound * scale + 1) ** (2 / (bins - 2))
    steps = torch.arange(1, bins // 2, dtype=torch.float64)
    grown = base**steps - 1
    ends = torch.tensor([2 * bound * scale], dtype=torch.float64)
    return torch.cat([-ends, -grown.flip(0), torch.zeros(1, dtype=torch.float64), grown, ends]).float()


def edge_targets(references: Tensor, wanted: Tensor, bins: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Between which two bins each edge's true offset lies, and the right one's share.

    Args:
        references: [P, 4] cxcywh.
        wanted: [P, 4] cxcywh.
        bins: From `bin_values`.
        scale: `reg_scale`.

    Returns:
        [P, 4] number of the left bin, and [P, 4] the share of the one after it; edges are left, top, right, bottom.
    """
    low, high = wanted[:, :2] - wanted[:, 2:] / 2, wanted[:, :2] + wanted[:, 2:] / 2
    unit = references[:, 2:].repeat(1, 2) / scale + 1e-16
    outwards = torch.cat([references[:, :2] - low, high - references[:, :2]], dim=1)
    offset = (outwards / unit - 0.5 * scale).detach()
    left = (torch.searchsorted(bins, offset.contiguous(), right=True) - 1).clamp(0, len(bins) - 2)
    return left, ((offset - bins[left]) / (bins[left + 1] - bins[left])).clamp(0, 1)


def _outputs(
    decoder: tuple[Tensor, Tensor, Tensor, Tensor], queries: slice, encoder: tuple[Tensor, Tensor] | None = None
) -> Outputs:
    """The decoder's outputs [B, N, Q, …] for some queries, outputs first, and the encoder's after them."""
    logits, boxes, corners, references = (part[:, :, queries].transpose(0, 1) for part in decoder)
    first_layer = len(logits) - len(corners)
    if encoder is not None:
        logits, boxes = torch.cat([logits, encoder[0][None]]), torch.cat([boxes, encoder[1][None]])
    edges = corners.unflatten(-1, (4, -1))
    return Outputs(logits, boxes.clamp(0, 1), edges, references[0].detach(), first_layer)


def pairs_of(indices: Indices, truth: Boxes, device: torch.device) -> Pairs:
    """A matching by image as pairs over the batch."""
    image = torch.cat([torch.full_like(query, i) for i, (query, _) in enumerate(indices)])
    box = torch.cat([start + own for start, (_, own) in zip(truth.offsets, indices, strict=True)])
    return Pairs(image.to(device), torch.cat([query for query, _ in indices]).to(device), box.to(device))
