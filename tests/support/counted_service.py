"""The image's entry point with a model that writes down the number of rows of each call, in the file COUNTED_CALLS.

Run with `python -c` in the folder of the service's source, as the entry point itself is.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from fargate_service import serve
from fargate_service.models import loading

calls = Path(os.environ["COUNTED_CALLS"]).open("a", buffering=1, encoding="ascii")  # noqa: SIM115  # until the end
load_network, load_pyfunc = loading._load_network, loading._load_pyfunc


def counted(predict: Any) -> Any:
    def predict_and_count(data: Any, *args: Any, **kwargs: Any) -> Any:
        calls.write(f"{len(data)}\n")
        return predict(data, *args, **kwargs)

    return predict_and_count


def load_counted_network(*args: Any) -> Any:
    network = load_network(*args)
    return dataclasses.replace(network, predict=counted(network.predict))


def load_counted_pyfunc(*args: Any) -> Any:
    from fargate_service.pyfunc.table_batching import TableBatcher  # not needed for images

    call = TableBatcher._call

    def call_and_count(self: TableBatcher, rows: tuple[bool, Any]) -> Any:
        return counted(lambda _: call(self, rows))(rows[1])

    TableBatcher._call = call_and_count  # type: ignore[method-assign]
    return load_pyfunc(*args)


loading._load_network, loading._load_pyfunc = load_counted_network, load_counted_pyfunc
serve.main()
