"""False positives where there is nothing to find: images without any annotation, and FROC over all images.

Exact intervals, because these counts are small: Clopper–Pearson (1934) for the share of empty images with a false
positive, Garwood (1936) for false positives an image. FROC draws the trade over a whole set.
"""

from __future__ import annotations

import math

from scipy.stats import beta, chi2

from dentsight_pipeline.evaluation.bootstrap import ALPHA, Interval

FROC_FALSE_POSITIVES = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)
"""False positives an image at which sensitivity is read (LUNA16's seven points)."""
_MOST_IMAGES = 1_000_000


def clopper_pearson(events: int, trials: int, alpha: float = ALPHA) -> Interval:
    """A proportion with its exact interval; each end is a one-sided bound at 1 − α/2."""
    if not trials:
        return Interval(None, note="not measurable: no empty image")
    low = float(beta.ppf(alpha / 2, events, trials - events + 1)) if events else 0.0
    high = float(beta.ppf(1 - alpha / 2, events + 1, trials - events)) if events < trials else 1.0
    return Interval(events / trials, low, high)


def garwood(events: int, exposure: int, alpha: float = ALPHA) -> Interval:
    """A Poisson rate, events / exposure, with its exact interval."""
    if not exposure:
        return Interval(None, note="not measurable: no empty image")
    low = float(chi2.ppf(alpha / 2, 2 * events)) / 2 if events else 0.0
    high = float(chi2.ppf(1 - alpha / 2, 2 * events + 2)) / 2
    return Interval(events / exposure, low / exposure, high / exposure)


def images_needed(below: float = 0.05, rate: float = 0.0, alpha: float = ALPHA) -> int | None:
    """The fewest empty images whose upper bound lies under `below`, if the share with a false positive is `rate`.

    59 for "< 5 %" without any false positive. None when the rate itself is not below, so that no number would do.
    """
    if rate >= below:
        return None

    def enough(n: int) -> bool:
        high = clopper_pearson(math.ceil(rate * n - 1e-9), n, alpha).high
        return high is not None and high < below

    n = 1
    while not enough(n):
        n *= 2
        if n > _MOST_IMAGES:
            return None
    low, high = n // 2, n
    while high - low > 1:  # not monotone for rate > 0, but right within one event
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
