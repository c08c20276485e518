"""Requests that a caller is permitted to send, to the service's application in this process, with a small budget."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from PIL import Image
from sklearn.linear_model import LogisticRegression

from fargate_service.batching.arrivals import Arrivals
from fargate_service.errors import RequestError
from fargate_service.http.middleware import App, BodyLimit
from fargate_service.http.routes import Routes
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.measured import peak_bytes, return_freed_memory
from fargate_service.models.image_classifier import ImageClassifier
from fargate_service.models.loaded_model import Batching, ScoringResponse
from fargate_service.models.pyfunc_model import load_pyfunc
from fargate_service.settings import ServiceDescription, Settings

MB = 10**6
BUDGET = 150 * MB
SECRET = "DE00 0000 0000"
JSON = "application/json"


@contextmanager
def served(model: Any, folder: Path, template: str = "pyfunc", **settings: Any) -> Iterator[tuple[App, MemoryBudget]]:
    """Yields the routes of `model` behind the limits, and the budget."""
    if not (folder / "MLmodel").exists():
        (folder / "MLmodel").write_text("flavors: {}\n")
    description = ServiceDescription(template, "sklearn", None, "models:/m/1", "m", "1", None)
    chosen = Settings(folder, **settings)
    budget = MemoryBudget(wait_seconds=5)
    budget.open(BUDGET)
    routes = Routes(description, chosen)
    routes.serve(model)
    try:
        yield BodyLimit(routes.app, chosen.max_body_bytes, budget), budget
    finally:
        routes.close()


async def send(
    app: App, body: bytes | list[bytes], content_type: str, *, path: str = "/invocations", announced: bool = True
) -> tuple[int, Any]:
    """Returns the status and the document of the response."""
    pieces = list(body) if isinstance(body, list) else [body]
    headers = [(b"content-type", content_type.encode())]
    if announced:
        headers.append((b"content-length", str(sum(map(len, pieces))).encode()))
    sent: list[Any] = []

    async def receive() -> Any:
        if not pieces:
            await asyncio.sleep(60)  # the client waits for the response
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def answer(message: Any) -> None:
        sent.append(message)

    method = "GET" if path == "/ping" else "POST"
    await app(
        {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": headers,
            "http_version": "1.1",
        },
        receive,
        answer,
    )
    content = b"".join(message.get("body", b"") for message in sent).decode()
    is_json = (b"content-type", b"application/json") in sent[0]["headers"] and content.strip()
    return sent[0]["status"], json.loads(content) if is_json else content


@pytest.fixture(scope="module")
def table_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, MemoryBudget]]:
    folder = tmp_path_factory.mktemp("model") / "linear"
    table = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [3.0, 2.0, 1.0, 0.0]})
    model = LogisticRegression().fit(table, [0, 0, 1, 1])
    mlflow.sklearn.save_model(
        model,
        folder,
        signature=infer_signature(table, [0, 1]),
        input_example=table,
        pip_requirements=["scikit-learn"],
        serialization_format="cloudpickle",
    )
    return_freed_memory()
    loaded = load_pyfunc(folder)
    loaded.warm_up()
    loaded.keep_room(BUDGET, 2)
    with served(loaded, folder, timeout_seconds=600) as service:  # on a busy machine
        yield service


def documents() -> dict[str, bytes]:
    """Returns hostile bodies in JSON; where a value is sent that could be repeated, it contains the secret."""
    sparse = [{f"{SECRET}{number}": 1} for number in range(16_000)]
    wide, short = [0] * 16_000, [[]] * 16_000
    rows = range(16_000)
    bodies = {
        "records with different keys": {"dataframe_records": sparse},
        "records of one wide row": {"dataframe_records": [wide, *short]},
        "split with different keys": {"dataframe_split": {"columns": ["a"], "data": sparse}},
        "split of one wide row": {"dataframe_split": {"data": [wide, *short]}},
        "split of one value": {"dataframe_split": {"index": wide, "columns": wide, "data": 1}},
        "split of one text": {"dataframe_split": {"index": wide, "columns": wide, "data": SECRET}},
        "split of nothing": {"dataframe_split": {"index": wide, "columns": wide, "data": []}},
        "split by column and row label": {"dataframe_split": {"data": {f"c{i}": {f"r{i}": 1} for i in rows}}},
        "instances with different keys": {"instances": sparse},
        "instances with one long text": {"instances": [*["a"] * 5000, SECRET * 10_000]},
        "inputs with one long text": {"inputs": {"a": [*["a"] * 5000, SECRET * 10_000], "b": [1.0]}},
        "nested inputs with one long text": {"inputs": [[["a"] * 5000], [[SECRET * 10_000]]]},
        "inputs with many keys": {"inputs": {f"k{i}": i for i in range(20_000)}},
        "records with many keys": {"dataframe_records": [{f"k{i}": i for i in range(80_000)}]},
        "ragged instances": {"instances": [[1.0], [1.0, 2.0], SECRET]},
        "wrong type of instances": {"instances": SECRET},
        "wrong type of split": {"dataframe_split": SECRET},
        "wrong type of records": {"dataframe_records": {"a": SECRET}},
        "records of records": {"dataframe_records": [{"a": {"b": SECRET}, "b": [SECRET]}]},
        "two forms": {"dataframe_records": sparse[:2], "inputs": SECRET},
    }
    raw = {
        "deep lists": b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "deep objects": b'{"inputs":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
        "deep lists in a record": b'{"dataframe_records":[{"a":' + b"[" * 500 + b"]" * 500 + b',"b":1}]}',
        "lists that are not closed": b"[" * 1_000_000,
        "a number of 5,000 digits": b'{"dataframe_records":[{"a":' + b"7" * 5000 + b',"b":1}]}',
        "a number of 400 digits": b'{"dataframe_records":[{"a":' + b"7" * 400 + b',"b":1}]}',
        "empty lists": b'{"inputs":[' + b"[]," * 2_000_000 + b"[]]}",
        "small objects": b'{"dataframe_records":[' + b'{"a":1},' * 500_000 + b'{"a":1}]}',
        "empty objects": b'{"instances":[' + b"{}," * 1_000_000 + b"{}]}",
        "many small numbers": b'{"dataframe_split":{"columns":["a","b"],"data":[' + b"[1,2]," * 1_500_000 + b"[1,2]]}}",
        "a comma for each byte": b"," * 15_000_000,
        "wide characters": b'{"inputs":["' + "\U0001f600".encode() * 4_500_000 + b'"]}',
        "escaped characters": b'{"inputs":["' + b"\\ud83d\\ude00" * 1_500_000 + b'"]}',
        "another encoding": b'{"dataframe_records":[{"a":1},'.decode().encode("utf-16") + b"\xff" * 100,
        "no encoding": b'{"inputs": "\xff\xfe"}',
        "a byte order mark only": b"\xef\xbb\xbf",
        "nothing": b"",
        "zeros": bytes(1_000_000),
    }
    return {name: json.dumps(document).encode() for name, document in bodies.items()} | raw


HOSTILE = {name: (body, JSON) for name, body in documents().items()} | {
    "csv with a wide header": (b"," * 20_000 + b"\n" + b"1\n" * 20_000, "text/csv"),
    "csv with a wide first row": (b"a\n" + b"," * 20_000 + b"\n" + b"1\n" * 20_000, "text/csv"),
    "csv with a wide quoted header": (b'"a\nb"' + b"," * 20_000 + b"\n" + b"1\n" * 20_000, "text/csv"),
    "csv with an open quote": (b'a,b\n"' + SECRET.encode() * 500_000, "text/csv"),
    "csv of line breaks": (b"a,b\n" + b"1\r" * 5_000_000, "text/csv"),
    "csv without columns": (b"\n" * 1_000_000, "text/csv"),
    "csv of wide characters": ("a,b\n" + "\U0001f600" * 2_000_000, "text/csv"),
    "csv of another encoding": ("a,b\n1,2".encode("utf-16"), "text/csv; charset=utf-16"),
    "parquet": (b"PAR1" + bytes(1000), "application/vnd.apache.parquet"),
    "another type": (b"x" * 1_000_000, "application/x-www-form-urlencoded"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_within_the_budget(table_service: tuple[App, MemoryBudget], name: str) -> None:
    app, budget = table_service
    body, content_type = HOSTILE[name]
    given = body.encode() if isinstance(body, str) else body
    answers: list[tuple[int, Any]] = []

    risen = peak_bytes(lambda: answers.append(asyncio.run(send(app, given, content_type))))

    ((status, document),) = answers
    assert status in (400, 413, 415), (status, document)
    assert isinstance(document, str) or {"error_code", "message"} <= set(document)  # MLflow's 415 is a text
    assert SECRET not in str(document)
    assert "Traceback" not in str(document)
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0


def test_a_good_request_is_answered(table_service: tuple[App, MemoryBudget]) -> None:
    app, budget = table_service
    rows = [{"a": 0.0, "b": 3.0}, {"a": 3.0, "b": 0.0}]

    assert asyncio.run(send(app, json.dumps({"dataframe_records": rows}).encode(), JSON)) == (
        200,
        {"predictions": [0, 1]},
    )
    assert budget.used == 0


def test_a_large_table_that_fits_is_answered_within_the_budget(table_service: tuple[App, MemoryBudget]) -> None:
    app, budget = table_service
    split = {"columns": ["a", "b"], "data": [[number / 7, 1.5] for number in range(60_000)]}
    body = json.dumps({"dataframe_split": split}).encode()
    answers: list[tuple[int, Any]] = []

    risen = peak_bytes(lambda: answers.append(asyncio.run(send(app, body, JSON))))

    assert answers[0][0] == 200, answers[0]
    assert len(answers[0][1]["predictions"]) == 60_000
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0


@pytest.mark.slow
def test_many_large_bodies_at_once_are_answered_or_told_to_come_later(table_service: tuple[App, MemoryBudget]) -> None:
    app, budget = table_service
    body = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": [[0.5, 1.5]] * 60_000}}).encode()
    answers: list[Any] = []

    async def all_at_once() -> list[tuple[int, Any]]:
        return await asyncio.gather(*(send(app, body, JSON, announced=bool(number % 2)) for number in range(64)))

    risen = peak_bytes(lambda: answers.extend(asyncio.run(all_at_once())))

    assert {status for status, _ in answers} == {200, 503}
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0


def test_a_body_that_grows_beyond_the_memory_is_refused_while_it_arrives(
    table_service: tuple[App, MemoryBudget],
) -> None:
    app, budget = table_service
    budget.open(10 * MB)
    try:
        status, document = asyncio.run(send(app, [b"x" * MB] * 20, JSON, announced=False))
    finally:
        budget.open(BUDGET)

    assert (status, budget.used) == (413, 0)
    assert "option memory" in document["message"]


class Slow:
    """A model whose prediction lasts until it is released."""

    version = "1"
    batching = Batching(False, "it is slow")

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.released = threading.Event()

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        self.released.wait(30)
        return ScoringResponse(200, "{}", JSON)


def until(true: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(500):
        if true():
            return
        deadline.wait(0.01)
    raise AssertionError("it did not become true")


def test_a_prediction_that_timed_out_keeps_its_memory_and_place_until_it_ends(tmp_path: Path) -> None:
    model = Slow()

    async def two(app: App) -> list[int]:
        late = await send(app, b"x" * 1000, JSON)
        refused = await send(app, b"x" * 1000, JSON)
        health = await send(app, b"", JSON, path="/ping")
        return [late[0], refused[0], health[0]]

    with served(model, tmp_path, timeout_seconds=1, max_concurrent_requests=1) as (app, budget):
        statuses = asyncio.run(two(app))
        used = budget.used
        model.released.set()
        until(lambda: budget.used == 0)
        again = asyncio.run(send(app, b"x", JSON))

    assert statuses == [504, 503, 200]
    assert used == 2000
    assert again[0] == 200


class Waiting(Slow):
    """A model that refuses all that it is given, once released; others would wait for what is on its way."""

    batching = Batching(True, "it is a test")

    def invoke(self, body: bytes, content_type: str) -> ScoringResponse:
        self.released.wait(30)
        raise RequestError(400, "The body is not valid JSON.")


def test_a_request_is_on_its_way_until_it_is_refused(tmp_path: Path) -> None:
    model = Waiting()

    with served(model, tmp_path) as (app, _):

        async def refused() -> tuple[int, int]:
            sent = asyncio.create_task(send(app, b"{", JSON))
            while not model.arrivals._coming:
                await asyncio.sleep(0.01)
            on_the_way = len(model.arrivals._coming)
            model.released.set()
            return on_the_way, (await sent)[0]

        assert asyncio.run(asyncio.wait_for(refused(), 30)) == (1, 400)
        until(lambda: not model.arrivals._coming)


# --- Images


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, channels: int = 3) -> bytes:
    """Returns a PNG file of black pixels: a thousandth of its size in memory."""
    header = struct.pack(">IIBBBBB", width, height, 8, {3: 2, 4: 6}[channels], 0, 0, 0)
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels)
    packed = [packer.compress(row) for _ in range(height)] if height < 20_000 else [packer.compress(row * height)]
    content = b"".join((*packed, packer.flush()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def of_format(image_format: str, size: tuple[int, int] = (50, 50), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, image_format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def image_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, MemoryBudget]]:
    def brightness(batch: np.ndarray) -> np.ndarray:
        light = batch.mean(axis=(1, 2, 3))
        return np.stack([1 - light, light], axis=1)

    model = ImageClassifier(
        brightness,
        (None, 64, 64, 3),
        {"0": "dark", "1": "light"},
        logged_with="3",
        batching=Batching(True, "known"),
    )
    model.warm_up()
    model.keep_room(BUDGET, 2)
    return_freed_memory()
    with served(model, tmp_path_factory.mktemp("images"), "image_classifier") as service:
        yield service


IMAGES = {
    "a pixel wide": (png(1, 20_000), 413),
    "a pixel high": (png(20_000, 1), 413),
    "more than the task's memory": (png(7000, 7000), 413),
    "with transparency": (png(6000, 6000, 4), 413),
    "WebP larger than the memory": (of_format("WEBP", (8000, 4000), method=0), 413),
    "JPEG larger than the memory": (of_format("JPEG", (8000, 4000)), 413),
    "GIF larger than the memory": (of_format("GIF", (8000, 4000)), 413),
    "BMP whose pixels are missing": (of_format("BMP", (3000, 1000))[:1000], 400),
    "JPEG that ends early": (of_format("JPEG", (500, 500))[:700], 400),
    "TIFF": (of_format("TIFF"), 400),
    "ICO": (of_format("ICO"), 400),
    "PPM with a long number": (b"P3 " + b"9" * 1_000_000 + b" 1 255 ", 400),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg' width='99999' height='99999'/>", 400),
    "a PNG in a ZIP": (b"PK\x03\x04" + png(1, 1), 400),
    "JPEG of stereo cameras": (of_format("MPO"), 200),
    "12 megapixels, which fit": (png(3000, 2000), 200),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_decoded_within_the_budget_or_refused(image_service: tuple[App, MemoryBudget], name: str) -> None:
    app, budget = image_service
    image, expected = IMAGES[name]
    answers: list[tuple[int, Any]] = []

    risen = peak_bytes(lambda: answers.append(asyncio.run(send(app, image, "image/png", path="/predict_image"))))

    assert answers[0][0] == expected, answers[0]
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0


@pytest.mark.slow
def test_many_large_images_at_once_wait_for_each_other(image_service: tuple[App, MemoryBudget]) -> None:
    app, budget = image_service
    image = png(3000, 2500)
    answers: list[Any] = []

    async def all_at_once() -> list[tuple[int, Any]]:
        sent = (send(app, image, "image/png", path="/predict_image") for _ in range(16))
        return await asyncio.gather(*sent)

    risen = peak_bytes(lambda: answers.extend(asyncio.run(all_at_once())))

    assert [status for status, _ in answers] == [200] * 16
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0
