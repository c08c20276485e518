"""The same with TensorFlow, whose models take arrays: python -m examples.train_and_deploy_tensorflow

First: pip install tensorflow-cpu scikit-learn. For images with labels, see examples/image_classifier.
"""

import mlflow
import tensorflow as tf
from mlflow.models import infer_signature
from sklearn.datasets import load_digits

import mlflow_fargate

MODEL = "numerals"

if __name__ == "__main__":
    drawings, digits = load_digits(return_X_y=True)
    drawings = (drawings / 16).astype("float32").reshape(-1, 8, 8, 1)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    mlflow.set_experiment(MODEL)
    with mlflow.start_run():
        history = model.fit(drawings, digits, epochs=5, verbose=0).history
        mlflow.log_metric("accuracy", history["accuracy"][-1])
        # MLflow does not infer a network's signature, and without one the service would not know the array's type.
        signature = infer_signature(drawings[:2], model.predict(drawings[:2], verbose=0))
        logged = mlflow.tensorflow.log_model(
            model, name="model", signature=signature, input_example=drawings[:2], registered_model_name=MODEL
        )
    deployment = mlflow_fargate.deploy(logged, name=MODEL)
    mlflow_fargate.promote(MODEL, deployment.version)
    print(deployment.url)
    print([max(range(10), key=scores.__getitem__) for scores in deployment.predict(drawings[:2])["predictions"]])
