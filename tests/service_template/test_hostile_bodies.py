"""Requests that a caller is permitted to send, to the service's application in this process, with a small budget."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression

from fargate_service.batching.arrivals import Arrivals
from fargate_service.errors import RequestError
from fargate_service.http.middleware import App, BodyLimit
from fargate_service.http.routes import Routes
from fargate_service.memory.budget import MemoryBudget
from fargate_service.memory.measured import peak_bytes, return_freed_memory
from fargate_service.models.image_classifier import ImageClassifier
from fargate_service.models.loaded_model import Batching, ScoringResponse
from fargate_service.pyfunc.pyfunc_loading import load_pyfunc
from fargate_service.settings import ServiceDescription, Settings
from support.hostile_bodies import SECRET, csv_bodies, json_bombs, json_values
from support.hostile_images import FORMATS, black_png, hostile_images

MB = 10**6
BUDGET = 150 * MB
JSON = "application/json"


@contextmanager
def served(model: Any, folder: Path, template: str = "pyfunc", **settings: Any) -> Iterator[tuple[App, MemoryBudget]]:
    """Yields the routes of `model` behind the limits, and the budget."""
    if not (folder / "MLmodel").exists():
        (folder / "MLmodel").write_text("flavors: {}\n")
    description = ServiceDescription(template, "sklearn", None, "models:/m/1", "m", "1", None)
    chosen = Settings(folder, **settings)
    budget = MemoryBudget(wait_seconds=60)
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


HOSTILE = {name: (body, JSON) for name, body in json_bombs().items()} | {
    f"csv: {name}": (body, "text/csv") for name, body in csv_bodies().items()
}
HOSTILE |= {
    "csv of another encoding": ("a,b\n1,2".encode("utf-16"), "text/csv; charset=utf-16"),
    "parquet": (b"PAR1" + bytes(1000), "application/vnd.apache.parquet"),
    "another type": (b"x" * 1_000_000, "application/x-www-form-urlencoded"),
}
# As by MLflow: of a column that is there twice the first one counts, and further values are row labels.
ANSWERED = {"csv: a column twice", "csv: too many values", "csv: a number of many decimal places"}
if pd.__version__.startswith("2."):  # reads the number before it
    ANSWERED.add("csv: a zero in a field")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_is_refused_within_the_budget(table_service: tuple[App, MemoryBudget], name: str) -> None:
    app, budget = table_service
    body, content_type = HOSTILE[name]
    answers: list[tuple[int, Any]] = []

    risen = peak_bytes(lambda: answers.append(asyncio.run(send(app, body, content_type))))

    ((status, document),) = answers
    assert status in ((200,) if name in ANSWERED else (400, 413, 415)), (status, document)
    assert status == 200 or {"error_code", "message"} <= set(document)
    assert SECRET not in str(document)
    assert "Traceback" not in str(document)
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0


@pytest.mark.parametrize("form", json_values())
def test_a_hostile_value_is_answered_or_refused(table_service: tuple[App, MemoryBudget], form: str) -> None:
    app, budget = table_service
    answers = {name: asyncio.run(send(app, body, JSON)) for name, body in json_values()[form].items()}

    failures = {name: answer for name, answer in answers.items() if answer[0] not in (200, 400, 413)}
    assert not failures
    assert SECRET not in str(answers)
    assert "Traceback" not in str(answers)
    assert budget.used == 0


@pytest.mark.parametrize("name", ["wide characters", "a long name"])  # refused while parsing, and by the model
def test_a_refused_request_leaves_nothing_to_the_garbage_collector(
    table_service: tuple[App, MemoryBudget], name: str
) -> None:
    app, budget = table_service
    budget.open(1000 * MB)
    body = csv_bodies()[name]
    asyncio.run(send(app, body, "text/csv"))  # imports what the first one needs
    left = []
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for _ in range(3):
            before, _ = tracemalloc.get_traced_memory()
            assert asyncio.run(send(app, body, "text/csv"))[0] == 400
            # The thread can still be in a frame when its error is answered.
            deadline = time.monotonic() + 5
            while tracemalloc.get_traced_memory()[0] - before > MB and time.monotonic() < deadline:
                time.sleep(0.01)
            left.append(tracemalloc.get_traced_memory()[0] - before)
    finally:
        tracemalloc.stop()
        gc.enable()
        budget.open(BUDGET)

    assert max(left) < MB


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
    data = [[0.1234567890123456, 0.6543210987654321]] * 40_000
    body = json.dumps({"dataframe_split": {"columns": ["a", "b"], "data": data}}).encode()
    answers: list[Any] = []

    async def all_at_once() -> list[tuple[int, Any]]:
        return await asyncio.gather(*(send(app, body, JSON, announced=bool(number % 2)) for number in range(64)))

    risen = peak_bytes(lambda: answers.extend(asyncio.run(all_at_once())))

    assert {200} <= {status for status, _ in answers} <= {200, 503}
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
    assert used == 1000
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


# More than the memory of the service; which of the others have a picture is Pillow's to say.
TOO_LARGE = {
    *("1 x 20,000", "20,000 x 1", "1 x 49,000,000", "49 megapixels", "36 megapixels with transparency"),
    *("a header of 2**31 pixels", "a header of 50 megapixels without them", "65,535 x 65,535 without data"),
    *("16,000 x 3,000 without data", "12 megapixels, progressive", "32 megapixels", "32 megapixels, progressive"),
    *("32 megapixels without loss", "2**31 pixels"),
}
READABLE = {
    "12 megapixels",
    "stereo cameras",
    "on its side",
    "CMYK",
    "grayscale",
    "100 frames",
    "200 frames",
    "16 bits",
}


@pytest.mark.slow
@pytest.mark.parametrize("image_format", FORMATS)
def test_an_image_is_decoded_within_the_budget_or_refused(
    image_service: tuple[App, MemoryBudget], image_format: str
) -> None:
    app, budget = image_service
    images = hostile_images(image_format)
    answers: dict[str, tuple[int, Any]] = {}

    for name, image in images.items():
        risen = peak_bytes(lambda name=name, image=image: answers.update({name: label(app, image)}))
        assert risen is not None
        assert risen < BUDGET, name
        assert budget.used == 0

    assert {name: answer for name, answer in answers.items() if answer[0] not in (200, 400, 413)} == {}
    assert {name: answers[name] for name in TOO_LARGE & set(images) if answers[name][0] != 413} == {}
    assert {name: answers[name] for name in READABLE & set(images) if answers[name][0] != 200} == {}
    assert image_format != "others" or {answer[0] for answer in answers.values()} == {400}


def test_a_good_image_that_fits_is_labeled(image_service: tuple[App, MemoryBudget]) -> None:
    assert label(image_service[0], black_png(3000, 2000)) == (200, {"label": "dark"})


def label(app: App, image: bytes) -> tuple[int, Any]:
    return asyncio.run(send(app, image, "image/png", path="/predict_image"))


@pytest.mark.slow
def test_many_large_images_at_once_wait_for_each_other(image_service: tuple[App, MemoryBudget]) -> None:
    app, budget = image_service
    image = black_png(3000, 2500)
    answers: list[Any] = []

    async def all_at_once() -> list[tuple[int, Any]]:
        sent = (send(app, image, "image/png", path="/predict_image") for _ in range(16))
        return await asyncio.gather(*sent)

    risen = peak_bytes(lambda: answers.extend(asyncio.run(all_at_once())))

    assert [status for status, _ in answers] == [200] * 16
    assert risen is not None
    assert risen < BUDGET
    assert budget.used == 0
