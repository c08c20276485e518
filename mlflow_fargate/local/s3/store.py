"""Storage of the disk S3: bytes in files, everything else in a SQLite index; app.py serves it over HTTP.

    ROOT/index.sqlite3    buckets, objects (key → file, size, ETag, headers), uploads and their parts
    ROOT/data/XX/ID       the bytes of one object or part; ID is random, so keys are never used as paths
    ROOT/incoming/ID      bytes being received; deleted at start

Keys are BLOBs of UTF-8, so they sort as in S3, and a listing walks along the index. An object appears when its row is
written, after its file is complete: a killed process leaves no partial object, and a reader of an object that is being
replaced gets all of the old bytes. Only one process uses a ROOT; its threads can call everything here concurrently.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from mlflow_fargate.local.s3.positions import after_all_with
from mlflow_fargate.local.s3.protocol import S3Refusal

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS objects (
    bucket TEXT NOT NULL, key BLOB NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at REAL NOT NULL, headers TEXT NOT NULL, PRIMARY KEY (bucket, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uploads (
    id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, begun_at REAL NOT NULL, headers TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    upload TEXT NOT NULL, number INTEGER NOT NULL, file TEXT NOT NULL, size INTEGER NOT NULL, etag TEXT NOT NULL,
    modified_at REAL NOT NULL, PRIMARY KEY (upload, number)) WITHOUT ROWID;
"""
_OBJECT_COLUMNS = "key, file, size, etag, modified_at, headers"


@dataclass(frozen=True)
class StoredObject:
    """A stored object; `headers` are those that a GET returns (content type, user metadata, …)."""

    key: bytes
    file: str
    size_bytes: int
    etag: str  # without quotes
    modified_at: float
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Received:
    """Received bytes that do not belong to a key yet."""

    file: str
    size_bytes: int
    md5: str


@dataclass(frozen=True)
class Condition:
    """A condition on the key when it is written; with both unset, there is none."""

    if_none_match: str | None = None  # only '*': the key must not exist
    if_match: str | None = None  # the ETag that the existing object must have


@dataclass(frozen=True)
class Page:
    """A page of a listing in key order; `resume_at` is where the next one starts, None at the end."""

    objects: tuple[StoredObject, ...]
    common_prefixes: tuple[bytes, ...]
    resume_at: bytes | None
    last: bytes  # the last key or prefix of this page


