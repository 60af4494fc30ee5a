"""How much of a split may be mended or doubtful before its file must mean something else; the limits are this table.

A reader that mends whatever it is given reads a file of another format as if it were a poor one of its own. Whoever
knows better accepts a kind by its name (`--accept-repairs`); what was accepted beyond its limit is recorded. Add a line
here when a reader learns to mend something.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dentsight_pipeline.errors import AnnotationError, ConfigurationError

if TYPE_CHECKING:
    from dentsight_pipeline.intake.records import Refusals


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of one split may be of one kind.

    Attributes:
        kind: As `--accept-repairs` takes it.
        of: What is counted, in the plural.
        share: The largest share of them that is let through, from 0 to 1.
        least: So few never stop an export, whatever their share.
        cause: What they do, and the likely cause.
        option: What accepts the kind, where it has an option of its own.
    """

    kind: str
    of: str
    share: float
    least: int
    cause: str
    option: str = ""


UNLABELLED = "unlabelled_image"
"""Such images are kept out below their limit too; whoever accepts them takes them as negatives."""

LIMITS = {
    limit.kind: limit
    for limit in (
        Limit(
            "image_without_file", "listed images", 0.2, 5,
            "their files are missing, too many to go on without them: their findings would be lost",
        ),
        Limit(
            "clipped_box", "boxes", 0.2, 5,
            "they reach past their images; they are in other units, or made for images of another size",
        ),
        Limit("zero_area_box", "boxes", 0.2, 5, "they have no width or no height; they are points, or were cut off"),
        Limit(
            "mask_dropped", "annotations", 0.2, 5,
            "their run lengths do not fit their images; the masks are damaged, or of images of another size",
        ),
        Limit(
            "polygon_dropped", "annotations", 0.2, 5,
            "their polygons have an odd count or fewer than three points; they are in another format",
        ),
        Limit(
            "box_within_a_pixel", "boxes", 0.2, 5,
            "they lie within the first pixel of their images; they are fractions of width and height, not pixels",
        ),
        Limit(
            "arch_off_centre", "tooth boxes", 0.5, 20,
            "their arches lie far from the middle of their images; the boxes are made for images of another size, or x "
            "and y are exchanged",
        ),
        Limit(
            "teeth_mirrored", "tooth boxes", 0.6, 20,
            "left and right, or upper and lower jaw, are exchanged in their images; the pictures were flipped without "
            "their numbers, or the class names are in another order",
        ),
        Limit(
            "teeth_misplaced", "tooth boxes", 0.1, 20,
            "they lie where the teeth of another side or jaw belong; the class names are in another order",
        ),
        Limit(
            "teeth_out_of_order", "tooth boxes", 0.25, 20,
            "they lie far from where their numbers stand in the row of teeth; the class names are in another order, or "
            "counted from another end",
        ),
        Limit(
            "tooth_number_misplaced", "tooth boxes", 0, 5,
            "most teeth of their numbers lie on another side or in another jaw; the class names are shifted, or two of "
            "them are exchanged",
        ),
        Limit(
            "boxes_beside_teeth", "tooth boxes", 0.6, 25,
            "half a box further they would hold more of a tooth; centres were given as corners, or corners as centres",
        ),
        Limit(
            "boxes_off_teeth", "tooth boxes", 0.45, 90,
            "they hold nothing brighter than what lies at their sides, as no teeth do; they belong to other images, or "
            "to pictures of another size",
        ),
        Limit(
            UNLABELLED, "images", 0.99, 1,
            "they are unlabelled: without a label file of their own (an empty one would say that nothing is there) "
            "nobody may have looked at them. Label them, or leave the split out",
            "--unlabelled-are-negative",
        ),
    )
}  # fmt: skip
"""By kind. The unit is one split: a test split that is read wrongly must not hide behind a large training split."""

REMEDY = "Export the version again, in a format whose name is right; if it is right as it is, {option}."


def known_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """The kinds, each once, in alphabetical order.

    Raises:
        ConfigurationError: One has no limit.
    """
    for kind in kinds:
        if kind not in LIMITS:
            raise ConfigurationError(f"--accept-repairs {kind!r}: no such kind. There are {', '.join(LIMITS)}.")
    return tuple(sorted(set(kinds)))


class Limits:
    """Judges the splits of one export.

    Attributes:
        exceeded: Accepted kinds that were beyond their limits in some split.

    Args:
        accepted: Kinds that may be beyond them.
        refusals: Where the others go.
    """

    def __init__(self, accepted: Collection[str], refusals: Refusals) -> None:
        self._accepted, self._refusals = known_kinds(accepted), refusals
        self.exceeded: set[str] = set()

    def accepts(self, kind: str, occurs: bool) -> bool:
        """Whether a kind is accepted by name; where it occurs, that is recorded."""
        accepted = kind in self._accepted
        self.exceeded |= {kind} if accepted and occurs else set()
        return accepted

    def judge(self, file: str, kind: str, wrong: int, total: int, cause: str = "") -> None:
        """Refuses one split, whose annotations lie in `file`, when too many are of a kind.

        Args:
            file: Relative to the export.
            kind: One of `LIMITS`.
            wrong: How many are.
            total: Of how many.
            cause: The likely cause, where more is known than the table says.
        """
        limit = LIMITS[kind]
        if wrong < limit.least or wrong <= limit.share * total:
            return
        if kind in self._accepted:
            self.exceeded.add(kind)
        else:
            option = limit.option or f"--accept-repairs {kind}"
            counted = f"{wrong} of {total} {limit.of}"
            self._refusals.add(AnnotationError(file, counted, cause or limit.cause, REMEDY.format(option=option)))
