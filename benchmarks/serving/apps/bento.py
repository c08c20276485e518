"""Plain BentoML; `BENCH_BATCHABLE` turns its batching on."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import numpy as np

from predictors import IS_PICTURE, LABELS, decode, load_network, load_table

BATCHES = (
    {"batchable": True, "max_batch_size": 32, "max_latency_ms": 60_000} if os.environ.get("BENCH_BATCHABLE") else {}
)

if IS_PICTURE:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Peer:
        def __init__(self) -> None:
            self.network = load_network()

        @bentoml.api(**BATCHES)
        def predict(self, image: list[Path] if BATCHES else Path) -> list[str] if BATCHES else str:
            files = image if BATCHES else [image]
            scores = self.network(np.stack([decode(file.read_bytes()) for file in files]))
            labels = [LABELS[one] for one in scores.argmax(axis=1)]
            return labels if BATCHES else labels[0]

else:

    @bentoml.service(workers=1, traffic={"timeout": 60})
    class Peer:
        def __init__(self) -> None:
            self.model = load_table()

        @bentoml.api(**BATCHES)
        def predict(self, rows: np.ndarray) -> np.ndarray:
            return self.model.predict(rows)
