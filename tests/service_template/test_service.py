"""The complete service, run as in the image: a real Bento's source, a model directory, and `bentoml serve`."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from PIL import Image

from support.serving_process import KEY, Running, build, serve

pytestmark = pytest.mark.slow

LABELS = {"0": "buildings", "1": "forest", "2": "sea"}
SIDE = 20
# Logged as code, because another process loads it. Answers after the requested number of seconds; below 0 it fails.
SLOW_MODEL = """
import time
import mlflow

class Slow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep(float(model_input["seconds"].max()))
        return model_input["seconds"].tolist()

mlflow.models.set_model(Slow())
"""


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keras") / "model"
    # In a separate process: TensorFlow would stay in this one, with all its threads.
    code = f"""
import numpy as np, tensorflow as tf, mlflow.tensorflow
from mlflow.models import infer_signature
tf.keras.utils.set_random_seed(1)
layers = tf.keras.layers
model = tf.keras.Sequential([tf.keras.Input(({SIDE}, {SIDE}, 3)), layers.Conv2D(4, 2, activation="relu"),
                             layers.Flatten(), layers.Dense(3, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
images = np.random.default_rng(1).random((8, {SIDE}, {SIDE}, 3)).astype("float32")
model.fit(images, np.arange(8) % 3, epochs=1, verbose=0)
mlflow.tensorflow.save_model(model, {str(path)!r}, signature=infer_signature(images, model.predict(images, verbose=0)),
                             pip_requirements=["mlflow", "tensorflow-cpu"])
np.savez({str(path.parent / "expected.npz")!r}, images=images, scores=model.predict(images, verbose=0))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=300)
    return path


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pyfunc") / "model"
    code = path.parent / "slow_model.py"
    code.write_text(SLOW_MODEL)
    example = pd.DataFrame({"seconds": [0.0]})
    mlflow.pyfunc.save_model(path, python_model=str(code), input_example=example, pip_requirements=["mlflow", "pandas"])
    return path


@pytest.fixture(scope="module")
def classifier(keras_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("classifier")
    with serve(build(keras_model, folder, labels=LABELS), keras_model, folder, API_KEY=KEY, MAX_BODY_MB="1") as running:
        yield running


@pytest.fixture(scope="module")
def pyfunc(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    with serve(build(slow_model, folder), slow_model, folder, API_KEY=KEY) as running:
        yield running


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def image() -> bytes:
    return png(np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype="uint8"))


def test_the_walk_throughs_call_works_verbatim(classifier: Running, image: bytes) -> None:
    response = classifier.session.post(classifier.url + "/predict_image", files={"image": ("test_image", image)})

    assert response.status_code == 200
    assert list(response.json()) == ["label"]
    assert response.json()["label"] in LABELS.values()


def test_every_way_to_send_an_image_gives_the_same_label(classifier: Running, image: bytes) -> None:
    url, session = f"{classifier.url}/predict_image", classifier.session
    answers = [
        session.post(url, files={"any_name": image}),
        session.post(url, data=image, headers={"Content-Type": "image/png"}),
        session.post(url, data=image, headers={"Content-Type": "application/octet-stream"}),
        session.post(url, data=image),
        session.post(url.replace("/digits", ""), files={"image": image}),
    ]

    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.text for answer in answers}) == 1


def test_several_files_return_a_list_in_their_order(classifier: Running) -> None:
    pixels = [np.full((9, 9, 3), shade, dtype="uint8") for shade in (0, 120, 255)]
    url = f"{classifier.url}/predict_image"
    alone = [classifier.session.post(url, data=png(one)).json() for one in pixels]

    together = classifier.session.post(url, files=[(f"file{number}", png(one)) for number, one in enumerate(pixels)])

    assert together.json() == alone


def test_the_most_likely_labels_are_returned_with_their_scores(classifier: Running, image: bytes) -> None:
    answer = classifier.session.post(f"{classifier.url}/predict_image?top=2", data=image).json()

    assert len(answer["top"]) == 2
    assert answer["top"][0]["label"] == answer["label"]
    assert answer["top"][0]["score"] >= answer["top"][1]["score"]


@pytest.mark.parametrize("top", ["0", "-1", "many", "1e9", "9" * 5000, ""])
def test_an_invalid_number_of_labels_is_rejected(classifier: Running, image: bytes, top: str) -> None:
    response = classifier.session.post(f"{classifier.url}/predict_image", params={"top": top}, data=image)

    assert response.status_code == 400


def test_concurrent_requests_get_the_same_answers_as_single_ones(classifier: Running) -> None:
    shades = [png(np.full((9, 9, 3), shade, dtype="uint8")) for shade in range(0, 256, 8)]
    url = f"{classifier.url}/predict_image?top=3"
    alone = [classifier.session.post(url, data=one).json()["top"] for one in shades]

    with ThreadPoolExecutor(len(shades)) as clients:
        together = list(clients.map(lambda one: classifier.session.post(url, data=one).json()["top"], shades))

    for one, other in zip(alone, together, strict=True):
        assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
        assert np.allclose([entry["score"] for entry in one], [entry["score"] for entry in other], atol=1e-6)


def test_scores_are_those_of_keras(classifier: Running, keras_model: Path) -> None:
    expected = np.load(keras_model.parent / "expected.npz")

    response = classifier.session.post(f"{classifier.url}/invocations", json={"instances": expected["images"].tolist()})

    assert np.allclose(response.json()["predictions"], expected["scores"], atol=1e-6)


def test_the_label_is_that_of_the_highest_score(classifier: Running, image: bytes) -> None:
    resized = np.asarray(Image.open(io.BytesIO(image)).convert("RGB").resize((SIDE, SIDE))) / 255.0

    scores = classifier.session.post(f"{classifier.url}/invocations", json={"inputs": [resized.tolist()]}).json()
    label = classifier.session.post(f"{classifier.url}/predict_image", data=image).json()["label"]

    assert label == LABELS[str(np.argmax(scores["predictions"][0]))]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"data": b"no image", "headers": {"Content-Type": "image/png"}}, 400),
        ({"data": b"", "headers": {"Content-Type": "image/png"}}, 400),
        ({"files": {"a": b"x", "b": b"y"}}, 400),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}, 400),
        ({"json": {}}, 415),
        ({"data": {"a": "b"}}, 415),
        ({"data": b"x" * 1_000_001}, 413),
        ({"data": iter([b"x" * 500_000] * 3)}, 413),
    ],
)
def test_invalid_requests_are_rejected_in_json(classifier: Running, request_: Any, status: int) -> None:
    response = classifier.session.post(f"{classifier.url}/predict_image", **request_)

    assert response.status_code == status, response.text
    assert response.json()["message"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/ping", "/health"])
def test_health_checks_need_no_key(classifier: Running, path: str) -> None:
    assert requests.get(classifier.url + path, timeout=10).status_code == 200
    assert requests.get(classifier.url.replace("/digits", "") + path, timeout=10).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/swagger", "/docs.json", "/metrics", "/version", "/static_content/swagger-ui.css"]
)
def test_all_other_paths_need_the_key(classifier: Running, path: str) -> None:
    assert requests.get(classifier.url + path, timeout=10).status_code == 401
    assert classifier.session.get(classifier.url + path).status_code == 200


