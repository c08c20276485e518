"""Reads the image files of a request: a multipart form with fields of any name, or the body itself."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from starlette.datastructures import QueryParams, UploadFile
from starlette.requests import ClientDisconnect, Request

from fargate_service.errors import RequestError

MAX_TOP = 1000
RECORDED_FILES = "fargate.recorded_files"  # in the scope, if the request is recorded: a list for what to record


class Images(NamedTuple):
    """Files as they were sent; `are_several` means that the caller sent more than one and gets a list."""

    files: list[bytes]
    are_several: bool


async def read_images(request: Request, max_files: int) -> Images:
    """Returns the files of the request; raises RequestError 400 or 415 if there are none."""
    content_type = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        files = await _read_parts(request, max_files)
        return Images(files, len(files) > 1)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        image = await read_body(request)
        if not image:
            raise RequestError(400, "The request does not contain an image.")
        return Images([image], are_several=False)
    raise RequestError(
        415, f"Send an image file as multipart/form-data, image/* or application/octet-stream, not as {content_type}."
    )


async def read_body(request: Request) -> bytes:
    """Returns the body, and leaves none in `request`, which is in a reference cycle of Starlette's."""
    pieces: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


def parse_top(query: QueryParams) -> int | None:
    """Returns how many labels `?top=` requests; None: only the best one, without scores."""
    text = query.get("top")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:5]) <= MAX_TOP or len(text) > 4:
        raise RequestError(400, f"top must be a whole number from 1 to {MAX_TOP}.")
    return int(text)


async def _read_parts(request: Request, max_files: int) -> list[bytes]:
    # One more, because Starlette's message would not name the variable.
    async with request.form(max_files=max_files + 1, max_fields=100) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise RequestError(400, "The form does not contain a file; send at least one image.")
        if len(files) > max_files:
            raise RequestError(413, f"The form contains more than {max_files} files (MAX_IMAGES).")
        contents = [await file.read() for file in files]
    if (recorded := request.scope.get(RECORDED_FILES)) is not None:
        for file, content in zip(files, contents, strict=True):
            name, digest = (file.filename or "")[:256], hashlib.sha256(content).hexdigest()
            recorded.append({"name": name, "size": len(content), "sha256": digest})
    return contents
