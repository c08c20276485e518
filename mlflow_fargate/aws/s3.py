"""Reads a model's files directly from S3, bypassing the tracking server: one list call, parallel GETs.

`S3Artifacts` implements an artifact store (model/artifacts.py); `make_s3_client` creates its client by MLflow's
conventions. Every GET names the listed ETag, so that a file that changed in between is an error.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import stamina
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
)

from mlflow_fargate.aws import error_table
from mlflow_fargate.errors import AwsError, ModelNotFound, ModelUnusable
from mlflow_fargate.progress import Advance
from mlflow_fargate.resolved_model import ModelFile
from mlflow_fargate.target import MLFLOWS_DEFAULTS, ArtifactSettings

_MAX_FILES = 20_000  # a model has dozens; a bucket's root has millions
_CHUNK_BYTES = 1 << 20
_STREAMED_CHUNK_BYTES = 1 << 17
# botocore retries requests, but not an interrupted body.
_RETRY = stamina.RetryingCaller(attempts=4).on((ResponseStreamingError, IncompleteReadError, HTTPClientError))


def make_s3_client(session: Any, endpoint_url: str | None = None, settings: ArtifactSettings = MLFLOWS_DEFAULTS) -> Any:
    """Returns an S3 client of a boto3 session for the store at `endpoint_url`; None: AWS."""
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 10},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,  # files in parallel, times parts in parallel
        # Other S3-compatible stores rarely have a DNS name for each bucket.
        s3={"addressing_style": settings.addressing_style or ("path" if endpoint_url else "auto")},
        signature_version=settings.signature_version,
    )
    verify = None if settings.verifies_tls else False
    client = session.client("s3", config=config, endpoint_url=endpoint_url, verify=verify)

    def name_the_owner(params: dict[str, Any], **_: Any) -> None:
        params["ExpectedBucketOwner"] = settings.bucket_owner

    for operation in ("ListObjectsV2", "GetObject") if settings.bucket_owner else ():
        client.meta.events.register(f"provide-client-params.s3.{operation}", name_the_owner)
    return client


class S3Artifacts:
    """Objects under `s3://bucket/prefix`. Files larger than two parts are read in ranges, several at a time."""

    def __init__(
        self, client: Any, *, part_bytes: int = 32 << 20, streams: int = 4, stream_part_bytes: int = 1 << 20
    ) -> None:
        self._client = client
        self._part_bytes = part_bytes
        self._stream_part_bytes = stream_part_bytes
        self._streams = streams

    def files(self, root: str, *, recursive: bool = True) -> tuple[ModelFile, ...]:
        bucket, prefix = _split(root)
        prefix = prefix and f"{prefix}/"
        found: list[ModelFile] = []
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, **({} if recursive else {"Delimiter": "/"})
        )
        with _s3_errors("s3:ListBucket", root):
            for page in pages:
                # Consoles create empty objects whose name ends with '/' for folders.
                found += [
                    ModelFile(item["Key"][len(prefix) :], item["Size"], item["ETag"].strip('"'))
                    for item in page.get("Contents", [])
                    if not item["Key"].endswith("/")
                ]
                if len(found) > _MAX_FILES:
                    raise ModelUnusable(
                        f"{root} contains more than {_MAX_FILES} files.", hint="use the URI of the model's own folder"
                    )
        return tuple(sorted(found, key=lambda file: file.path))

    def read(self, root: str, path: str, limit_bytes: int) -> bytes:
        bucket, key = _split(f"{root}/{path}")

        def read_once() -> bytes:
            with contextlib.closing(self._client.get_object(Bucket=bucket, Key=key)["Body"]) as body:
                return bytes(body.read(limit_bytes + 1))

        with _s3_errors("s3:GetObject", f"s3://{bucket}/{key}"):
            content = _RETRY(read_once)
        if len(content) > limit_bytes:
            raise ModelUnusable(f"'{path}' is larger than the limit of {limit_bytes} bytes.")
        return content

    def download(self, root: str, file: ModelFile, target: Path, advance: Advance) -> None:
        with target.open("wb") as stream:
            stream.truncate(file.size_bytes)
        with _s3_errors("s3:GetObject", f"{root}/{file.path}"):
            if file.size_bytes <= 2 * self._part_bytes:
                self._fetch(root, file, target, range(file.size_bytes), advance)
                return
            starts = range(0, file.size_bytes, self._part_bytes)
            parts = [range(start, min(start + self._part_bytes, file.size_bytes)) for start in starts]
            with ThreadPoolExecutor(self._streams) as pool:
                list(pool.map(lambda part: self._fetch(root, file, target, part, advance), parts))

    def stream(self, root: str, file: ModelFile) -> Iterator[bytes]:
        """Yields the object's bytes in order; keeps at most one part per stream in memory or in transit."""
        starts = iter(range(0, file.size_bytes, self._stream_part_bytes))
        # Buffers are reused: allocating each part takes twice the memory, because the allocator keeps what other
        # threads have freed.
        free = [bytearray(min(self._stream_part_bytes, file.size_bytes)) for _ in range(self._streams + 1)]
        pool = ThreadPoolExecutor(self._streams)

        def fetch_next() -> list[tuple[int, Future[bytearray]]]:
            start = next(starts, None)
            if start is None:
                return []
            part = range(start, min(start + self._stream_part_bytes, file.size_bytes))
            return [(len(part), pool.submit(_RETRY, self._fetch_part, root, file, part, free.pop()))]

        try:
            with _s3_errors("s3:GetObject", f"{root}/{file.path}"):
                pending = deque(part for _ in range(self._streams) for part in fetch_next())
                while pending:
                    size_bytes, future = pending.popleft()
                    content = future.result()
                    pending.extend(fetch_next())
                    for start in range(0, size_bytes, _STREAMED_CHUNK_BYTES):
                        yield bytes(memoryview(content)[start : min(start + _STREAMED_CHUNK_BYTES, size_bytes)])
                    free.append(content)
        finally:
            pool.shutdown(cancel_futures=True)

    def _fetch_part(self, root: str, file: ModelFile, part: range, content: bytearray) -> bytearray:
        """Fills `content` with the part, from its start, and returns it."""
        with contextlib.closing(self._open(root, file, part)) as body:
            moved = 0
            for chunk in body.iter_chunks(_STREAMED_CHUNK_BYTES):
                if moved + len(chunk) > len(part):
                    raise _changed(file.path)
                content[moved : moved + len(chunk)] = chunk
                moved += len(chunk)
            if moved != len(part):
                raise IncompleteReadError(actual_bytes=moved, expected_bytes=len(part))
            return content

    def _fetch(self, root: str, file: ModelFile, target: Path, part: range, advance: Advance) -> None:
        if not part:
            return  # S3 refuses a range of an empty object
        _RETRY(self._fetch_once, root, file, target, part, advance)

    def _fetch_once(self, root: str, file: ModelFile, target: Path, part: range, advance: Advance) -> None:
        moved = 0
        try:
            with contextlib.closing(self._open(root, file, part)) as body, target.open("r+b") as stream:
                stream.seek(part.start)
                for chunk in body.iter_chunks(_CHUNK_BYTES):
                    moved += len(chunk)
                    if moved > len(part):
                        raise _changed(file.path)
                    stream.write(chunk)
                    advance(len(chunk))
            if moved != len(part):
                raise IncompleteReadError(actual_bytes=moved, expected_bytes=len(part))
        except BaseException:
            advance(-moved)
            raise

    def _open(self, root: str, file: ModelFile, part: range) -> Any:
        """Returns the body of a part; the ETag makes sure that it is of the object that was listed."""
        bucket, key = _split(f"{root}/{file.path}")
        return self._client.get_object(
            Bucket=bucket, Key=key, IfMatch=f'"{file.etag}"', Range=f"bytes={part.start}-{part.stop - 1}"
        )["Body"]


