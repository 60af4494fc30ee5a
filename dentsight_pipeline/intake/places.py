"""Where in an export its splits lie, whatever their folders are called and however deep they are.

Add a word for a split here. What the files of a split mean belongs in the reader of their layout.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from dentsight_pipeline.documents.names import SPLITS
from dentsight_pipeline.errors import DataError
from dentsight_pipeline.intake.paths import folded, refuse_unsafe_path
from dentsight_pipeline.intake.records import ExportImage, Refusals, is_image, stem_of

SPLIT_WORDS: Mapping[str, str] = {
    **dict.fromkeys(("train", "training", "obj_train_data"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "obj_valid_data"), "valid"),
    **dict.fromkeys(("test", "testing", "obj_test_data"), "test"),
}
"""What a split's folder or file is called, in small letters → split."""
LABEL_FOLDER = {"images": "labels", "jpegimages": "Annotations"}
"""A folder of images, in small letters → the folder of their label files, which lies where it lies."""
_KINDS = frozenset({*LABEL_FOLDER, *map(str.lower, LABEL_FOLDER.values())})


@dataclass(frozen=True)
class Places:
    """The splits of an export.

    Attributes:
        folders: Split → its folder as messages name it, in published order; empty when no folder names a split.
        paths: Split → its files, in order.
    """

    folders: Mapping[str, str]
    paths: Mapping[str, Sequence[str]]

    def images(self, split: str) -> list[str]:
        """A split's images; those in a folder `images` alone, where there is one."""
        found = [path for path in self.paths.get(split, ()) if is_image(path)]
        return [path for path in found if label_folder(path)] or found

    def label_folder(self, split: str) -> str:
        """The folder that holds all its label files, or would."""
        folders = {(label_folder(path) or path).rpartition("/")[0] for path in self.images(split)}
        return posixpath.commonpath(folders) if folders else f"{self.folders.get(split, split)}/labels"


def split_in(path: str) -> str | None:
    """The split that the last telling word of a path names, as in `annotations/instances_val2017.json`."""
    words = (SPLIT_WORDS.get(word) for word in reversed(re.findall(r"[a-z]+", path.lower())))
    return next((word for word in words if word), None)


def split_of(folder: str) -> str | None:
    """The split that a folder's whole name means."""
    return SPLIT_WORDS.get(folder.lower())


def one_for_each_split(name: str, annotation_files: Iterable[str]) -> dict[str, str]:
    """Split → its annotation file, by the words of their paths; one without such a word is of the training images.

    Args:
        name: What the user gave, for messages.
        annotation_files: Paths.

    Raises:
        DataError: Two files are of one split.
    """
    found: dict[str, str] = {}
    for path in annotation_files:
        split = split_in(path) or "train"
        if split in found:
            problem = f"{found[split]} and {path} both annotate the {split} images"
            raise DataError(f"{name}: {problem}. Give the folder of one of them; --export takes several.")
        found[split] = path
    return found


def find_places(name: str, paths: Iterable[str], split_of: Mapping[str, str] | None = None) -> Places:
    """The splits of an export by the names of its folders; of one without such folders, all of it as `train`.

    Args:
        name: What the user gave, for messages.
        paths: All files.
        split_of: Folder → split, where something else than names says it.

    Raises:
        DataError: Two folders are one split.
    """
    found: dict[str, list[str]] = {}
    keys: dict[str, str] = {}
    known: dict[str, tuple[str, str] | None] = {}
    rest: list[str] = []
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in known:
            known[folder] = _by_folder(folder, split_of) if split_of else _by_word(folder)
        if (home := known[folder]) is None:
            rest.append(path)
            continue
        split, key = home
        if keys.setdefault(split, key) != key:
            raise DataError(f"{name}: has both {keys[split]!r} and {key!r}. Keep one of the two folders.")
        found.setdefault(split, []).append(path)
    if not found:
        return Places({}, {"train": rest})
    return Places({split: keys[split] for split in SPLITS if split in keys}, found)


def refuse_unnamed(name: str, places: Places) -> None:
    """Refuses images of several folders none of which names a split; those of one may be a split without a name.

    Raises:
        DataError: So it is.
    """
    paths = places.paths["train"] if not places.folders else ()
    folders = sorted({path.rpartition("/")[0] for path in paths if is_image(path)})
    if len(folders) > 1:
        some = ", ".join(folders[:4]) + ", …" * (len(folders) > 4)
        raise DataError(f"{name}: no folder is called train, valid or test; images lie in {some}. Rename the folders.")


def _by_word(folder: str) -> tuple[str, str] | None:
    """The split that a folder belongs to, and where that lies, be it `train/images` or `images/train`."""
    parts = folder.split("/")
    last = max((at for at, part in enumerate(parts) if part.lower() in SPLIT_WORDS), default=None)
    if last is None:
        return None
    return SPLIT_WORDS[parts[last].lower()], "/".join(p for p in parts[: last + 1] if p.lower() not in _KINDS)


def _by_folder(folder: str, split_of: Mapping[str, str]) -> tuple[str, str] | None:
    """The same where splits are known by their folders of images."""
    for given, split in split_of.items():
        for start in (given, label_folder(f"{given}/")):
            if start is not None and f"{folder}/".startswith(f"{start.rstrip('/')}/"):
                return split, given
    return None


def label_folder(path: str) -> str | None:
    """The path with the folder of label files in place of the last folder of images; None when it has none."""
    parts = path.split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at].lower() in LABEL_FOLDER:
            folder = LABEL_FOLDER[parts[at].lower()]
            return "/".join((*parts[:at], folder, *parts[at + 1 :]))
    return None


def with_label_files(
    places: Places, split: str, suffix: str, refusals: Refusals
) -> Iterator[tuple[ExportImage, str | None]]:
    """Each image of a split with its label file, or None; of a label file without an image one that is not there.

    Args:
        places: Of the export.
        split: Which.
        suffix: Of label files, with its dot.
        refusals: Where names go that are no plain paths, and images that share a label file.
    """
    by_stem = {folded(_bare(path)): path for path in places.paths.get(split, ()) if path.lower().endswith(suffix)}
    taken: set[str] = set()
    for path in _plain(places.images(split), refusals):
        key = folded(_bare(label_folder(path) or path))
        if key in taken:
            problem = "two images share one label file. Rename one of them."
            refusals.add(DataError(f"{_bare(path)}.*: {problem}"))
            continue
        yield ExportImage(len(taken), path, stem_of(path), 0, 0), by_stem.get(key)
        taken.add(key)
    without = _plain((path for key, path in by_stem.items() if key not in taken), refusals)
    for number, path in enumerate(sorted(without, key=_bare), start=len(taken)):
        yield ExportImage(number, path, stem_of(path), 0, 0, exists=False), path


def _bare(path: str) -> str:
    return path.rpartition(".")[0]


def _plain(paths: Iterable[str], refusals: Refusals) -> Iterator[str]:
    """Those that are plain paths."""
    for path in paths:
        try:
            refuse_unsafe_path(path, "the export")
        except DataError as error:
            refusals.add(error)
        else:
            yield path
