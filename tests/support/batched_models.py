"""Models whose callers share predictions, with requests and the models' own answers.

    python -m support.batched_models FLAVOR NAME FOLDER COUNT SINGLE

saves a model as FOLDER/model, and as FOLDER/questions.json COUNT requests with several rows and SINGLE with one row.
Run in a separate process, because the libraries stay loaded.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from mlflow_fargate.bento import template_folder
from support.concurrent_callers import Question, ask_about_tables, make_tables, own_answer, save_questions

MOST_ROWS = 5
SIDE = 12
LABELS = {str(number): f"kind {number}" for number in range(4)}
GENERATOR = np.random.default_rng(2026)
TABLE = pd.DataFrame(GENERATOR.normal(size=(300, 4)), columns=["a", "b", "c", "d"])
NUMBERS = TABLE["a"] * 2 - TABLE["b"] * TABLE["c"] + TABLE["d"] ** 2
CLASSES = pd.qcut(NUMBERS, 20, labels=False)
QUERIES = np.repeat(np.arange(30), 10)
GRADES = pd.qcut(NUMBERS, 4, labels=False)


def save_sklearn(name: str, path: Path) -> pd.DataFrame:
    from sklearn.compose import make_column_transformer
    from sklearn.dummy import DummyRegressor
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    words = [f"{['red', 'green', 'blue'][one % 3]} {['car', 'boat'][one % 2]} {one}" for one in range(len(TABLE))]
    table = TABLE.assign(text=words, city=np.array(["Bern", "Rome", "Oslo"])[np.arange(len(TABLE)) % 3])
    columns = make_column_transformer(
        (TfidfVectorizer(), "text"), (OneHotEncoder(), ["city"]), remainder=StandardScaler()
    )
    models: dict[str, Any] = {
        "DummyRegressor": DummyRegressor(),
        "LinearRegression": LinearRegression(),
        "Pipeline": make_pipeline(StandardScaler(), LogisticRegression()),
        "RandomForestClassifier": RandomForestClassifier(30, random_state=0),
        "HistGradientBoostingRegressor": HistGradientBoostingRegressor(max_iter=20),
        "ColumnTransformer": make_pipeline(columns, Ridge()),
    }
    table = table if name == "ColumnTransformer" else TABLE
    model = models[name]
    method = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    model.fit(table, CLASSES if method == "predict_proba" else NUMBERS)
    mlflow.sklearn.save_model(
        model,
        path,
        pyfunc_predict_fn=method,
        input_example=table.head(2),
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    return table


def save_xgboost(name: str, path: Path) -> pd.DataFrame:
    import xgboost

    model: Any
    if name == "Booster":
        model = xgboost.train({"max_depth": 4}, xgboost.DMatrix(TABLE, NUMBERS), 20)
    elif name == "XGBRanker":
        model = xgboost.XGBRanker(n_estimators=20).fit(TABLE, GRADES, qid=QUERIES)
    else:
        model = getattr(xgboost, name)(n_estimators=20)
        model.fit(TABLE, CLASSES if "Classifier" in name else NUMBERS)
    mlflow.xgboost.save_model(model, path, input_example=TABLE.head(2), pip_requirements=["xgboost"])
    return TABLE


def save_lightgbm(name: str, path: Path) -> pd.DataFrame:
    import lightgbm

    options = {"min_data_in_leaf": 2, "verbose": -1}
    model: Any
    if name == "Booster":
        model = lightgbm.train(options, lightgbm.Dataset(TABLE, NUMBERS), 20)
    elif name == "LGBMRanker":
        model = lightgbm.LGBMRanker(n_estimators=20, **options).fit(TABLE, GRADES, group=[10] * 30)
    else:
        model = getattr(lightgbm, name)(n_estimators=20, **options)
        model.fit(TABLE, CLASSES if "Classifier" in name else NUMBERS)
    mlflow.lightgbm.save_model(
        model, path, input_example=TABLE.head(2), serialization_format="cloudpickle", pip_requirements=["lightgbm"]
    )
    return TABLE


def save_catboost(name: str, path: Path) -> pd.DataFrame:
    import catboost

    options = {"iterations": 20, "verbose": False, "allow_writing_files": False}
    kind = getattr(catboost, name)
    model: Any = kind(options) if name == "CatBoost" else kind(**options)
    if name == "CatBoostRanker":
        model.fit(TABLE, GRADES, group_id=QUERIES)
    else:
        model.fit(TABLE, CLASSES if "Classifier" in name else NUMBERS)
    mlflow.catboost.save_model(model, path, input_example=TABLE.head(2), pip_requirements=["catboost"])
    return TABLE


def save_onnx(_: str, path: Path) -> pd.DataFrame:
    """Saves a linear model together with its conversion, written by hand: converters are tested elsewhere."""
    from onnx import TensorProto, helper
    from sklearn.linear_model import LinearRegression

    sys.path.insert(0, str(template_folder()))
    from fargate_service.models.onnx_answer import AnswerForm
    from fargate_service.models.onnx_loading import save_onnx as save_conversion

    model = LinearRegression().fit(TABLE, np.c_[NUMBERS, TABLE["a"] - TABLE["b"]])
    mlflow.sklearn.save_model(
        model, path, input_example=TABLE.head(2), serialization_format="cloudpickle", pip_requirements=["scikit-learn"]
    )
    weights, constant = model.coef_.T.astype("float32"), model.intercept_.astype("float32")
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["rows", "weights"], ["products"]),
            helper.make_node("Add", ["products", "constant"], ["scores"]),
        ],
        "linear",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel()),
            helper.make_tensor("constant", TensorProto.FLOAT, constant.shape, constant),
        ],
    )
    # Both versions are old enough for onnxruntime; onnx writes newer ones by default.
    converted = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_conversion(converted.SerializeToString(), AnswerForm(why_alone=None), path)
    return TABLE


def save_keras(path: Path) -> None:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(len(LABELS), activation="softmax"),
        ]
    )
    images = GENERATOR.random((8, SIDE, SIDE, 3)).astype("float32")
    signature = mlflow.models.infer_signature(images, network.predict(images, verbose=0))
    mlflow.tensorflow.save_model(network, path, signature=signature, pip_requirements=["tensorflow"])


def ask_about_images(model: Any, count: int, *, most_rows: int, as_files: bool) -> list[Question]:
    questions = []
    for rows in GENERATOR.integers(1, most_rows + 1, count).tolist():
        pixels = GENERATOR.integers(0, 256, (rows, SIDE, SIDE, 3), dtype="uint8")
        images = (pixels / 255.0).astype("float32")
        scores = own_answer(model, images)
        if as_files:
            questions.append(_ask_about_file(pixels[0], scores[0]))
        else:
            body = json.dumps({"inputs": images.tolist()}).encode()
            questions.append(Question(body, rows, scores))
    return questions


def _ask_about_file(pixels: np.ndarray, scores: list[float]) -> Question:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    best = sorted(enumerate(scores), key=lambda one: -one[1])
    top = [{"label": LABELS[str(number)], "score": score} for number, score in best]
    answer = {"label": top[0]["label"], "top": top}
    return Question(file.getvalue(), 1, answer, f"/predict_image?top={len(LABELS)}", "image/png")


TABLE_FLAVORS: dict[str, Callable[[str, Path], pd.DataFrame]] = {
    "sklearn": save_sklearn,
    "xgboost": save_xgboost,
    "lightgbm": save_lightgbm,
    "catboost": save_catboost,
    "onnx": save_onnx,
}


def main(flavor: str, name: str, folder: Path, count: int, single: int) -> None:
    path = folder / "model"
    table = TABLE_FLAVORS[flavor](name, path) if flavor in TABLE_FLAVORS else save_keras(path)
    model = mlflow.pyfunc.load_model(str(path))
    questions: list[Question] = []
    for number, most_rows in ((count, MOST_ROWS), (single, 1)):
        if table is None:
            rows = 1 if name == "files" else most_rows
            questions += ask_about_images(model, number, most_rows=rows, as_files=name == "files")
        else:
            questions += ask_about_tables(model, make_tables(table, number, most_rows=most_rows, seed=most_rows))
    save_questions(questions, folder / "questions.json")


if __name__ == "__main__":
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
