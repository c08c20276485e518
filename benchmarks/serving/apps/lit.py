"""LitServe with batches of up to 32 requests."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve
import numpy as np

from predictors import IS_PICTURE, LABELS, decode, load_network, load_table


class Peer(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = load_network() if IS_PICTURE else load_table()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # a type would be a query's
        return decode(base64.b64decode(request["image"])) if IS_PICTURE else np.asarray(request["rows"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[Any]:
        if IS_PICTURE:
            return [LABELS[one] for one in self.model(np.stack(inputs)).argmax(axis=1)]
        answers = self.model.predict(np.concatenate(inputs))
        return np.split(answers, np.cumsum([len(one) for one in inputs])[:-1])

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> Any:
        return {"label": output} if IS_PICTURE else {"predictions": output.tolist()}


if __name__ == "__main__":
    api = Peer(max_batch_size=32, batch_timeout=0.005)
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning"
    )
