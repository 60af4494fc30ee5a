"""The classes that the pipeline knows, and how each source's label names become them.

Add a class order, a raw label name or a source here. A mapping is data: it has a digest, it belongs to one source,
and it never guesses: a name that it does not list, or lists as ambiguous, stops ingestion with the nearest known names.
Reading files does not belong here (`intake/read.py`), nor applying a mapping to annotations (`normalise.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

from dentsight_pipeline.documents.facts import AppliedMapping, Coverage
from dentsight_pipeline.errors import ConfigurationError, UnknownLabelError

TEETH: tuple[str, ...] = tuple(f"{quadrant}{position}" for quadrant in (1, 2, 3, 4) for position in range(1, 9))
"""The 32 permanent teeth in FDI notation (ISO 3950), in the order of their category ids 1–32."""

CONDITIONS: tuple[str, ...] = (
    "caries",
    "calculus",
    "RC-treated",
    "impacted",
    "restoration",
    "crown",
    "periapical-radiolucency",
    "root-stump",
    "bridge",
    "implant",
    "tooth-bud",
    "missing",
    "other-finding",
)
"""The 13 conditions that stage 2 finds, in the order of their category ids: 33–45 of all, 1–13 of the subset."""

CLASSES: tuple[str, ...] = TEETH + CONDITIONS
"""All 45 classes of a normalised dataset; a class's category id is its index plus 1."""

_CONDITION_NAMES: dict[str, tuple[str, ...]] = {
    "caries": (
        *("caries", "cavity", "decay", "decay/cavity", "deep caries", "grossly-decayed"),
        *("curuk", "çürük"),  # Turkish
    ),
    "calculus": ("calculus", "tartar"),
    "RC-treated": ("RC-treated", "Root Canal Treatment", "RCT", "root canal", "kanal"),
    "impacted": ("impacted", "Impacted Tooth", "Impacted Teeth", "gomulu", "gömülü"),
    "restoration": ("restoration", "Filling", "Fillings"),
    "crown": ("crown", "joint crowns"),
    "periapical-radiolucency": (
        *("periapical radiolucency", "periapical-radiolucency"),
        *("Periapical lesion", "Periapical Lesions", "lezyon"),
    ),
    "root-stump": ("root-stump", "Root Piece", "Retained root", "BDC/BDR", "Broken Down Crown/Root"),
    "bridge": ("bridge", "cantilever"),
    "implant": ("implant",),
    "tooth-bud": ("tooth-bud",),
    "missing": ("missing", "Missing teeth"),
    "other-finding": (
        *("other-finding", "RPD clasp", "cast partial denture", "condensing osteitis", "cyst", "distomolar"),
        *("hemimandibulectomy", "inter radicularradiolucency", "mini plates", "peri implant bone loss"),
        *("radiolucency", "retained decidious", "supernumerary", "vascular clips", "wire splint"),
        *("Fracture Teeth", "Fractured Teeth", "Bone Loss", "Bone Defect", "Root Resorption", "Malaligned"),
        *("Supra Eruption", "Attrition", "Abutment", "Gingival Former", "Metal Band", "Orthodontic Brackets"),
        *("Permanent Retainer", "Plating", "Tad"),
    ),
}

_POSITIONS = (
    "Central Incisor", "Lateral Incisor", "Canine", "First Premolar", "Second Premolar", "First Molar", "Second Molar",
    "Third Molar",
)  # fmt: skip
"""What the positions 1 to 8 of a quadrant are called."""


_TOOTH_WORD = re.compile(r"^\s*\d+\s*$|^(?=.*\d).*\b(incisor|canine|(pre)?molar|tooth)s?\b", re.IGNORECASE)
"""In a name that means one tooth, by number or in words."""


def _named_teeth() -> Iterator[LabelRule]:
    """`Canine (13)`, as UFBA-425 and OralVis write them: the number decides, never an order."""
    return (LabelRule(f"{_POSITIONS[int(tooth[1]) - 1]} ({tooth})", (tooth,)) for tooth in TEETH)


