"""The queue of doubtful labels: each kind by hand, and planted mistakes against a model of stated skill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dentsight_pipeline.evaluation.suspects import (
    Labelled,
    Seen,
    contradictions,
    label_suspects,
    predicted_suspects,
    ranked,
)

CLASSES = ("caries", "crown", "restoration", "impacted")
SIDES = {"caries": (24.0, 35.0), "crown": (90.0, 80.0), "restoration": (50.0, 40.0), "impacted": (100.0, 120.0)}
MEAN = {"caries": 2.5, "crown": 1.0, "restoration": 1.2, "impacted": 0.5}
SKILL = {"caries": 0.7, "crown": 0.95, "restoration": 0.85, "impacted": 0.95}


def image(
    names: list[str], boxes: list[list[float]], digest: str = "a" * 64, size: tuple[int, int] = (1400, 700)
) -> Labelled:
    """One image with labels, everything looked for."""
    covered = frozenset((*CLASSES, *(f"{q}{p}" for q in range(1, 5) for p in range(1, 9))))
    return Labelled(
        digest, "train", size, names, np.array(boxes, float).reshape(-1, 4), range(1, len(names) + 1), covered, digest
    )


def row_of_teeth() -> tuple[list[str], list[list[float]]]:
    """All 32 teeth where they belong."""
    names, boxes = [], []
    for upper, quadrants in ((True, "12"), (False, "43")):
        for side, quadrant in enumerate(quadrants):
            for position in range(1, 9):
                x = 700 + (position - 0.5) * 60 * (1 if side else -1)
                names.append(f"{quadrant}{position}")
                boxes.append([x - 25, 150 if upper else 380, 50, 180])
    return names, boxes


def test_a_tooth_on_the_wrong_side_is_found_with_its_likely_number() -> None:
    """Wrong side is what dentists complain about most, and needs no model."""
    names, boxes = row_of_teeth()
    right, left = names.index("16"), names.index("26")
    names[right], names[left] = "26", "16"

    found = {suspect.annotation: suspect for suspect in ranked(label_suspects([image(names, boxes)]))}

    assert {(s.class_name, s.proposed_class) for s in found.values()} == {("16", "26"), ("26", "16")}
    assert list(label_suspects([image(*row_of_teeth())])) == []


def test_two_labels_in_one_place_and_an_image_without_any_are_told() -> None:
    """The smaller twin goes first; an empty image comes last, since a healthy mouth looks the same."""
    twins = image(["crown", "crown", "caries"], [[10, 10, 90, 80], [11, 11, 86, 78], [300, 300, 20, 20]])

    found = ranked(label_suspects([twins, image([], [], "b" * 64)]))

    assert [(s.kind, s.class_name, s.annotation) for s in found] == [("spurious", "crown", 2), ("missed", "", None)]


def test_copies_that_contradict_each_other_are_told_on_the_one_that_lacks_a_box() -> None:
    """The same picture cannot have a crown here and none there."""
    one, other = image(["crown"], [[10, 10, 90, 80]]), image(["caries"], [[300, 300, 20, 20]], "b" * 64)

    found = list(contradictions(one, other))

    assert [(s.image[0], s.kind, s.class_name) for s in found] == [("b", "missed", "crown"), ("a", "missed", "caries")]


def test_a_class_that_nobody_looked_for_is_not_missed() -> None:
    """Uncovered is unknown: it must not fill the queue with findings that nobody was asked for."""
    blind = replace(image(["crown"], [[10, 10, 90, 80]]), covered=frozenset({"crown"}))
    seen = {
        blind.image: Seen(["crown", "caries"], np.array([[10.0, 10, 90, 80], [300, 300, 20, 20]]), np.array([0.9, 0.9]))
    }

    assert [s.kind for s in predicted_suspects([blind], seen)] == ["spurious"]


def test_the_neighbour_of_the_same_class_is_no_better_place() -> None:
    """Two implants side by side, one of them unseen: the other's box is not where it should be, but it is in doubt."""
    two = image(["crown", "crown"], [[10, 10, 40, 90], [40, 10, 40, 90]])
    seen = {two.image: Seen(["crown"], np.array([[42.0, 11, 40, 90]]), np.array([0.9]))}

    found = list(predicted_suspects([two], seen))

    assert [(s.kind, s.annotation) for s in ranked(found) if s.score > 0.1] == [("spurious", 1)]
    assert not [s for s in found if s.kind == "place"]


