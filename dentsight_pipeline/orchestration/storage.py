"""Dagster's SQLite storage, whose databases stay open between statements.

Dagster's own opens a database, and has SQLAlchemy compile its statement, anew for each of the thousand statements of a
run: more than half of what a run costs in which nothing changed. Files, tables and durability are the same, so either
reads what the other wrote. A connection that waits for its next use holds no lock and no snapshot.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from sqlalchemy import Connection, Engine

if TYPE_CHECKING:
    from dagster._core.storage.sqlite_storage import SqliteStorageConfig
    from dagster._serdes import ConfigurableClassData

MOST_OPEN = 16
"""Databases that one storage keeps open: each run has one of its own, and a server sees them all."""


class OpenDatabases:
    """Those used last, by address."""

    def __init__(self) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._lock = threading.Lock()

    def engine(self, address: str) -> Engine:
        """The database's engine, with its open connections and compiled statements."""
        with self._lock:
            if address not in self._engines:
                self._engines[address] = create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})
            self._engines.move_to_end(address)
            if len(self._engines) > MOST_OPEN:
                self._engines.popitem(last=False)[1].dispose()
            return self._engines[address]

    def close(self) -> None:
        """Close every connection that is not in use."""
        with self._lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class EventLog(SqliteEventLogStorage):
    """Events, a database a run and one for all."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open = OpenDatabases()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._open.engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def has_table(self, table_name: str) -> bool:
        """Whether the database for all has a table, which Dagster asks before most of its queries."""
        engine = self._open.engine(self.conn_string_for_shard(INDEX_SHARD_NAME))
        with engine.connect() as connection:
            return engine.dialect.has_table(connection, table_name)

    def wipe(self) -> None:
        """Remove all events."""
        self._open.close()  # else the next event would go into a file that is no longer there
        super().wipe()

    def dispose(self) -> None:
        """Close everything."""
        self._open.close()
        super().dispose()


class Runs(SqliteRunStorage):
    """Runs, in one database."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open = OpenDatabases()
        super().__init__(conn_string, inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction."""
        with self._open.engine(self._conn_string).begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close everything."""
        self._open.close()
        super().dispose()


class SqliteStorage(DagsterSqliteStorage):
    """What `dagster.yaml` names as the storage."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self.base_dir, self._inst_data = base_dir, inst_data
        self._run_storage = Runs.from_local(_runs_directory(base_dir))
        self._event_log_storage = EventLog(_event_logs_directory(base_dir))
        self._schedule_storage = SqliteScheduleStorage.from_local(_schedule_directory(base_dir))
        DagsterStorage.__init__(self)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: SqliteStorageConfig) -> SqliteStorage:
        """As Dagster makes it from the configuration."""
        return cls.from_local(inst_data=inst_data, **config_value)