def _split(uri: str) -> tuple[str, str]:
    # Not urlsplit: '#' and '?' are ordinary characters in a key.
    bucket, _, key = uri.partition("://")[2].partition("/")
    return bucket, key.rstrip("/")


def _changed(path: str) -> ModelUnusable:
    return ModelUnusable(
        f"'{path}' changed while the model was being read.", hint="try again once the model is fully written"
    )


@contextlib.contextmanager
def _s3_errors(action: str, place: str) -> Iterator[None]:
    try:
        yield
    except NoCredentialsError as error:
        raise AwsError(
            f"{place} could not be read: no AWS credentials were found.",
            operation=action,
            code="NoCredentials",
            hint="run `aws configure` or `aws sso login`, or set AWS_PROFILE",
        ) from error
    except ClientError as error:
        raise _refused(action, place, error) from error
    except BotoCoreError as error:
        raise AwsError(f"{place} could not be read: {error}", operation=action, code=type(error).__name__) from error


def _refused(action: str, place: str, error: ClientError) -> AwsError | ModelNotFound | ModelUnusable:
    said = error.response.get("Error", {})
    code, message = str(said.get("Code", "Unknown")), str(said.get("Message", ""))
    if code in {"NoSuchBucket", "NoSuchKey", "404"}:
        return ModelNotFound(
            f"{place} does not exist ({code}).", hint="check whether it was deleted or is in another account"
        )
    if code in {"PreconditionFailed", "412", "InvalidRange"}:
        return _changed(place)
    fault = error_table.classify(action, code, message)
    said = f"S3 refused {action} on {place} ({code}): {message}"
    return AwsError(said, operation=action, code=code, hint=fault.hint, meaning=fault.meaning)
