"""A small model of each flavor that is tested, logged as users log it.

    python -m tests.support.flavor_models FLAVOR

logs it and prints, as JSON, its URI, a request for `/invocations` and the model's own prediction for it. Run in a
separate process, because the libraries stay loaded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.models.model import ModelInfo

from .wheels import write_wheel

GENERATOR = np.random.default_rng(2026)
TABLE = pd.DataFrame(GENERATOR.random((40, 3)), columns=["a", "b", "c"])
TARGET = (TABLE["a"] + TABLE["b"] > 1).astype(int)
SHOWN = TABLE.head(3)


def log_sklearn() -> ModelInfo:
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=5).fit(TABLE, TABLE["a"] * TABLE["b"])
    return mlflow.sklearn.log_model(model, name="model", input_example=SHOWN, serialization_format="cloudpickle")


def log_tensorflow() -> ModelInfo:
    import tensorflow as tf

    rows = SHOWN.to_numpy("float32")
    model = tf.keras.Sequential([tf.keras.Input((3,)), tf.keras.layers.Dense(4, "relu"), tf.keras.layers.Dense(2)])
    signature = infer_signature(rows, model.predict(rows, verbose=0))
    return mlflow.tensorflow.log_model(model, name="model", signature=signature, input_example=rows)


def log_lightgbm() -> ModelInfo:
    import lightgbm

    rows = lightgbm.Dataset(TABLE, TABLE["a"] * TABLE["b"])
    model = lightgbm.train({"min_data_in_leaf": 2, "verbose": -1}, rows, num_boost_round=5)
    return mlflow.lightgbm.log_model(model, name="model", input_example=SHOWN)


def log_catboost() -> ModelInfo:
    import catboost

    model = catboost.CatBoostClassifier(iterations=5, verbose=False, allow_writing_files=False).fit(TABLE, TARGET)
    return mlflow.catboost.log_model(model, name="model", input_example=SHOWN)


def log_prophet() -> ModelInfo:
    import prophet

    days = pd.DataFrame({"ds": pd.date_range("2026-01-01", periods=60), "y": np.arange(60.0)})
    model = prophet.Prophet(uncertainty_samples=0).fit(days)
    return mlflow.prophet.log_model(model, name="model", input_example=days[["ds"]].tail(2))


def log_shap() -> ModelInfo:
    """Logs an explainer, which is deployed with `-f shap` only."""
    import shap
    from sklearn.linear_model import LogisticRegression

    explainer = shap.Explainer(LogisticRegression().fit(TABLE.to_numpy(), TARGET), TABLE.to_numpy())
    return mlflow.shap.log_explainer(explainer, name="model", serialize_model_using_mlflow=False, input_example=SHOWN)


def log_xgboost() -> ModelInfo:
    import xgboost

    model = xgboost.XGBClassifier(n_estimators=5).fit(TABLE, TARGET)
    return mlflow.xgboost.log_model(model, name="model", input_example=SHOWN)


def log_statsmodels() -> ModelInfo:
    import statsmodels.api

    model = statsmodels.api.OLS(TABLE["c"], TABLE[["a", "b"]]).fit()
    return mlflow.statsmodels.log_model(model, name="model", input_example=SHOWN[["a", "b"]])


def log_onnx() -> ModelInfo:
    from onnx import TensorProto, helper

    weights = GENERATOR.random((3, 2)).astype("float32")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["rows", "weights"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel())],
    )
    # Both versions are old enough for onnxruntime; onnx writes newer ones by default.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return mlflow.onnx.log_model(model, name="model", input_example=SHOWN.to_numpy("float32"))


def log_pyfunc() -> ModelInfo:
    """Logs a model from custom code: two files that exist only with the model."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "house_rules").mkdir()
        (folder / "house_rules" / "__init__.py").write_text("def weigh(table):\n    return table.sum(axis=1) * 3\n")
        (folder / "weighing.py").write_text(
            "import mlflow\nfrom house_rules import weigh\n\n\n"
            "class Weighing(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input, params=None):\n"
            "        return weigh(model_input)\n\n\n"
            "mlflow.models.set_model(Weighing())\n"
        )
        sys.path.insert(0, name)
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(folder / "weighing.py"),
            code_paths=[str(folder / "house_rules")],
            input_example=SHOWN,
        )


