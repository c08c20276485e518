"""Trains and saves the models and the bodies: `python make_models.py FOLDER SERVICE_TEMPLATE`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import joblib
import mlflow
import numpy as np
import onnx
import pandas as pd
import tensorflow as tf
from mlflow.models import infer_signature
from onnx import TensorProto, helper
from PIL import Image
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

SIDE = 100
COLUMNS = {"linear": 10, "wide": 30, "forest": 10, "xgboost": 10}
# A picture as text in a column, which is how MLflow's server takes one, with the same compiled network.
PICTURES_AS_TEXT = """
import base64, os, sys
import mlflow, numpy as np, pandas as pd

class Labels(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        os.environ["BENCH_MODEL"] = {model!r}
        sys.path.insert(0, {apps!r})
        import predictors
        self.predictors, self.network = predictors, predictors.load_network()

    def predict(self, context, model_input, params=None):
        images = [self.predictors.decode(base64.b64decode(one)) for one in model_input["image"]]
        return [self.predictors.LABELS[one] for one in self.network(np.stack(images)).argmax(axis=1)]

mlflow.models.set_model(Labels())
"""


def main(folder: Path, template: Path) -> None:
    for name, columns in COLUMNS.items():
        save_table(name, columns, folder / name)
    network = save_network(folder / "tensorflow")
    save_converted(network, folder / "onnx", template)
    for name in ("tensorflow", "onnx"):
        save_as_text(folder / name)
    save_bodies(folder)


def save_table(name: str, columns: int, path: Path) -> None:
    rows, classes = make_classification(2000, columns, random_state=1)
    table = pd.DataFrame(rows, columns=[f"c{number}" for number in range(columns)])
    linear = make_pipeline(StandardScaler(), LogisticRegression())
    model = {"forest": RandomForestClassifier(100, random_state=1), "xgboost": XGBClassifier()}.get(name, linear)
    model.fit(table, classes)
    options = {"signature": infer_signature(table, model.predict(table)), "pip_requirements": ["mlflow"]}
    if name == "xgboost":
        mlflow.xgboost.save_model(model, path, input_example=table.head(2), **options)
        model.save_model(path / "peer.json")
    else:
        mlflow.sklearn.save_model(
            model, path, input_example=table.head(2), serialization_format="cloudpickle", **options
        )
        joblib.dump(model, path / "peer.joblib")
    for count, suffix in ((1, "row"), (1000, "rows")):
        part = table.head(count)
        split = {"columns": list(part.columns), "data": part.to_numpy().tolist()}
        (path / f"{suffix}.json").write_text(json.dumps({"dataframe_split": split}), encoding="utf-8")
        part.to_csv(path / f"{suffix}.csv", index=False)


def save_network(path: Path) -> Any:
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input((SIDE, SIDE, 3)),
            layers.Conv2D(64, 2, activation="relu"),
            layers.Flatten(),
            layers.Dense(6, activation="softmax"),
        ]
    )
    images = np.zeros((1, SIDE, SIDE, 3), "float32")
    signature = infer_signature(images, network.predict(images, verbose=0))
    mlflow.tensorflow.save_model(network, path, signature=signature, pip_requirements=["mlflow"])
    return network


def save_converted(network: Any, path: Path, template: Path) -> None:
    """Writes the conversion by hand, as a converter would: NHWC, float32."""
    sys.path.insert(0, str(template))
    from fargate_service.models.onnx_answer import AnswerForm
    from fargate_service.models.onnx_loading import save_onnx

    mlflow.tensorflow.save_model(network, path, pip_requirements=["mlflow"])
    kernel, bias, weights, constant = (one.numpy() for one in network.weights)
    tensors = {"kernel": kernel.transpose(3, 2, 0, 1), "bias": bias, "weights": weights, "constant": constant}
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Transpose", ["images"], ["channels"], perm=[0, 3, 1, 2]),
            node("Conv", ["channels", "kernel", "bias"], ["filtered"]),
            node("Relu", ["filtered"], ["positive"]),
            node("Transpose", ["positive"], ["pixels"], perm=[0, 2, 3, 1]),
            node("Flatten", ["pixels"], ["flat"]),
            node("MatMul", ["flat", "weights"], ["products"]),
            node("Add", ["products", "constant"], ["sums"]),
            node("Softmax", ["sums"], ["scores"], axis=-1),
        ],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [None, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 6])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(one), name) for name, one in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    save_onnx(model.SerializeToString(), AnswerForm(why_alone=None), path)


def save_as_text(path: Path) -> None:
    code = path / "as_text.py"
    apps = str(Path(__file__).parent)
    code.write_text(PICTURES_AS_TEXT.replace("{model!r}", repr(str(path))).replace("{apps!r}", repr(apps)))
    mlflow.pyfunc.save_model(path / "as_text", python_model=str(code), pip_requirements=["mlflow"])


def save_bodies(folder: Path) -> None:
    random = np.random.default_rng(1)
    small = Image.fromarray(random.integers(0, 256, (15, 15, 3), dtype="uint8")).resize((150, 150))
    small.save(folder / "picture.png")
    # 12 megapixels, as from a phone: upright only with its EXIF orientation.
    large = Image.fromarray(random.integers(0, 256, (300, 400, 3), dtype="uint8")).resize((4000, 3000))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    large.save(file, "JPEG", quality=85, exif=exif)
    (folder / "phone.jpeg").write_bytes(file.getvalue())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
