"""FastAPI with orjson; `BENCH_DATAFRAME` gives the model a DataFrame with the names of its columns.

Tables are predicted in the event loop, which is faster here than FastAPI's threads, pictures in its threads.
"""

from __future__ import annotations

import io
import os
from typing import Any

import orjson
import pandas as pd
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool

from predictors import IS_PICTURE, LABELS, decode, load_network, load_table

app = FastAPI()


def respond(document: Any) -> Response:
    return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if IS_PICTURE:
    network = load_network()

    def label(image: bytes) -> str:
        return LABELS[network(decode(image)[None])[0].argmax()]

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        return respond({"label": await run_in_threadpool(label, await request.body())})

else:
    model = load_table()
    with_names = bool(os.environ.get("BENCH_DATAFRAME"))

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = await request.body()
        if request.headers["content-type"] == "text/csv":
            table = pd.read_csv(io.BytesIO(body))
            return respond({"predictions": model.predict(table if with_names else table.to_numpy())})
        split = orjson.loads(body)["dataframe_split"]
        rows = pd.DataFrame(split["data"], columns=split["columns"]) if with_names else split["data"]
        return respond({"predictions": model.predict(rows)})
