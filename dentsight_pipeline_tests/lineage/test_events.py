"""What Dagster's tags say is held against the store; its traps are told apart from forgeries.

The events come from real runs of a small graph that records what it reads as the pipeline's assets do.
(No `from __future__ import annotations` here: Dagster cannot read an annotated `context` with it.)
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from dentsight_pipeline.documents.names import INPUT_METADATA, INPUT_TAG, LOG_METADATA, TAG_DIGITS
from dentsight_pipeline.lineage.events import Event, cross_check
from dentsight_pipeline.orchestration.lineage_events import materialisations
from dentsight_pipeline.store import log
from dentsight_pipeline.store.content import build
from dentsight_pipeline.store.manifest import Manifest
from dentsight_pipeline.store.objects import Store, open_store
from dentsight_pipeline.store.records import records_of

DAYS = dg.StaticPartitionsDefinition(["d1", "d2"])
CELLS = dg.MultiPartitionsDefinition({"dataset": DAYS, "recipe": dg.StaticPartitionsDefinition(["smoke"])})


class Graph:
    """Two assets on a store: `source`, by day, and `product`, which reads one given source."""

    def __init__(self, store: Store, instance: dg.DagsterInstance) -> None:
        self.store, self.instance = store, instance
        self.made: dict[str, Manifest] = {}

    def _publish(
        self, context: dg.AssetExecutionContext, kind: str, text: str, read: dict[str, str], inner: dict[str, str]
    ) -> Manifest:
        manifest = build(self.store, kind, {"text": text.encode()}, {**read, **inner}, {})
        self.store.put_manifest(manifest)
        record = {
            "asset": context.asset_key.to_user_string(),
            "partition": str(context.partition_key),
            "dagster_run": context.run.run_id,
            "inputs": read,
        }
        self.head = log.append(self.store, manifest.digest, record).head
        self.made[text] = manifest
        return manifest

    def result(self, manifest: Manifest, read: dict[str, str]) -> dg.MaterializeResult:
        """What the pipeline's assets return."""
        return dg.MaterializeResult(
            data_version=dg.DataVersion(manifest.digest),
            metadata={
                "digest": manifest.digest,
                "reused": False,
                LOG_METADATA: str(self.head),
                **{f"{INPUT_METADATA}{asset}": digest for asset, digest in read.items()},
            },
            tags={f"{INPUT_TAG}{asset}": digest[:TAG_DIGITS] for asset, digest in read.items()},
        )

    def run_source(self, day: str, text: str) -> Manifest:
        """Materialise `source` for one day."""

        @dg.asset(partitions_def=DAYS)
        def source(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self.result(self._publish(context, "raw-export", text, {}, {}), {})

        dg.materialize([source], instance=self.instance, partition_key=day)
        return self.made[text]

    def run_product(
        self, day: str, read: Manifest, text: str = "product", *, cells: bool = False, inner: str = ""
    ) -> Manifest:
        """Materialise `product`, which reads exactly the manifest given and makes an inner one for itself."""
        partitions = CELLS if cells else DAYS
        inputs, own = {"source": read.digest}, {"inner": inner} if inner else {}

        @dg.asset(partitions_def=partitions, deps=["source"])
        def product(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            return self.result(self._publish(context, "checkpoint", text, inputs, own), inputs)

        key = dg.MultiPartitionKey({"dataset": day, "recipe": "smoke"}) if cells else day
        dg.materialize([product], instance=self.instance, partition_key=key)
        return self.made[text]

    @property
    def events(self) -> list[Event]:
        """All events of both assets."""
        return materialisations(self.instance, ["source", "product"])

    def checked(self, events: list[Event] | None = None) -> tuple[list[str], list[str]]:
        """Findings and notes of everything that was made."""
        manifests = {manifest.digest: manifest for manifest in self.made.values()}
        records = {digest: records_of(self.store, digest) for digest in manifests}
        found = cross_check(self.events if events is None else events, manifests, records, log.read(self.store))
        return found.findings, found.notes


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """An empty graph."""
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "dagster")) as instance:
        yield Graph(open_store(tmp_path / "store"), instance)


def test_honest_events_have_no_findings(graph: Graph) -> None:
    """One source, one product, nothing else going on."""
    graph.run_product("d1", graph.run_source("d1", "v8"))

    assert graph.checked() == ([], [])


def test_dagsters_pointer_names_another_partition_and_that_is_explained(graph: Graph) -> None:
    """The trap: `product` of d1 read d1, and Dagster's own tag names the newest event, which is d2's."""
    source = graph.run_source("d1", "v8")
    newer = graph.run_source("d2", "v9")
    graph.run_product("d1", source, cells=True)

    findings, notes = graph.checked()

    pointed = next(event for event in graph.events if event.asset == "product").tags[
        "dagster/input_event_pointer/source"
    ]
    assert next(event for event in graph.events if str(event.storage_id) == pointed).data_version == newer.digest
    assert findings == []
    assert "for partition d2; it had been made before by event" in notes[0]
    assert "Dagster notes the newest event, not the one that was read." in notes[0]