def test_a_class_that_is_found_loosely_doubts_places_less() -> None:
    """A box beside a label is a better place only where detections of its class lie on labels: thin ones rarely do."""
    here, aside = [10.0, 10, 40, 40], [36.0, 10, 40, 40]
    images = [image(["crown", "caries"], [here, [200 + here[0], *here[1:]]], f"{k:064}") for k in range(10)]

    def seen(k: int) -> Seen:
        places = [aside if k == 0 else here, aside if k % 2 == 0 else here]
        boxes = np.array([places[0], [200 + places[1][0], *places[1][1:]]])
        return Seen(["crown", "caries"], boxes, np.full(2, 0.8 - k / 1000))

    found = predicted_suspects(images, {own.image: seen(k) for k, own in enumerate(images)})

    score = {s.class_name: s.score for s in found if s.kind == "place" and s.image == images[0].image}
    assert 0 < score["caries"] < 0.4 * score["crown"]


BOX, HALF_BESIDE = [0.0, 0, 100, 100], [50.0, 0, 100, 100]  # an IoU of a third


def scores_of(labels: Labelled, *seen: tuple[str, list[float], float]) -> dict[tuple[str, int | None], float]:
    """Score of each suspect by kind and label, when a model sees boxes with scores."""
    return {(s.kind, s.annotation): s.score for s in predicted_suspects([labels], {labels.image: sight(*seen)})}


def sight(*seen: tuple[str, list[float], float]) -> Seen:
    """Named boxes with scores, as a model sees them."""
    names, boxes, scores = zip(*seen, strict=True)
    return Seen(list(names), np.array(boxes), np.array(scores))


def test_scores_of_doubts_are_the_chances_computed_by_hand() -> None:
    """Two crowns are seen, .9 on a label and .5 on a caries: one hit of two, shrunk by two more at the mean, .5, gives
    chances of .75 and .25. Crowns are confirmed by .75, caries by nothing."""
    far = [500.0, 0, 100, 100]
    labels = image(["crown", "caries"], [BOX, far])

    found = scores_of(labels, ("crown", BOX, 0.9), ("crown", far, 0.5))

    assert found == {("spurious", 1): 0.75 * 0.25, ("class", 2): 0.25, ("spurious", 2): 0.0}


def test_a_better_place_counts_as_far_as_its_class_is_found_in_place() -> None:
    """One crown of two is seen half a box further: on labels .75 + 0, on or beside them .75 + .25."""
    labels = image(["crown", "crown"], [[500.0, 0, 100, 100], BOX])

    found = scores_of(labels, ("crown", [500.0, 0, 100, 100], 0.9), ("crown", HALF_BESIDE, 0.5))

    assert found == {
        ("spurious", 1): 0.375 * 0.25,
        ("place", 2): 0.25 * 0.75,
        ("spurious", 2): 0.375 * 0.75,
    }


def test_of_detections_without_a_label_the_best_of_each_place_is_told() -> None:
    """From a tenth of overlap on two are one place; a chance below 2 % is not told."""
    labels = image(["crown"], [[1000.0, 0, 100, 100]])
    places = [[0.0, 0, 100, 100], [82.0, 0, 100, 100], [81.0, 200, 100, 100], [0.0, 200, 100, 100]]
    seen = [("crown", [1000.0, 0, 100, 100], 0.9)] + [("crown", place, 0.8 - k / 100) for k, place in enumerate(places)]

    found = [s for s in predicted_suspects([labels], {labels.image: sight(*seen)}) if s.kind == "missed"]
    none = sight(("caries", [0.0, 0, 9, 9], 0.9))

    assert [s.bbox[:2] for s in found] == [(0, 0), (82, 0), (81, 200)]  # overlaps of 18 and 19 px: .099 and .105
    assert [s.kind for s in predicted_suspects([labels], {labels.image: none})] == ["spurious"]


