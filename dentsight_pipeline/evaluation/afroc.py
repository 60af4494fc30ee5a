"""AFROC and wAFROC: the chance that a finding scores higher than everything on an X-ray without one.

The empirical figures of merit of Chakraborty (Observer Performance Methods for Diagnostic Imaging, CRC 2017, chapter
14; the same as RJafroc's `AFROC` and `wAFROC`): of all pairs of a normal image and a finding the share in which the
finding's score is above the highest false positive of the normal image, a tie counting half. A finding that nothing
takes, and a normal image without detections, score −∞. AFROC weighs every finding alike, wAFROC every diseased image,
so that one mouth full of caries is no more than another with one. Neither depends on how many images are normal,
unlike AP and FROC.

A normal image of a class is one in which it was looked for and nothing was found, whatever else it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from dentsight_pipeline.evaluation.matching import ClassMatches
from dentsight_pipeline.evaluation.operating_points import ratio

MOST_POINTS = 60


@dataclass(frozen=True)
class Ratings:
    """One class as ratings; K1 normal images, L findings.

    Attributes:
        normal: [K1] rows of the normal images.
        highest: [K1] their highest false positive; −∞ = none.
        diseased: [L] row of each finding's image.
        rated: [L] its score; −∞ = nothing takes it.
        share: [L] its part of its image; the parts of an image add up to 1.
        n_images: All images, I.
    """

    normal: np.ndarray
    highest: np.ndarray
    diseased: np.ndarray
    rated: np.ndarray
    share: np.ndarray
    n_images: int

    @classmethod
    def of(cls, matches: ClassMatches) -> Ratings:
        """Of the matches of one class at IoU .50, on images in which it was looked for; findings of one image are
        alike."""
        counted, hit = ~matches.ignored[0], matches.true_positive[0]
        highest = np.full(len(matches.gt_counts), -np.inf)
        np.maximum.at(highest, matches.image_index[counted], matches.scores[counted])
        taken = np.bincount(matches.image_index[hit], minlength=len(highest))
        missed = np.repeat(np.arange(len(highest)), matches.gt_counts - taken)
        diseased = np.concatenate([matches.image_index[hit], missed])
        rated = np.concatenate([matches.scores[hit], np.full(len(missed), -np.inf)])
        normal = np.flatnonzero(matches.gt_counts == 0)
        share = 1 / matches.gt_counts[diseased]
        return cls(normal, highest[normal], diseased, rated, share, len(highest))

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Share of normal images with a false positive, and of the findings' weight, at or above falling scores; from
        (0, 0), and straight from the last score to (1, 1)."""
        scores = np.unique(np.concatenate([self.highest, self.rated]))[::-1]
        scores = scores[np.isfinite(scores)]
        scores = scores[np.unique(np.linspace(0, len(scores) - 1, min(MOST_POINTS, len(scores))).astype(int))]
        order = np.argsort(self.rated)
        above = np.append(np.cumsum(self.share[order][::-1])[::-1], 0.0) / max(self.share.sum(), 1e-12)
        at_fp = 1 - np.searchsorted(np.sort(self.highest), scores) / max(len(self.highest), 1)
        at_hit = above[np.searchsorted(self.rated[order], scores)]
        return np.concatenate([[0], at_fp, [1]]), np.concatenate([[0], at_hit, [1]])


class FiguresOfMerit:
    """AFROC and wAFROC of one class for any image weights.

    The normal images stand by their highest false positive; what a finding is worth is how many of them lie below it,
    which is the mean of two places in their running weight (two, because ties count half).
    """

    def __init__(self, ratings: Ratings) -> None:
        order = np.argsort(ratings.highest, kind="stable")
        self._normal, highest = ratings.normal[order], ratings.highest[order]
        places = np.concatenate([np.searchsorted(highest, ratings.rated, side) for side in ("left", "right")])
        images, shape = np.tile(ratings.diseased, 2), (len(highest) + 1, ratings.n_images)
        self._weighted, self._plain = (
            sparse.csr_array((np.tile(worth, 2) / 2, (places, images)), shape=shape)
            for worth in (ratings.share, np.ones(len(ratings.share)))
        )

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """[2, B] AFROC and wAFROC for weights [I, B]; NaN without a normal image or without a finding."""
        below = np.zeros((len(self._normal) + 1, weights.shape[1]))
        np.cumsum(weights[self._normal], axis=0, out=below[1:])
        found = []
        for table in (self._plain, self._weighted):
            worth = table @ weights
            found.append(ratio((worth * below).sum(axis=0), worth.sum(axis=0) * below[-1]))
        return np.stack(found)
