"""Tier 3: does the model agree with dentists as well as dentists agree with each other?

A finding is yes or no for one tooth × condition (an item). Δ = mean κ(model, dentist) − mean κ(dentist, dentist), with
an interval by resampling images; the model is non-inferior if the lower bound lies above −δ. κ depends on how common a
finding is, so Gwet's AC1 and Krippendorff's α stand beside it.

A dentist is never compared with a majority that includes himself: that lifts κ from .40 to .66. There is no majority
here, only pairs of readers.
"""

from __future__ import annotations

import csv as stdcsv
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from dentsight_pipeline.data.agreement import kappas
from dentsight_pipeline.documents.codec import finite
from dentsight_pipeline.documents.evaluation import ALL_CLASSES
from dentsight_pipeline.errors import EvaluationError
from dentsight_pipeline.evaluation.bootstrap import Interval, draw, draws, interval

COLUMNS = ("reader", "image", "tooth", "condition", "present")
"""Of a file of readings; `present` is 1, 0 or empty (not rated)."""


@dataclass(frozen=True)
class Agreement:
    """Tier 3 on one set of items.

    Attributes:
        condition: Of the items, or `all`.
        delta: Δ with its interval.
        margin: δ.
        non_inferior: Lower bound above −δ; None without an interval, which never counts as passed.
        model_kappa: Mean κ of the model with each dentist.
        dentist_kappa: Mean κ over pairs of dentists.
        model_ac1: Mean AC1 of the model with each dentist.
        dentist_ac1: Mean AC1 over pairs of dentists.
        dentist_alpha: Krippendorff's α of the dentists.
        alpha_with_model: Krippendorff's α when the model is one more reader.
        items: Items that at least two readers rated.
        images: Images they lie on.
    """

    condition: str
    delta: Interval
    margin: float
    non_inferior: bool | None
    model_kappa: float | None
    dentist_kappa: float | None
    model_ac1: float | None
    dentist_ac1: float | None
    dentist_alpha: float | None
    alpha_with_model: float | None
    items: int
    images: int


def agreement_of_readings(
    readings: Path, *, model: str = "model", margin: float = 0.05, resamples: int = 1000, seed: int = 0
) -> list[Agreement]:
    """The agreement for each condition of a file of readings, and for all of them.

    Args:
        readings: CSV with the columns `COLUMNS`: one row for each reader and item.
        model: The reader that is the model; all others are dentists.
        margin: δ of non-inferiority, in κ.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Raises:
        EvaluationError: No such file, rows that contradict each other, no such reader, or fewer than two dentists.
    """
    return agreement_of_table(
        _read(readings), str(readings), model=model, margin=margin, resamples=resamples, seed=seed
    )


def agreement_of_table(
    table: pa.Table, where: str, *, model: str = "model", margin: float = 0.05, resamples: int = 1000, seed: int = 0
) -> list[Agreement]:
    """The same of a table with the columns `COLUMNS`; with a column `arm`, rows of the arm `aided` do not count: a
    dentist who saw the model's findings agrees with the model for that reason alone.

    Raises:
        EvaluationError: As `agreement_of_readings`; `where` is named.
    """
    if "arm" in table.column_names:
        table = table.filter(pc.not_equal(table["arm"], "aided"))  # pyright: ignore[reportAttributeAccessIssue]
    readers, ratings, items = _ratings(table, where)
    if model not in readers:
        raise EvaluationError(
            f"{where} has no reader {model!r}; it has {', '.join(readers) or 'no reading at all'}. Name the model's "
            "rows so, or give its name (--model)."
        )
    conditions, images = items["condition"], items["image"]
    chosen = {name: conditions == name for name in np.unique(conditions).tolist()}
    return [
        dentist_agreement(
            ratings[readers.index(model), rows],
            np.delete(ratings[:, rows], readers.index(model), axis=0),
            images[rows],
            condition=name,
            margin=margin,
            resamples=resamples,
            seed=seed,
        )
        for name, rows in {**chosen, ALL_CLASSES: np.ones(len(conditions), bool)}.items()
    ]