class S3Store:
    """Buckets and objects under `root`; upload_store.py adds multipart uploads."""

    def __init__(self, root: Path) -> None:
        self._data = root / "data"
        self._incoming = root / "incoming"
        for folder in (self._data, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._index = sqlite3.connect(root / "index.sqlite3", check_same_thread=False, isolation_level=None)
        self._index.execute("PRAGMA journal_mode=WAL")
        # Data survives a killed process; a power failure can lose the last writes.
        self._index.execute("PRAGMA synchronous=OFF")
        self._index.executescript(_SCHEMA)
        self._sweep()

    def close(self) -> None:
        with self._lock:
            self._index.close()

    # Buckets

    def buckets(self) -> list[tuple[str, float]]:
        """Returns name and creation time of each bucket, by name."""
        return self.rows("SELECT name, created_at FROM buckets ORDER BY name")

    def create_bucket(self, name: str) -> None:
        with self.transaction() as index:
            index.execute("INSERT OR IGNORE INTO buckets VALUES (?, ?)", (name, time.time()))

    def require_bucket(self, name: str) -> None:
        if not self.rows("SELECT 1 FROM buckets WHERE name = ?", name):
            raise S3Refusal(404, "NoSuchBucket", f"The specified bucket does not exist: {name}")

    def delete_bucket(self, name: str) -> None:
        self.require_bucket(name)
        with self.transaction() as index:
            if index.execute("SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", (name,)).fetchone():
                raise S3Refusal(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
            of_bucket = "WHERE upload IN (SELECT id FROM uploads WHERE bucket = ?)"
            files = index.execute(f"SELECT file FROM parts {of_bucket}", (name,)).fetchall()  # noqa: S608 - constant
            index.execute(f"DELETE FROM parts {of_bucket}", (name,))  # noqa: S608 - constant
            index.execute("DELETE FROM uploads WHERE bucket = ?", (name,))
            index.execute("DELETE FROM buckets WHERE name = ?", (name,))
        self.discard(*(file for (file,) in files))

    # Bytes

    def receive(self, chunks: Iterable[bytes]) -> Received:
        """Streams bytes into a file that no key refers to yet; deletes it if `chunks` fails."""
        md5 = hashlib.md5(usedforsecurity=False)
        name, size = uuid.uuid4().hex, 0
        path = self._incoming / name
        try:
            with path.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    md5.update(chunk)
                    size += len(chunk)
            self.path(name).parent.mkdir(exist_ok=True)
            path.rename(self.path(name))
        finally:
            path.unlink(missing_ok=True)
        return Received(name, size, md5.hexdigest())

    def path(self, file: str) -> Path:
        return self._data / file[:2] / file

    def discard(self, *files: str) -> None:
        for file in files:
            self.path(file).unlink(missing_ok=True)

    # Objects

    def put_object(
        self,
        bucket: str,
        key: bytes,
        received: Received,
        *,
        headers: Mapping[str, str],
        condition: Condition,
        etag: str | None = None,
    ) -> StoredObject:
        """Stores the received bytes as the object `key` if `condition` is met; otherwise deletes them.

        `etag` defaults to their MD5.
        """
        etag = etag or received.md5
        stored = StoredObject(key, received.file, received.size_bytes, etag, time.time(), headers)
        try:
            with self.transaction() as index:
                if not index.execute("SELECT 1 FROM buckets WHERE name = ?", (bucket,)).fetchone():
                    raise S3Refusal(404, "NoSuchBucket", f"The specified bucket does not exist: {bucket}")
                replaced = _select_object(index, bucket, key)
                _check_condition(condition, replaced)
                row = (bucket, key, stored.file, stored.size_bytes, etag, stored.modified_at, json.dumps(dict(headers)))
                index.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        except BaseException:
            self.discard(received.file)
            raise
        if replaced is not None:
            self.discard(replaced.file)
        return stored

    def describe_object(self, bucket: str, key: bytes) -> StoredObject:
        with self._lock:
            stored = _select_object(self._index, bucket, key)
        return stored or self._missing(bucket)

    def open_object(self, bucket: str, key: bytes) -> tuple[StoredObject, BinaryIO]:
        """Returns the object and its open file, which stays readable if it is replaced; the caller closes it."""
        # Under the lock, because files are deleted only after a transaction has deleted their row.
        with self._lock:
            stored = _select_object(self._index, bucket, key)
            if stored is not None:
                return stored, self.path(stored.file).open("rb")
        return self._missing(bucket)

    def _missing(self, bucket: str) -> NoReturn:
        self.require_bucket(bucket)
        raise S3Refusal(404, "NoSuchKey", "The specified key does not exist.")

    def delete_object(self, bucket: str, key: bytes) -> None:
        """Deletes the object, if it exists."""
        with self.transaction() as index:
            stored = _select_object(index, bucket, key)
            index.execute("DELETE FROM objects WHERE bucket = ? AND key = ?", (bucket, key))
        if stored is not None:
            self.discard(stored.file)

    def list_objects(self, bucket: str, *, prefix: bytes, delimiter: bytes, begin: bytes, limit: int) -> Page:
        """Returns up to `limit` keys and common prefixes at or after `begin`.

        A common prefix costs one step along the index, however many keys it has.
        """
        self.require_bucket(bucket)
        objects: list[StoredObject] = []
        prefixes: list[bytes] = []
        at = max(begin, prefix)
        last = b""
        while len(objects) + len(prefixes) < limit:
            wanted = limit - len(objects) - len(prefixes)
            # With a delimiter, most rows of a folder are not needed: read a few, then skip to the end of the folder.
            batch = self._objects_from(bucket, at, prefix, min(wanted, 8) if delimiter else wanted)
            if not batch:
                return Page(tuple(objects), tuple(prefixes), None, last)
            for stored in batch:
                cut = stored.key.find(delimiter, len(prefix)) if delimiter else -1
                if cut >= 0:
                    last = stored.key[: cut + len(delimiter)]
                    prefixes.append(last)
                    at = after_all_with(last)
                    break
                last = stored.key
                objects.append(stored)
                at = last + b"\0"
        more = limit > 0 and bool(self._objects_from(bucket, at, prefix, 1))
        return Page(tuple(objects), tuple(prefixes), at if more else None, last)

    def _objects_from(self, bucket: str, at: bytes, prefix: bytes, limit: int) -> list[StoredObject]:
        query = f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key >= ?"  # noqa: S608 - constant columns
        arguments: list[object] = [bucket, at]
        if prefix:
            query += " AND key < ?"
            arguments.append(after_all_with(prefix))
        rows = self.rows(f"{query} ORDER BY key LIMIT ?", *arguments, limit)
        return [_object_from_row(row) for row in rows]

    # The index

    def rows(self, query: str, *arguments: object) -> list[Any]:
        with self._lock:
            return self._index.execute(query, arguments).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Runs a transaction that excludes other readers and writers; rolls back on an error."""
        with self._lock:
            self._index.execute("BEGIN IMMEDIATE")
            try:
                yield self._index
            except BaseException:
                self._index.execute("ROLLBACK")
                raise
            self._index.execute("COMMIT")

    def _sweep(self) -> None:
        """Deletes files that a killed process left without a row."""
        known = {row[0] for row in self.rows("SELECT file FROM objects UNION ALL SELECT file FROM parts")}
        for path in [*self._incoming.iterdir(), *self._data.glob("*/*")]:
            if path.name not in known:
                path.unlink()


def _select_object(index: sqlite3.Connection, bucket: str, key: bytes) -> StoredObject | None:
    query = f"SELECT {_OBJECT_COLUMNS} FROM objects WHERE bucket = ? AND key = ?"  # noqa: S608 - constant columns
    row = index.execute(query, (bucket, key)).fetchone()
    return None if row is None else _object_from_row(row)


def _object_from_row(row: tuple[Any, ...]) -> StoredObject:
    key, file, size, etag, modified_at, headers = row
    return StoredObject(key, file, size, etag, modified_at, json.loads(headers))


def _check_condition(condition: Condition, present: StoredObject | None) -> None:
    if condition.if_match is not None and present is None:
        raise S3Refusal(404, "NoSuchKey", "The specified key does not exist.")
    is_other = present is not None and condition.if_match not in (None, "*", present.etag)
    if is_other or (condition.if_none_match is not None and present is not None):
        raise S3Refusal(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