def log_pyfunc_with_a_wheel() -> ModelInfo:
    """Logs a model whose requirements name a wheel that exists only with the model."""
    with tempfile.TemporaryDirectory() as name:
        code = "def weigh(table):\n    return table.sum(axis=1) * 3\n"
        wheel = write_wheel(Path(name, "scales-1.0-py3-none-any.whl"), files={"scales.py": code})
        sys.path.insert(0, str(wheel))
        (Path(name) / "weighing.py").write_text(
            "import mlflow\nfrom scales import weigh\n\n\n"
            "class Weighing(mlflow.pyfunc.PythonModel):\n"
            "    def predict(self, context, model_input, params=None):\n"
            "        return weigh(model_input)\n\n\n"
            "mlflow.models.set_model(Weighing())\n"
        )
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(name, "weighing.py")),
            code_paths=[str(wheel)],
            extra_pip_requirements=[f"code/{wheel.name}"],
            input_example=SHOWN,
        )


def log_spacy() -> ModelInfo:
    """Logs a blank pipeline that distinguishes two kinds of texts; downloads nothing."""
    import spacy
    from spacy.training import Example

    texts = {"sea and sand": 1.0, "waves and sand": 1.0, "tax and law": 0.0, "law and court": 0.0}
    pipeline = spacy.blank("en")
    pipeline.add_pipe("textcat").add_label("beach")
    pipeline.get_pipe("textcat").add_label("office")
    lessons = [
        Example.from_dict(pipeline.make_doc(text), {"cats": {"beach": beach, "office": 1 - beach}})
        for text, beach in texts.items()
    ]
    optimizer = pipeline.initialize(lambda: lessons)
    for _ in range(20):
        pipeline.update(lessons, sgd=optimizer)
    example = pd.DataFrame({"text": ["sand", "court"]})
    return mlflow.spacy.log_model(pipeline, name="model", input_example=example)


def log_transformers() -> ModelInfo:
    """Logs a text classifier with random weights; downloads nothing."""
    import torch
    import transformers

    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sea", "sand", "tax", "law"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(words))
        tokenizer = transformers.BertTokenizerFast.from_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    pipeline = transformers.pipeline(
        "text-classification", model=transformers.BertForSequenceClassification(config), tokenizer=tokenizer
    )
    return mlflow.transformers.log_model(
        pipeline,
        name="model",
        input_example=["sea and sand"],
        pip_requirements=[f"transformers=={transformers.__version__}", f"torch=={torch.__version__}"],
    )


def log_pytorch() -> ModelInfo:
    import torch

    rows = SHOWN.to_numpy("float32")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    signature = infer_signature(rows, model(torch.from_numpy(rows)).detach().numpy())
    return mlflow.pytorch.log_model(model, name="model", signature=signature, input_example=rows)


# What must be installed in addition to what every test needs.
LIBRARIES: dict[str, str | None] = {
    "sklearn": None,
    "pyfunc": None,
    "pyfunc_with_a_wheel": None,
    "tensorflow": None,
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "prophet": "prophet",
    "statsmodels": "statsmodels",
    "onnx": "onnx",
    "spacy": "spacy",
    "pytorch": "torch",
    "transformers": "transformers",
}


_CPU_BUILD = (
    "PyPI's PyTorch for x86-64 brings 3 GB of CUDA; install its CPU build, and name its index in PYTORCH_INDEX "
    "(docs/packages.md)"
)
# Why a library is not installed.
WHY_NOT = {"torch": _CPU_BUILD, "transformers": _CPU_BUILD}
# Options that deployments of these flavors need.
OPTIONS = {
    flavor: {"extra_index_urls": os.environ.get("PYTORCH_INDEX", "https://download.pytorch.org/whl/cpu")}
    for flavor in ("pytorch", "transformers")
}


def make_request(example: Any) -> dict[str, Any]:
    if isinstance(example, pd.DataFrame):
        shown = example.apply(lambda column: column.astype(str) if column.dtype.kind == "M" else column)
        return {"dataframe_split": {"columns": list(shown.columns), "data": shown.to_numpy().tolist()}}
    return {"inputs": np.asarray(example).tolist()}


def main(flavor: str) -> None:
    log: Callable[[], ModelInfo] = globals()[f"log_{flavor}"]
    mlflow.set_experiment("flavors")
    with mlflow.start_run():
        logged = log()
    model = mlflow.pyfunc.load_model(logged.model_uri)
    example = model.input_example
    predicted = mlflow.pyfunc.scoring_server.predictions_to_json
    with tempfile.TemporaryFile("w+") as file:
        predicted(model.predict(example), file)
        file.seek(0)
        expected = json.load(file)["predictions"]
    print(json.dumps({"uri": logged.model_uri, "request": make_request(example), "expected": expected}))


if __name__ == "__main__":
    main(sys.argv[1])