def dentist_agreement(
    model: np.ndarray,
    dentists: np.ndarray,
    images: np.ndarray,
    *,
    condition: str = ALL_CLASSES,
    margin: float = 0.05,
    resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare the model's agreement with dentists to that among dentists.

    Args:
        model: [N] findings of the model per item, 0 or 1; NaN = not rated.
        dentists: [R, N] findings of R ≥ 2 dentists on the same items.
        images: [N] image (or source group) of each item: the resampling unit.
        condition: What the items are about.
        margin: δ of non-inferiority, in κ.
        resamples: Bootstrap resamples.
        seed: Bootstrap seed.

    Raises:
        EvaluationError: Fewer than two dentists, other values than 0, 1 and NaN, or shapes that differ.
    """
    model, dentists = np.asarray(model, np.float64), np.asarray(dentists, np.float64)
    _require_ratings(model, dentists, images)
    _, item_image = np.unique(np.asarray(images), return_inverse=True)
    n_images = int(item_image.max()) + 1
    with_model = [joint_counts(model, dentist, item_image, n_images) for dentist in dentists]
    among = [joint_counts(a, b, item_image, n_images) for a, b in combinations(dentists, 2)]

    def difference(weights: np.ndarray) -> np.ndarray:
        return _mean_over(with_model, kappas, weights) - _mean_over(among, kappas, weights)

    weights = draw(np.arange(n_images), resamples, seed)
    delta = interval(draws(difference, weights), n_images, bounds=None)
    one, everybody = np.ones((n_images, 1)), np.vstack([dentists, model])
    return Agreement(
        condition=condition,
        delta=delta,
        margin=margin,
        non_inferior=None if delta.low is None else delta.low > -margin,
        model_kappa=finite(_mean_over(with_model, kappas, one)[0]),
        dentist_kappa=finite(_mean_over(among, kappas, one)[0]),
        model_ac1=finite(_mean_over(with_model, gwets_ac1, one)[0]),
        dentist_ac1=finite(_mean_over(among, gwets_ac1, one)[0]),
        dentist_alpha=finite(krippendorffs_alpha(dentists)),
        alpha_with_model=finite(krippendorffs_alpha(everybody)),
        items=int((np.sum(~np.isnan(everybody), axis=0) >= 2).sum()),
        images=n_images,
    )


def gwets_ac1(cells: np.ndarray) -> np.ndarray:
    """Gwet's AC1 (2008) from counts [2, 2, …]: chance = 2π(1−π) with π the mean share of yes."""
    total = cells.sum(axis=(0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = (cells[0, 0] + cells[1, 1]) / total
        share = (cells[1].sum(axis=0) + cells[:, 1].sum(axis=0)) / (2 * total)
        chance = 2 * share * (1 - share)
        return (observed - chance) / (1 - chance)


def krippendorffs_alpha(ratings: np.ndarray) -> float:
    """Krippendorff's α for nominal data (2011), any number of readers, NaN = not rated.

    Args:
        ratings: [R, N] of 0, 1 or NaN.

    Returns:
        1 − observed / expected disagreement; NaN when no two ratings differ anywhere or nothing is paired.
    """
    yes, no = np.nansum(ratings, axis=0), np.nansum(1 - ratings, axis=0)
    rated = yes + no
    paired = rated >= 2
    yes, no, rated = yes[paired], no[paired], rated[paired]
    total, all_yes, all_no = rated.sum(), yes.sum(), no.sum()
    expected = 2 * all_yes * all_no / (total - 1) if total > 1 else 0.0
    if expected == 0:
        return float("nan")
    return float(1 - (2 * yes * no / (rated - 1)).sum() / expected)


def _read(path: Path) -> pa.Table:
    options = csv.ConvertOptions(
        column_types=dict.fromkeys((*COLUMNS[:-1], "arm"), pa.string()) | {"present": pa.int8()}
    )
    try:
        with path.open(encoding="utf-8") as file:
            has_arms = "arm" in next(stdcsv.reader(file), ())
        options.include_columns = [*COLUMNS, "arm"] if has_arms else COLUMNS
        return csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, KeyError, OSError, UnicodeDecodeError) as error:
        raise EvaluationError(
            f"{path} is no file of readings: {error}. Give a CSV with the columns {', '.join(COLUMNS)}; present is 1, "
            "0 or empty."
        ) from error


def _ratings(table: pa.Table, where: str) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Readers, [R, N] ratings of the items, and the items' image, tooth and condition [N]."""
    keys = np.array([table[name].to_pylist() for name in ("image", "tooth", "condition")]).T.reshape(-1, 3)
    items, item = np.unique(keys, axis=0, return_inverse=True)
    readers, reader = np.unique(np.array(table["reader"].to_pylist(), str), return_inverse=True)
    cells, counts = np.unique(np.stack([reader, item.reshape(-1)]), axis=1, return_counts=True)
    for at in np.flatnonzero(counts > 1)[:1]:
        image, tooth, condition = items[cells[1, at]]
        raise EvaluationError(
            f"{where}: {readers[cells[0, at]]} rates {condition} of tooth {tooth} on {image} {counts[at]} times. Keep "
            "one row for each reader and item."
        )
    ratings = np.full((len(readers), len(items)), np.nan)
    ratings[reader, item.reshape(-1)] = table["present"].to_numpy()
    return readers.tolist(), ratings, dict(zip(("image", "tooth", "condition"), items.T, strict=True))


def _require_ratings(model: np.ndarray, dentists: np.ndarray, images: np.ndarray) -> None:
    if dentists.ndim != 2 or dentists.shape[0] < 2 or dentists.shape[1:] != model.shape or len(images) != len(model):
        raise EvaluationError(
            f"Agreement needs findings [items] of the model and [dentists ≥ 2, items] of the dentists, got "
            f"{model.shape} and {dentists.shape} on {len(images)} items. Give every reader the same list of items."
        )
    for who, ratings in (("model", model), ("dentists", dentists)):
        wrong = ratings[~np.isnan(ratings) & ~np.isin(ratings, (0.0, 1.0))]
        if len(wrong):
            raise EvaluationError(f"Ratings of the {who} hold {wrong[0]:g}. A finding is 1, 0 or NaN (not rated).")


def joint_counts(a: np.ndarray, b: np.ndarray, item_image: np.ndarray, n_images: int) -> np.ndarray:
    """[2, 2, I] counts per image of what readers a (axis 0) and b (axis 1) say where both rated."""
    both = ~np.isnan(a) & ~np.isnan(b)
    cells = np.zeros((2, 2, n_images))
    np.add.at(cells, (a[both].astype(int), b[both].astype(int), item_image[both]), 1.0)
    return cells


def _mean_over(
    joints: list[np.ndarray], coefficient: Callable[[np.ndarray], np.ndarray], weights: np.ndarray
) -> np.ndarray:
    """[B] mean of a coefficient over pairs of readers; NaN as soon as one pair is undefined."""
    return np.mean([coefficient(joint @ weights) for joint in joints], axis=0)