def test_the_swagger_page_loads_all_its_assets_below_the_prefix(classifier: Running) -> None:
    browser = requests.Session()
    browser.auth = ("any-user", KEY)  # as a browser that prompted for it
    home = browser.get(classifier.url)
    page = browser.get(f"{home.url}swagger")

    assert home.url == f"{classifier.url}/"
    assert './swagger"' in home.text and "<script" not in home.text
    assert "googletagmanager" not in page.text
    references = re.findall(r'(?:src|href)="(.*?)"', page.text)
    assert references
    for reference in set(references) - {"data:,"}:
        assert reference.startswith("./")
        assert browser.get(f"{home.url}{reference}").status_code == 200, reference
    script = browser.get(f"{home.url}static_content/swagger-initializer.js").text
    assert '"./docs.json"' in script


def test_the_openapi_document_names_routes_that_answer(classifier: Running) -> None:
    document = classifier.session.get(f"{classifier.url}/docs.json").json()

    assert document["info"]["version"] == "3"
    assert document["servers"] == [{"url": "."}]
    for path, methods in document["paths"].items():
        for method in methods:
            assert classifier.session.request(method, classifier.url + path).status_code not in (404, 405)


def test_metrics_count_only_known_routes(classifier: Running) -> None:
    classifier.session.get(f"{classifier.url}/wp-admin")
    metrics = classifier.session.get(f"{classifier.url}/metrics").text

    assert 'endpoint="/predict_image"' in metrics
    assert "wp-admin" not in metrics
    assert "/digits" not in metrics


