"""Multipart uploads of the disk S3: parts are files like objects, listed in the index until they are joined."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow_fargate.local.s3.protocol import S3Refusal, read_pieces
from mlflow_fargate.local.s3.store import Condition, Received, S3Store, StoredObject

_PART_MIN_BYTES = 5 * 1024 * 1024  # as AWS: every part but the last


@dataclass(frozen=True)
class StoredPart:
    """A part as it was uploaded; its ETag is the MD5 of its bytes."""

    number: int
    file: str
    size_bytes: int
    etag: str
    modified_at: float


class UploadStore:
    """The uploads in progress in `store`."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    def create(self, bucket: str, key: bytes, headers: Mapping[str, str]) -> str:
        """Starts an upload of an object with `headers`; returns its ID."""
        self._store.require_bucket(bucket)
        upload_id = uuid.uuid4().hex
        with self._store.transaction() as index:
            row = (upload_id, bucket, key, time.time(), json.dumps(dict(headers)))
            index.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?)", row)
        return upload_id

    def under_way(self, bucket: str) -> list[tuple[bytes, str, float]]:
        """Returns key, ID and start time of each upload that was neither completed nor aborted, by key."""
        self._store.require_bucket(bucket)
        query = "SELECT key, id, begun_at FROM uploads WHERE bucket = ? ORDER BY key, begun_at"
        return self._store.rows(query, bucket)

    def headers(self, bucket: str, key: bytes, upload_id: str) -> dict[str, str]:
        """Returns the headers passed to create(); NoSuchUpload if the ID does not belong to this key."""
        query = "SELECT headers FROM uploads WHERE id = ? AND bucket = ? AND key = ?"
        rows = self._store.rows(query, upload_id, bucket, key)
        if not rows:
            raise _no_such_upload()
        headers: dict[str, str] = json.loads(rows[0][0])
        return headers

    def put_part(self, upload_id: str, number: int, received: Received) -> None:
        """Stores the received bytes as part `number`, replacing an earlier one."""
        row = (upload_id, number, received.file, received.size_bytes, received.md5, time.time())
        with self._store.transaction() as index:
            is_under_way = index.execute("SELECT 1 FROM uploads WHERE id = ?", (upload_id,)).fetchone() is not None
            old = index.execute("SELECT file FROM parts WHERE upload = ? AND number = ?", row[:2]).fetchall()
            if is_under_way:
                index.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?)", row)
        self._store.discard(*(file for (file,) in old))
        if not is_under_way:
            self._store.discard(received.file)
            raise _no_such_upload()

    def parts(self, bucket: str, key: bytes, upload_id: str) -> list[StoredPart]:
        """Returns the uploaded parts, by number."""
        self.headers(bucket, key, upload_id)
        query = "SELECT number, file, size, etag, modified_at FROM parts WHERE upload = ? ORDER BY number"
        return [StoredPart(*row) for row in self._store.rows(query, upload_id)]

    def complete(
        self, bucket: str, key: bytes, upload_id: str, wanted: Sequence[tuple[int, str]], condition: Condition
    ) -> StoredObject:
        """Joins the parts with these numbers and ETags into the object, and ends the upload."""
        headers = self.headers(bucket, key, upload_id)
        parts = _choose_parts(self.parts(bucket, key, upload_id), wanted)
        joined = self._store.receive(self._read(parts))
        md5s = b"".join(bytes.fromhex(part.etag) for part in parts)
        etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
        stored = self._store.put_object(bucket, key, joined, headers=headers, condition=condition, etag=etag)
        self.abort(bucket, key, upload_id)
        return stored

    def abort(self, bucket: str, key: bytes, upload_id: str) -> None:
        """Deletes the upload and its parts."""
        files = [part.file for part in self.parts(bucket, key, upload_id)]
        with self._store.transaction() as index:
            index.execute("DELETE FROM parts WHERE upload = ?", (upload_id,))
            index.execute("DELETE FROM uploads WHERE id = ?", (upload_id,))
        self._store.discard(*files)

    def _read(self, parts: Sequence[StoredPart]) -> Iterator[bytes]:
        for part in parts:
            with self._store.path(part.file).open("rb") as file:
                yield from read_pieces(file, part.size_bytes)


def _choose_parts(present: Sequence[StoredPart], wanted: Sequence[tuple[int, str]]) -> list[StoredPart]:
    by_number = {part.number: part for part in present}
    numbers = [number for number, _ in wanted]
    if not numbers or numbers != sorted(set(numbers)):
        raise S3Refusal(400, "InvalidPartOrder", "The list of parts was not in ascending order.")
    for number, etag in wanted:
        if number not in by_number or by_number[number].etag != etag:
            raise S3Refusal(400, "InvalidPart", f"Part {number} with ETag {etag} was not uploaded.")
    chosen = [by_number[number] for number in numbers]
    if any(part.size_bytes < _PART_MIN_BYTES for part in chosen[:-1]):
        raise S3Refusal(400, "EntityTooSmall", f"Each part but the last must have {_PART_MIN_BYTES} bytes or more.")
    return chosen


def _no_such_upload() -> S3Refusal:
    return S3Refusal(404, "NoSuchUpload", "The specified upload does not exist; it was completed or aborted.")