def test_upstream_that_moves_while_a_run_reads_the_older_one_is_explained(graph: Graph) -> None:
    """The trap: two runs cross; the slower one read the older source, and the pointer names the newer one."""
    older = graph.run_source("d1", "before")
    graph.run_source("d1", "after")
    product = graph.run_product("d1", older)

    findings, notes = graph.checked()

    assert product.inputs["source"] == older.digest
    assert findings == []
    assert f"read source {older.digest[:12]}" in notes[0]


def test_a_pointer_that_no_earlier_event_explains_is_a_finding(graph: Graph) -> None:
    """A product that claims to have read something that nobody had made yet."""
    graph.run_source("d1", "v8")
    later = build(graph.store, "raw-export", {"text": b"v10"}, {}, {})
    graph.store.put_manifest(later)
    graph.run_product("d1", later)
    graph.run_source("d1", "v10")

    findings, _ = graph.checked()

    assert "and no earlier event made what was read." in findings[0]


@pytest.mark.parametrize("where", ["tag", "metadata"])
def test_a_forged_input_is_found(graph: Graph, where: str) -> None:
    """Dagster lets a result's tags overwrite anything, and its database can be edited."""
    product = graph.run_product("d1", graph.run_source("d1", "v8"))
    forged = []
    for event in graph.events:
        if event.asset == "product" and where == "tag":
            event = replace(event, tags={**event.tags, f"{INPUT_TAG}source": "f" * TAG_DIGITS})
        elif event.asset == "product":
            event = replace(event, metadata={**event.metadata, f"{INPUT_METADATA}source": "f" * 64})
        forged.append(event)

    findings, _ = graph.checked(forged)

    assert len(findings) == 1
    assert "was forged" in findings[0]
    assert f"names {product.inputs['source'][:12]}" in findings[0]


def test_a_removed_input_tag_is_found(graph: Graph) -> None:
    """Silence is no answer."""
    graph.run_product("d1", graph.run_source("d1", "v8"))
    stripped = [replace(event, tags={}, metadata={}) if event.asset == "product" else event for event in graph.events]
    versions = {event.storage_id: event.data_version for event in graph.events}

    findings, _ = graph.checked([replace(e, data_version=versions[e.storage_id]) for e in stripped])

    assert "does not say which source it read; its tag was removed." in findings[0]


def test_a_reused_product_owes_what_its_making_read_and_not_what_it_made_for_itself(graph: Graph) -> None:
    """Predictions are inside `tooth_findings`: a second run that reused them was called not intact."""
    graph.run_product("d1", graph.run_source("d1", "v8"), inner="a" * 64)
    made = next(event for event in graph.events if event.asset == "product")
    versions = {event.storage_id: event.data_version for event in graph.events}
    told = {name: value for name, value in made.metadata.items() if name != "reused"}
    again = replace(
        made, run_id="another", storage_id=made.storage_id + 1, metadata=told, data_version=made.data_version
    )
    silent = replace(again, tags={}, metadata={}, data_version=made.data_version)
    before = [replace(event, data_version=versions[event.storage_id]) for event in graph.events]

    assert graph.checked([*before, again])[0] == []
    (finding,) = graph.checked([*before, silent])[0]
    assert "does not say which source it read" in finding


def test_a_forged_data_version_is_found(graph: Graph) -> None:
    """The event says that its run made another product; the record of that run says which."""
    source = graph.run_source("d1", "v8")
    graph.run_product("d1", source, "good")
    better = graph.run_product("d2", source, "better")
    forged = [
        replace(event, data_version=better.digest) if event.partition == "d1" and event.asset == "product" else event
        for event in graph.events
    ]

    findings, _ = graph.checked(forged)

    assert any("but no record names that run" in finding for finding in findings)
    assert any("names the same run" in finding for finding in findings)


def test_a_log_entry_that_an_event_noted_and_that_is_gone_is_found(graph: Graph) -> None:
    """Every materialisation notes the log's head, so that cutting the log contradicts Dagster."""
    product = graph.run_product("d1", graph.run_source("d1", "v8"))
    (Path(graph.store.uri.removeprefix("file://")) / "log" / f"{2:012d}.json").unlink()

    findings, _ = graph.checked()

    assert any("noted entry 2 of the log, which is not there any more" in finding for finding in findings)
    assert product.digest in graph.made["product"].digest


def test_events_of_other_products_are_left_alone(graph: Graph) -> None:
    """An audit is about one chain."""
    graph.run_product("d1", graph.run_source("d1", "v8"))
    stranger = Event("product", "d9", "r", 9_999, "a" * 64, {f"{INPUT_TAG}source": "b" * 63})

    assert graph.checked([*graph.events, stranger]) == ([], [])