def _dentex_teeth() -> Iterator[LabelRule]:
    """`tooth 13`, as `intake/dentex.py` joins quadrant and place."""
    return (LabelRule(f"tooth {tooth}", (tooth,)) for tooth in TEETH)


_COMPOSITES: dict[str, tuple[str, ...]] = {"RC-treated-and-root-stump": ("RC-treated", "root-stump")}

_DROPPED: dict[str, str] = {
    "OPG-data": "Roboflow's root placeholder",
    "Healthy Teeth": "not a finding",
    "normal": "not a finding",
    "Permanent Teeth": "a tooth without its FDI number",
    "Primary Teeth": "a tooth without its FDI number",
    "Mandibular Canal": "an anatomical landmark",
    "Maxillary Sinus": "an anatomical landmark",
    "Quadrant": "a region, not a finding",
}

DECIDUOUS = tuple(f"{quadrant}{position}" for quadrant in (5, 6, 7, 8) for position in range(1, 6))

_AMBIGUOUS: dict[str, str] = {
    "Filling - Crown": "it names a filling or a crown",
    "Infection": "it names a periapical lesion in one public dataset and any infection in others",
    "kuretaj": "it names a treatment (curettage), not a finding",
    "cekim": "it names a treatment (extraction), not a finding",
    "çekim": "it names a treatment (extraction), not a finding",
    "spaced": "it may be a gap or a missing tooth",
} | dict.fromkeys(DECIDUOUS, "it is a deciduous tooth, which has no class and is never folded into a permanent one")


