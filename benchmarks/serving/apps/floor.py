"""The bare work, in a loop in one process: parse or decode, and predict.

python floor.py BODY MEDIA_TYPE AT_A_TIME SECONDS     prints how many per second, and the median in milliseconds
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from predictors import IS_PICTURE, decode, load_network, load_table


def make_run(body: bytes, media_type: str, count: int) -> Callable[[], object]:
    if IS_PICTURE:
        network = load_network()
        return lambda: network(np.stack([decode(body) for _ in range(count)])).argmax(axis=1)
    model = load_table()
    if media_type == "text/csv":
        return lambda: model.predict(pd.concat([pd.read_csv(io.BytesIO(body)) for _ in range(count)]))

    def rows() -> pd.DataFrame:
        splits = [orjson.loads(body)["dataframe_split"] for _ in range(count)]
        return pd.DataFrame([row for one in splits for row in one["data"]], columns=splits[0]["columns"])

    return lambda: model.predict(rows())


def main(file: str, media_type: str, count: int, seconds: float) -> None:
    run = make_run(Path(file).read_bytes(), media_type, count)
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    print(len(times) * count / sum(times), 1000 * statistics.median(times))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
