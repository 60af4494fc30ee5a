"""Samplers: class balance, caps, and processes that share every batch without overlap."""

from __future__ import annotations

import numpy as np
import pytest

from dentsight_pipeline.errors import ConfigurationError, DataError
from dentsight_pipeline.training import recipe as recipes
from dentsight_pipeline.training import sampling
from dentsight_pipeline.training.recipe import Recipe

LABELS = [np.array(a, dtype=np.int64) for a in ([0], [0, 0], [0, 1], [0], [], [0], [0], [0, 0, 2], [0], [0])]
COVERED = np.ones((10, 3), dtype=bool)


def recipe(**values: object) -> Recipe:
    """The smoke recipe with some values replaced."""
    return recipes.named("smoke").override(values)  # type: ignore[arg-type]


def test_class_balanced_weights_are_one_over_the_class_count():
    """The card's sampler, computed by hand: class 0 has 11 annotations, class 1 and 2 one each."""
    weights = sampling.class_balanced_weights(LABELS, 3)

    ratio = weights / weights[0]
    assert ratio[1] == pytest.approx(2.0)
    assert ratio[2] == pytest.approx((1 / 11 + 1) * 11)
    assert weights.sum() == pytest.approx(1.0)


def test_an_image_without_annotations_can_still_be_drawn():
    """With weight 0 no epoch would ever show a healthy mouth, and precision would pay for it."""
    weights = sampling.class_balanced_weights(LABELS, 3)

    assert weights[4] == weights[0] > 0


def test_class_balanced_draws_follow_the_weights():
    """All annotations of a class together weigh the same: rare classes are seen as often as frequent ones."""
    sampler = sampling.EpochSampler(LABELS, COVERED, recipe(sampler="class-balanced", batch_size=100))

    draws = np.concatenate([sampler.draws(epoch) for epoch in range(40)])

    shares = np.bincount(draws, minlength=10) / len(draws)
    np.testing.assert_allclose(shares, sampling.class_balanced_weights(LABELS, 3), atol=0.03)


def test_repeat_factors_are_those_of_lvis_and_capped():
    """sqrt(threshold / frequency) of the rarest class: with 0.4 and a share of 0.1, 2; capped at 1.5 it is 1.5."""
    free = sampling.repeat_factors(LABELS, COVERED, threshold=0.4, cap=10)
    capped = sampling.repeat_factors(LABELS, COVERED, threshold=0.4, cap=1.5)

    np.testing.assert_allclose(free, [1, 1, 2, 1, 1, 1, 1, 2, 1, 1])
    assert capped.max() == 1.5


def test_an_image_that_does_not_cover_a_class_says_nothing_about_how_rare_it_is():
    """Half of the images never looked for class 2: it is in one of five, not in one of ten."""
    covered = COVERED.copy()
    covered[[0, 1, 3, 5, 6], 2] = False

    factors = sampling.repeat_factors(LABELS, covered, threshold=0.4, cap=10)

    np.testing.assert_allclose(factors[[2, 7]], [2, 2**0.5])


def test_no_image_is_drawn_more_often_than_its_factor_rounded_up():
    """The cap is a promise: without it a handful of rare images is memorised."""
    sampler = sampling.EpochSampler(LABELS, COVERED, recipe(sampler="repeat-factor", repeat_factor_threshold=0.4))

    counts = np.array([np.bincount(sampler.draws(epoch), minlength=10) for epoch in range(20)])

    assert sampler.images_per_epoch == 12
    assert counts.max() <= 2
    assert counts.min() >= 1


def test_a_uniform_epoch_shows_every_image_before_any_twice():
    """An epoch is a pass over the data."""
    sampler = sampling.EpochSampler(LABELS, COVERED, recipe(sampler="uniform"))

    draws = sampler.draws(0)

    assert sorted(draws[:10]) == list(range(10))
    assert len(draws) == 12


@pytest.mark.parametrize("kind", ["uniform", "class-balanced", "repeat-factor"])
def test_draws_depend_on_seed_and_epoch_alone(kind: str):
    """A resumed training must draw what the killed one would have drawn."""
    sampler = sampling.EpochSampler(LABELS, COVERED, recipe(sampler=kind))
    other = sampling.EpochSampler(LABELS, COVERED, recipe(sampler=kind, seed=7))
    late = sampler.draws(5)

    np.testing.assert_array_equal(sampler.draws(5), late)
    assert (sampler.draws(4) != late).any()
    assert (other.draws(5) != late).any()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("micro", [None, 1, 2])
def test_processes_and_micro_batches_share_a_steps_batch_without_overlap(processes: int, micro: int | None):
    """However a batch is cut, one step must see the same draws: each once, none left out."""
    settings = recipe(batch_size=4, micro_batch_size=micro, max_steps=5)
    sampler = sampling.EpochSampler(LABELS, COVERED, settings)
    shards = [list(sampling.MicroBatches(sampler, settings, 0, p, processes)) for p in range(processes)]
    per_step = sampling.MicroBatches(sampler, settings, 0, 0, processes).per_step

    for step in range(5):
        seen = [d for shard in shards for batch in shard[step * per_step : (step + 1) * per_step] for d in batch]
        start = (step % 3) * 4
        assert sorted(d.position for d in seen) == list(range(start, start + 4))
        assert {d.image for d in seen} == set(sampler.draws(step // 3)[start : start + 4])


def test_starting_late_gives_the_rest_of_the_same_sequence():
    """This is the sampler's position after a resume."""
    settings = recipe(max_steps=9)
    sampler = sampling.EpochSampler(LABELS, COVERED, settings)

    whole, rest = list(sampling.MicroBatches(sampler, settings)), list(sampling.MicroBatches(sampler, settings, 5))

    assert rest == whole[5:]
    assert len(sampling.MicroBatches(sampler, settings, 5)) == 4


def test_the_end_phase_is_plain():
    """The last share of the steps sees images as inference does."""
    settings = recipe(max_steps=10, plain_end_fraction=0.3)
    sampler = sampling.EpochSampler(LABELS, COVERED, settings)

    plain = [batch[0].plain for batch in sampling.MicroBatches(sampler, settings)]

    assert plain == [False] * 7 + [True] * 3


def test_a_batch_that_processes_cannot_share_is_refused():
    """Rounding would silently change the effective batch."""
    settings = recipe(batch_size=4)
    sampler = sampling.EpochSampler(LABELS, COVERED, settings)

    with pytest.raises(ConfigurationError, match=r"batch_size = 4 cannot be divided over 3 processes.*value is 3"):
        sampling.MicroBatches(sampler, settings, 0, 0, 3)


def test_an_empty_training_split_is_refused():
    """There is nothing to draw."""
    with pytest.raises(DataError, match="no images"):
        sampling.EpochSampler([], COVERED[:0], recipe())


def test_a_training_split_without_any_annotation_is_refused():
    """It would train for hours towards a model that has seen no finding."""
    with pytest.raises(DataError, match="None of the 2 training images has an annotation"):
        sampling.EpochSampler([np.array([], dtype=np.int64)] * 2, COVERED[:2], recipe())
