"""The champion: the released model in use, its history, and how a challenger compares with it.

The store keeps who is champion; the MLflow registry shows the same as the aliases `champion` and `challenger`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dentsight_pipeline.documents.codec import convert, plain
from dentsight_pipeline.documents.facts import ReleaseFacts
from dentsight_pipeline.documents.names import Asset, Kind, with_article
from dentsight_pipeline.documents.release import ChampionChange, ChampionHistory
from dentsight_pipeline.documents.verdict import ChampionComparison
from dentsight_pipeline.errors import ReleaseError
from dentsight_pipeline.store import log

if TYPE_CHECKING:
    from dentsight_pipeline.store.manifest import Manifest
    from dentsight_pipeline.store.objects import Store

CHAMPION_REF = "release/champion"


def history(store: Store) -> tuple[ChampionChange, ...]:
    """Every promotion and rollback, oldest first."""
    return convert(store.read_ref(CHAMPION_REF) or {}, ChampionHistory, f"reference {CHAMPION_REF}").changes


def current_digest(store: Store) -> str | None:
    """Digest of the release that is champion now, or None."""
    changes = history(store)
    return changes[-1].release if changes else None


def current(store: Store) -> Manifest | None:
    """The release that is champion now, or None."""
    digest = current_digest(store)
    return store.get_manifest(digest) if digest else None


def promote(store: Store, release: Manifest, by: str, reason: str) -> ChampionChange:
    """Make a release the champion.

    Raises:
        ReleaseError: It is no release, it is champion already, or nobody says who and why.
    """
    if release.kind != Kind.RELEASE:
        raise ReleaseError(
            f"{release.digest[:12]} is {with_article(release.kind)}, not a release. Only a release can be champion."
        )
    if current_digest(store) == release.digest:
        raise ReleaseError(f"Release {release.digest[:12]} is the champion already.")
    return _change(store, ChampionChange(release=release.digest, by=by, reason=reason, action="promote"))


def rollback(store: Store, by: str, reason: str) -> ChampionChange:
    """Give the title back to the release that was champion before the present one.

    Raises:
        ReleaseError: There is no champion, or none before it.
    """
    changes = history(store)
    if not changes or changes[-1].release is None:
        raise ReleaseError("There is no champion to roll back from. Promote a release first: `dentsight promote REF`.")
    titles: list[str] = []
    for change in changes:
        if change.action == "promote" and change.release is not None:
            titles.append(change.release)
        else:
            titles.pop()
    before = titles[-2] if len(titles) > 1 else None
    return _change(store, ChampionChange(release=before, by=by, reason=reason, action="rollback"))


def _change(store: Store, change: ChampionChange) -> ChampionChange:
    if not change.by.strip() or not change.reason.strip():
        raise ReleaseError("A promotion or rollback needs a name and a reason: --by NAME --reason 'why'.")
    before = store.read_ref(CHAMPION_REF)
    changes = (*convert(before or {}, ChampionHistory, f"reference {CHAMPION_REF}").changes, change)
    store.write_ref(CHAMPION_REF, plain(ChampionHistory(changes=changes)), expected=before)
    _log(store, changes)
    return change


def logged_history(reading: log.LogReading) -> tuple[ChampionChange, ...]:
    """Every promotion and rollback that the log tells of, oldest first."""
    told = [entry.record for entry in reading.entries if entry.record.get("action") in ("promote", "rollback")]
    fields = ChampionChange.__struct_fields__
    return tuple(convert({name: record[name] for name in fields}, ChampionChange, "the log") for record in told)


def _log(store: Store, changes: tuple[ChampionChange, ...]) -> None:
    """Write into the log what it lacks: the reference could be set back, the log cannot be cut unseen.

    More than the newest change is lacking only after a process was killed between the two.
    """
    for number in range(len(logged_history(log.read(store))), len(changes)):
        change = changes[number]
        concerned = change.release or next(before.release for before in changes[number - 1 :: -1] if before.release)
        log.append(store, concerned, {**plain(change), "started": time.time()})


def comparison_with(store: Store, chain: Mapping[str, Manifest], *, resamples: int = 1000) -> ChampionComparison | None:
    """The challenger against the champion on the challenger's own test images, by the paired bootstrap.

    Args:
        store: Where both are.
        chain: The challenger's manifests by asset name: `test_predictions`, `condition_subset`.
        resamples: Bootstrap resamples.

    Returns:
        The comparison as `gates.judge` takes it; None without a champion. When the champion never predicted these
        images, `measurements` is empty and the champion rows are INCONCLUSIVE: materialise `champion_metrics` for this
        dataset first.
    """
    champion = current(store)
    if champion is None:
        return None
    subset, challengers = chain[Asset.CONDITION_SUBSET], chain[Asset.TEST_PREDICTIONS]
    champions = champion_predictions(store, champion, subset)
    if champions is None:
        return ChampionComparison(digest=champion.digest, ground_truth_sha256=None, measurements=())
    from dentsight_pipeline.evaluation.product import compare_stored

    made = compare_stored(store, subset, challenger=challengers, champion=champions, resamples=resamples)
    return ChampionComparison(
        digest=champion.digest,
        ground_truth_sha256=made.ground_truth_sha256,
        measurements=tuple(made.measurements),
    )


def state(store: Store, subset: Manifest) -> dict[str, str | None]:
    """What a comparison on this subset depends on: who is champion, and which predictions it has made."""
    champion = current(store)
    if champion is None:
        return {"champion": None, "predictions": None}
    theirs = champion_predictions(store, champion, subset)
    return {"champion": champion.digest, "predictions": theirs.digest if theirs else None}


def champion_predictions(store: Store, champion: Manifest, subset: Manifest) -> Manifest | None:
    """The champion's predictions on a subset, when it has made them (for itself, or for `champion_metrics`)."""
    own = store.get_manifest(champion.facts_as(ReleaseFacts).chain[Asset.TEST_PREDICTIONS])
    if own.inputs[Asset.CONDITION_SUBSET] == subset.digest:
        return own
    value = store.read_ref(_predictions_ref(champion, subset))
    return store.get_manifest(value["predictions"]) if value else None


def remember_predictions(store: Store, champion: Manifest, subset: Manifest, predictions: Manifest) -> None:
    """Keep the champion's predictions on a newer subset, for the comparisons to come."""
    store.write_ref(_predictions_ref(champion, subset), {"predictions": predictions.digest})


def _predictions_ref(champion: Manifest, subset: Manifest) -> str:
    return f"champion-predictions/{champion.digest[:32]}-{subset.digest[:32]}"