def test_mlflows_protocol_is_answered(pyfunc: Running) -> None:
    response = pyfunc.session.post(f"{pyfunc.url}/invocations", json={"dataframe_records": [{"seconds": 0.0}]})

    assert response.json() == {"predictions": [0.0]}
    assert pyfunc.session.get(f"{pyfunc.url}/version").text == mlflow.__version__
    assert pyfunc.session.post(f"{pyfunc.url}/predict_image", data=b"x").status_code == 404


def test_predictions_are_measured_and_logged_like_other_requests(pyfunc: Running) -> None:
    for method in ("POST", "GET"):  # the second one takes BentoML's own layers, and is a 405
        pyfunc.session.request(method, f"{pyfunc.url}/invocations", data=b"{}", headers={"Content-Type": "text/x"})
    metrics = pyfunc.session.get(f"{pyfunc.url}/metrics").text
    series = {}
    for status in ("415", "405"):
        lines = [line.rpartition(" ")[0] for line in metrics.splitlines() if f'http_response_code="{status}"' in line]
        series[status] = [line.replace(status, "") for line in lines if 'endpoint="/invocations"' in line]
    content = r"type=[\w/]+,length=\d+"
    line = rf"^\S+ \[INFO\] \[\S+\] 127\S+ \(scheme=http,method=(\w+),path=/invocations,{content}\) "
    logged = re.findall(rf"{line}\(status=(\d+),{content}\) [\d.]+ms$", pyfunc.log.read_text(), re.MULTILINE)

    assert len(series["415"]) > 5
    assert series["415"] == series["405"]
    assert re.search(r'in_progress{endpoint="/invocations".*} 0.0', metrics)
    assert {("POST", "415"), ("GET", "405")} <= set(logged)


def test_a_response_arrives_in_one_piece(pyfunc: Running) -> None:
    address = urlsplit(pyfunc.url)
    body = b'{"dataframe_records": [{"seconds": 0.0}]}'
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nAuthorization: Bearer {KEY}\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        for expect in ("", "Expect: 100-continue\r\n"):
            connection.sendall(f"POST /digits/invocations HTTP/1.1\r\nHost: x\r\n{head}{expect}\r\n".encode())
            if expect:
                assert connection.recv(100_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(body)
            response = connection.recv(100_000)

            assert response.startswith(b"HTTP/1.1 200 OK\r\n")
            assert response.endswith(b'\r\n\r\n{"predictions": [0.0]}')


def test_a_request_without_a_content_type_is_415(pyfunc: Running) -> None:
    assert pyfunc.session.post(f"{pyfunc.url}/invocations", data=b"{}").status_code == 415


def test_a_failing_model_is_500_without_details(pyfunc: Running) -> None:
    response = pyfunc.session.post(f"{pyfunc.url}/invocations", json={"dataframe_records": [{"seconds": -1.0}]})

    assert response.status_code == 500
    assert "must be non-negative" not in response.text
    assert "must be non-negative" in pyfunc.log.read_text()


def test_a_long_prediction_does_not_delay_other_requests(pyfunc: Running) -> None:
    request = {"dataframe_records": [{"seconds": 5.0}]}
    long = threading.Thread(target=pyfunc.session.post, args=(f"{pyfunc.url}/invocations",), kwargs={"json": request})
    long.start()
    time.sleep(0.3)

    assert requests.get(f"{pyfunc.url}/readyz", timeout=10).status_code == 200
    assert long.is_alive()
    long.join()


def test_the_docs_show_the_models_input_example(pyfunc: Running) -> None:
    document = pyfunc.session.get(f"{pyfunc.url}/docs.json").json()
    body = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]

    assert pyfunc.session.post(f"{pyfunc.url}/invocations", json=body["example"]).status_code == 200