def test_labels_alone_are_doubted_from_stated_overlaps_on_and_by_how_sure_it_is() -> None:
    """A number in the wrong jaw is as good as wrong; a twin, a wrong side and a number given twice are likely so."""
    twin, no_twin = (image(["crown"] * 2, [BOX, [0.0, 0, 100, height]]) for height in (80, 79))
    names, boxes = row_of_teeth()
    lower = names.index("46")
    jaw = image(["46" if name == "16" else name for name in names if name != "46"], boxes[:lower] + boxes[lower + 1 :])
    twice = image([*names, "11"], [*boxes, boxes[names.index("11")]])

    told = [
        [(s.kind, s.class_name, s.proposed_class, s.score) for s in ranked(label_suspects([own]))]
        for own in (twin, no_twin, jaw, twice, image([], []))
    ]

    assert told == [
        [("spurious", "crown", None, 0.8)],
        [],
        [("class", "46", "16", 0.95)],
        [("class", "11", None, 0.8)] * 2,
        [("missed", "", None, 0.1)],
    ]


def test_copies_contradict_each_other_below_half_an_overlap() -> None:
    """Two people draw one crown a little differently."""
    one = image(["crown"], [BOX])
    alike, other = (image(["crown"], [[0.0, 0, 100, height]], "b" * 64) for height in (50, 49))

    assert list(contradictions(one, alike)) == []
    assert [(s.image[0], s.bbox, s.score) for s in contradictions(one, other)] == [
        ("b", (0, 0, 100, 100), 0.8),
        ("a", (0, 0, 100, 49), 0.8),
    ]


def planted(
    images: int, share: float, rng: np.random.Generator
) -> tuple[list[Labelled], dict[str, Seen], dict[tuple, str]]:
    """Labels with known mistakes, what a model of `SKILL` sees, and the mistakes by image and box."""
    labelled, seen, mistakes = [], {}, {}
    for number in range(images):
        digest = f"{number:064x}"
        names = [name for name in CLASSES for _ in range(int(rng.poisson(MEAN[name])))]
        true = np.array([[*(rng.random(2) * (1250, 560)), *SIDES[name]] for name in names]).reshape(-1, 4)
        said, boxes = [], []
        for name, box in zip(names, true, strict=True):
            kind = rng.choice(["", "missed", "place", "class"], p=[1 - 3 * share, share, share, share])
            if kind == "missed":
                mistakes[digest, tuple(box.round(2))] = kind
                continue
            shifted = box + np.array([box[2] / 2, 0, 0, 0]) if kind == "place" else box
            said.append(rng.choice([c for c in CLASSES if c != name]) if kind == "class" else name)
            boxes.append(shifted)
            if kind:
                mistakes[digest, tuple(shifted.round(2))] = kind
        for _ in range(int(rng.poisson(share * len(names)))):
            name = str(rng.choice(CLASSES))
            said.append(name)
            boxes.append(np.array([*(rng.random(2) * (1250, 560)), *SIDES[name]]))
            mistakes[digest, tuple(boxes[-1].round(2))] = "spurious"
        labelled.append(image(said, [list(box) for box in boxes], digest))
        seen[digest] = model(names, true, rng)
    return labelled, seen, mistakes


def model(names: list[str], boxes: np.ndarray, rng: np.random.Generator) -> Seen:
    """Detections of true boxes by skill, a little beside them, and false ones with low scores."""
    hit = [row for row, name in enumerate(names) if rng.random() < SKILL[name]]
    false = [str(rng.choice(CLASSES)) for _ in range(int(rng.poisson(3)))]
    where = [boxes[row] + rng.normal(0, 0.04, 4) * np.tile(boxes[row, 2:], 2) for row in hit]
    where += [np.array([*(rng.random(2) * (1250, 560)), *SIDES[name]]) for name in false]
    scores = np.concatenate([rng.beta(6, 3, len(hit)), rng.beta(2, 6, len(false))])
    return Seen([names[row] for row in hit] + false, np.array(where).reshape(-1, 4), scores)


def test_planted_mistakes_come_first() -> None:
    """5 % of each kind: of the first 100 at least 70 are mistakes; 60 % of all are among twice their number."""
    labelled, seen, mistakes = planted(400, 0.05, np.random.default_rng(3))

    queue = ranked(predicted_suspects(labelled, seen))

    def right(suspect) -> bool:
        if suspect.annotation is not None:
            return (suspect.image, suspect.bbox) in mistakes
        lacking = [np.array(box) for (own, box), kind in mistakes.items() if own == suspect.image and kind == "missed"]
        return any(np.abs(box - suspect.bbox).max() < 0.5 * max(box[2:]) for box in lacking)

    found = [right(suspect) for suspect in queue]
    assert len(mistakes) > 300
    assert np.mean(found[:100]) >= 0.7
    assert sum(found[: 2 * len(mistakes)]) >= 0.6 * len(mistakes)