def fold(name: str) -> str:
    """The form in which two spellings of one label are equal: case, and runs of spaces, hyphens and underscores.

    Nothing else is forgiven: a missing letter or a plural is another name.
    """
    return re.sub(r"[\s_\-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


@dataclass(frozen=True, slots=True)
class LabelRule:
    """What one raw label name becomes.

    Attributes:
        raw_name: The name as the mapping writes it.
        classes: The canonical classes; two for a composite, none when the label is dropped.
        loose: The source is known to use this name too widely; the report repeats it.
        reason: Why it is dropped or loose.
    """

    raw_name: str
    classes: tuple[str, ...]
    loose: bool = False
    reason: str = ""


@dataclass(frozen=True)
class LabelMapping:
    """All label names of one source, as data with a digest.

    Attributes:
        source: The name that `--source` takes.
        rules: Every known name.
        ambiguous: Names that must not be mapped silently, with the reason.
        covers: Classes that its annotators looked for, in class order; None for those that an export has boxes of. No
            part of the digest: a dataset's facts have it beside the mapping, with a digest of its own.
        at_findings: Classes that they marked only beside something else: one was looked for where it has such a box.
    """

    source: str
    rules: tuple[LabelRule, ...]
    ambiguous: Mapping[str, str] = field(default_factory=dict)
    covers: tuple[str, ...] | None = None
    at_findings: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the mapping's content, whatever order it was written in."""
        content = {
            "source": self.source,
            "rules": sorted([r.raw_name, list(r.classes), r.loose, r.reason] for r in self.rules),
            "ambiguous": dict(self.ambiguous),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @cached_property
    def _by_folded_name(self) -> dict[str, LabelRule]:
        return {fold(rule.raw_name): rule for rule in self.rules}

    @property
    def names(self) -> tuple[str, ...]:
        """All known names, for suggestions."""
        return tuple(rule.raw_name for rule in self.rules)

    def resolve(self, name: str, where: str = "") -> LabelRule:
        """The rule for `name`.

        Args:
            name: A raw label name.
            where: File and record that hold it, for the message.

        Raises:
            UnknownLabelError: The name is not known, or is ambiguous for this source.
        """
        rule = self._by_folded_name.get(fold(name))
        if rule is not None:
            return rule
        reasons = {fold(known): why for known, why in self.ambiguous.items()}
        # A number is no near miss of another: to suggest a tooth would invite a wrong one.
        known = [] if _TOOTH_WORD.search(name) else [r.raw_name for r in self.rules if not set(r.classes) & set(TEETH)]
        raise UnknownLabelError(name, self.source, known, reasons.get(fold(name), ""), where)

    def loose_classes(self) -> list[str]:
        """Canonical classes that this source marks loosely, in class order."""
        loose = {cls for rule in self.rules if rule.loose for cls in rule.classes}
        return [cls for cls in CLASSES if cls in loose]


def _rules(changes: Iterable[LabelRule] = ()) -> tuple[LabelRule, ...]:
    """The strict table, with `changes` in place of the rules of the same name."""
    table = [LabelRule(tooth, (tooth,)) for tooth in TEETH]
    table += [LabelRule(name, (cls,)) for cls, names in _CONDITION_NAMES.items() for name in names]
    table += [LabelRule(name, classes) for name, classes in _COMPOSITES.items()]
    table += [LabelRule(name, (), reason=reason) for name, reason in _DROPPED.items()]
    by_name = {fold(rule.raw_name): rule for rule in table} | {fold(rule.raw_name): rule for rule in changes}
    return tuple(by_name.values())


_WHOLE_TOOTH = "its box is the whole tooth, not the lesion"
_DENTEX_DISEASES = {
    "Impacted": ("impacted", ""),
    "Caries": ("caries", _WHOLE_TOOTH),
    "Deep Caries": ("caries", _WHOLE_TOOTH),
    "Periapical Lesion": ("periapical-radiolucency", _WHOLE_TOOTH),
}


def _dentex_rules() -> Iterator[LabelRule]:
    """`18 Caries` and its like, as `intake/dentex.py` joins quadrant, place and disease, and quadrants alone."""
    for disease, (condition, loose) in _DENTEX_DISEASES.items():
        for tooth in TEETH:
            yield LabelRule(f"{tooth} {disease}", (tooth, condition), loose=bool(loose), reason=loose)
    for quadrant in range(1, 5):
        yield LabelRule(f"Quadrant {quadrant}", (), reason="a region, not a finding")


_LOOSE = "marks root-filled and crowned teeth too"
MAPPINGS: Mapping[str, LabelMapping] = MappingProxyType(
    {
        mapping.source: mapping
        for mapping in (
            LabelMapping("opg-reporting", _rules(), _AMBIGUOUS, CLASSES),
            LabelMapping(
                "dental-radiography",
                _rules(
                    (
                        LabelRule("Implant", ("implant",), loose=True, reason=_LOOSE),
                        LabelRule("Fillings", ("restoration",), loose=True, reason="marks crowns and bridges too"),
                        LabelRule("dental-xray-cv", (), reason="Roboflow's root placeholder"),
                    )
                ),
                _AMBIGUOUS,
                ("caries", "impacted", "restoration", "implant"),
            ),
            LabelMapping(
                "dentex",
                _rules(_dentex_rules()),
                _AMBIGUOUS,
                ("caries", "impacted", "periapical-radiolucency"),
                at_findings=TEETH,  # only abnormal teeth have a box
            ),
            LabelMapping("dentex-teeth", _rules(_dentex_teeth()), _AMBIGUOUS, TEETH),
            LabelMapping("oralvis", _rules(_named_teeth()), _AMBIGUOUS),
            LabelMapping("canonical", _rules(), _AMBIGUOUS),
        )
    }
)
"""The mapping of each source. `canonical` is the strict one for every source that is not known by itself."""

DENTAL_RADIOGRAPHY_NAMES = frozenset(map(fold, ("Cavity", "Fillings", "Impacted Tooth", "Implant")))
OPG_REPORTING_NAMES = frozenset(
    map(
        fold,
        (
            "OPG-data",
            "RC-treated-and-root-stump",
            "grossly-decayed",
            "retained decidious",
            "inter radicularradiolucency",
        ),
    )
)


DENTEX_NAMES = frozenset(fold(rule.raw_name) for rule in _dentex_rules())
DENTEX_TEETH = frozenset(fold(rule.raw_name) for rule in _dentex_teeth())
NAMED_TEETH = frozenset(fold(rule.raw_name) for rule in _named_teeth())


@dataclass(frozen=True, slots=True)
class SourceChoice:
    """Which mapping an export is read with, and why.

    Attributes:
        source: A key of `MAPPINGS`, or the name of `own`.
        chosen_by: `"option"`, `"readme"`, `"category names"`, `"default"` or `"mapping"`.
        evidence: What was found, in words.
        own: A mapping that the export brings, instead of a packaged one.
    """

    source: str
    chosen_by: str
    evidence: str
    own: LabelMapping | None = None

    @property
    def mapping(self) -> LabelMapping:
        """The mapping chosen."""
        return self.own or MAPPINGS[self.source]

    def applied(self, drop: Iterable[str], coverage: Coverage | None) -> AppliedMapping:
        """The choice as facts have it, with the raw names that are left out on request, and what was looked for."""
        return AppliedMapping(
            source=self.source,
            chosen_by=self.chosen_by,
            evidence=self.evidence,
            digest=self.mapping.digest,
            drop=tuple(sorted(drop)),
            coverage=coverage,
        )


def mapping_for(source: str) -> LabelMapping:
    """The mapping named `source`.

    Raises:
        ConfigurationError: No such source; the message lists those that exist.
    """
    try:
        return MAPPINGS[source]
    except KeyError:
        raise ConfigurationError(
            f"Source {source!r} is not known. Known sources: {', '.join(MAPPINGS)}. "
            "Leave --source out to choose by the export's READMEs and category names."
        ) from None


def choose_source(readmes: Iterable[str], category_names: Collection[str], source: str | None = None) -> SourceChoice:
    """Chooses the mapping by name, else by a fingerprint of the READMEs and of the category names.

    A wrong choice cannot pass unseen: all mappings share the strict table, and differ only in which names are loose.

    Args:
        readmes: The texts of the export's READMEs.
        category_names: All category names of the export, root placeholders included.
        source: The user's own choice, which always wins.

    Raises:
        ConfigurationError: `source` is not known.
    """
    if source is not None:
        return SourceChoice(mapping_for(source).source, "option", f"--source {source}")
    text = "\n".join(readmes)
    if re.search(r"universe\.roboflow\.com/dental-uispo/-bhjcu\b", text) or "dental-xray-cv" in text.casefold():
        return SourceChoice("dental-radiography", "readme", "README names the project dental-uispo/-bhjcu")
    if re.search(r"\bopg[\s_-]*reporting\b", text, flags=re.IGNORECASE):
        return SourceChoice("opg-reporting", "readme", "README names OPG REPORTING")
    folded = {fold(name) for name in category_names}
    if found := folded & OPG_REPORTING_NAMES:
        return SourceChoice("opg-reporting", "category names", f"{len(found)} names that only OPG REPORTING uses")
    if folded >= DENTAL_RADIOGRAPHY_NAMES and len(folded) <= len(DENTAL_RADIOGRAPHY_NAMES) + 1:
        return SourceChoice("dental-radiography", "category names", "exactly its four class names")
    if folded and folded <= DENTEX_NAMES:
        return SourceChoice("dentex", "category names", "quadrant, tooth and disease in one name, as DENTEX has them")
    if folded and folded <= DENTEX_TEETH:
        return SourceChoice("dentex-teeth", "category names", "teeth by quadrant and place, as DENTEX has them")
    if found := folded & NAMED_TEETH:
        return SourceChoice("oralvis", "category names", f"{len(found)} teeth by name and FDI number")
    return SourceChoice("canonical", "default", "neither READMEs nor category names are of a known source")


def names_of(classes: Iterable[str]) -> tuple[str, ...]:
    """Classes in as few words as `covers` has for them: `teeth` for all 32, each condition by its name."""
    held = set(classes)
    teeth = ("teeth",) if held.issuperset(TEETH) else tuple(name for name in TEETH if name in held)
    return (*teeth, *(name for name in CONDITIONS if name in held))


def covered_classes(mapping: AppliedMapping) -> tuple[str, ...]:
    """What was looked for in every image without a declaration of its own, from a dataset's facts."""
    return CLASSES if mapping.coverage is None else mapping.coverage.classes