@pytest.mark.parametrize(
    ("beginning", "answer"),
    [
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Long: ", b"more than 64 KiB (MAX_HEADER_KB)"),
        (b"POST /invocations HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Trailer: ", b""),
    ],
)
def test_endless_headers_end_the_connection(pyfunc: Running, beginning: bytes, answer: bytes) -> None:
    address = urlsplit(pyfunc.url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(beginning)
        with suppress(ConnectionError):
            connection.sendall(b"x" * 600_000)
            while piece := connection.recv(1000):
                received += piece

    assert answer in received
    assert requests.get(f"{pyfunc.url}/ping", timeout=10).status_code == 200


@pytest.mark.parametrize(("sent", "answered"), [(10, range(10, 11)), (10_000, range(1_000))])
def test_a_connection_that_sends_many_requests_ahead_is_closed(pyfunc: Running, sent: int, answered: range) -> None:
    address = urlsplit(pyfunc.url)
    request = b"GET /ping HTTP/1.1\r\nHost: x\r\n"
    received = b""
    with (
        socket.create_connection((address.hostname, address.port), timeout=20) as connection,
        suppress(ConnectionError),
    ):
        connection.sendall((request + b"\r\n") * (sent - 1) + request + b"Connection: close\r\n\r\n")
        while piece := connection.recv(100_000):
            received += piece

    assert received.count(b"HTTP/1.1 200 OK") in answered
    assert requests.get(f"{pyfunc.url}/ping", timeout=10).status_code == 200


def test_requests_in_flight_are_finished_on_sigterm(slow_model: Path, tmp_path: Path) -> None:
    answers: list[requests.Response] = []
    with serve(build(slow_model, tmp_path), slow_model, tmp_path) as running:
        request = {"dataframe_records": [{"seconds": 3.0}]}
        url = f"{running.url}/invocations"
        thread = threading.Thread(target=lambda: answers.append(requests.post(url, json=request, timeout=30)))
        thread.start()
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        while (ready := requests.get(f"{running.url}/readyz", timeout=5).status_code) == 200:
            time.sleep(0.05)
        late = requests.post(url, json={"dataframe_records": [{"seconds": 0.0}]}, timeout=30)
        thread.join()
        code = running.process.wait(20)

    assert ready == 503
    assert late.headers["connection"] == "close"
    assert late.json() == {"predictions": [0.0]}  # sent by a client that does not know about the shutdown yet
    assert [answer.json() for answer in answers] == [{"predictions": [3.0]}]
    assert code == 0


def test_requests_that_cannot_finish_before_sigkill_get_503(slow_model: Path, tmp_path: Path) -> None:
    answers: list[requests.Response] = []
    with serve(build(slow_model, tmp_path), slow_model, tmp_path, STOP_TIMEOUT_SECONDS="4") as running:
        request = {"dataframe_records": [{"seconds": 50.0}]}
        url = f"{running.url}/invocations"
        thread = threading.Thread(target=lambda: answers.append(requests.post(url, json=request, timeout=60)))
        thread.start()
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)  # without waiting for the prediction
        thread.join()

    assert [answer.status_code for answer in answers] == [503]
    assert "shutting down" in answers[0].json()["message"]


@pytest.fixture(scope="module")
def narrow(slow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("narrow")
    limits = {"MAX_CONCURRENT_REQUESTS": "1", "REQUEST_TIMEOUT_SECONDS": "2", "MAX_HEADER_KB": "2"}
    limits |= {"MAX_JSON_LEVELS": "10"}
    with serve(build(slow_model, folder), slow_model, folder, **limits) as running:
        yield running


def test_headers_and_levels_of_json_have_the_limits_that_were_set(narrow: Running) -> None:
    headers = requests.post(f"{narrow.url}/invocations", headers={"X-Long": "x" * 3000}, timeout=10)
    deep = {"inputs": json.loads("[" * 10 + "]" * 10)}
    levels = requests.post(f"{narrow.url}/invocations", json=deep, timeout=10)

    assert (headers.status_code, levels.status_code) == (400, 400)
    assert headers.json()["message"] == "The request's headers have more than 2 KiB (MAX_HEADER_KB)."
    assert "more than 10 levels (MAX_JSON_LEVELS)" in levels.json()["message"]


# Last of these: the prediction goes on after its 504, and takes the only place.
def test_a_slow_request_is_504_and_one_too_many_is_503(narrow: Running) -> None:
    url = f"{narrow.url}/invocations"
    with ThreadPoolExecutor(1) as other:
        long = other.submit(requests.post, url, json={"dataframe_records": [{"seconds": 4.0}]}, timeout=30)
        time.sleep(0.5)
        refused = requests.post(url, json={"dataframe_records": [{"seconds": 0.0}]}, timeout=30)

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert requests.get(f"{narrow.url}/readyz", timeout=10).status_code == 200
    assert long.result().status_code == 504
    said = "Request processing time exceeded limit of 2 s (REQUEST_TIMEOUT_SECONDS)."
    assert long.result().json()["message"] == said


def test_a_model_that_cannot_be_loaded_stops_the_container(slow_model: Path, tmp_path: Path) -> None:
    with serve(build(slow_model, tmp_path), tmp_path / "nothing", tmp_path, ready=False) as running:
        code = running.process.wait(90)

    assert code != 0
    assert "nothing" in running.log.read_text()
