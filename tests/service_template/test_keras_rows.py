"""Which Keras networks are known to process each image of a batch independently."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mlflow_fargate.bento import template_folder

pytestmark = pytest.mark.slow

# Each network, and whether its answers to a batch equal those to each image (the oracle).
CODE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, tensorflow as tf
from fargate_service.batching.keras_rows import why_network_alone

keras, L = tf.keras, tf.keras.layers
keras.utils.set_random_seed(1)
images = np.random.default_rng(1).random((5, 32, 32, 3)).astype("float32")

def ends(*layers):
    return keras.Sequential([keras.Input((32, 32, 3)), *layers, L.Flatten(), L.Dense(3, activation="softmax")])

def network(make):
    image = keras.Input((32, 32, 3))
    return keras.Model(image, L.Dense(3)(L.Flatten()(make(image))))

class Mine(L.Conv2D):
    pass

networks = {
    "plain": ends(L.Rescaling(2.0), L.RandomFlip(), L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(),
                  L.MaxPooling2D(), L.Dropout(0.5), L.GaussianNoise(0.5)),
    "joined": network(lambda x: L.Concatenate()([L.Conv2D(2, 3, padding="same")(x), x])),
    "nested": ends(keras.Sequential([keras.Input((32, 32, 3)), L.Conv2D(2, 3)])),
    "application": keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3),
    "training": network(lambda x: L.BatchNormalization()(x, training=True)),
    "drawn": network(lambda x: L.Dropout(0.5)(x, training=True)),
    "operation": network(lambda x: x - keras.ops.mean(x, axis=0)),
    "lambda": network(L.Lambda(lambda x: x - tf.reduce_mean(x, axis=0), output_shape=(32, 32, 3))),
    "activation": network(L.Activation(lambda x: x - tf.reduce_mean(x, axis=0))),
    "softmax": network(L.Softmax(axis=0)),
    "softmax from the end": network(L.Softmax(axis=-4)),
    "subclass": ends(Mine(2, 3)),
    "subclass inside": ends(keras.Sequential([keras.Input((32, 32, 3)), Mine(2, 3)])),
}
found = {}
for name, net in networks.items():
    together = net(images, training=False).numpy()
    alone = np.concatenate([net(images[i : i + 1], training=False).numpy() for i in range(len(images))])
    found[name] = [why_network_alone(net, keras), bool(np.allclose(together, alone, atol=1e-5))]
print(json.dumps(found))
"""


def test_only_networks_of_built_in_keras_layers_are_known() -> None:
    # In a separate process: TensorFlow would stay in this one, with all its threads.
    command = [sys.executable, "-c", CODE, str(template_folder())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])

    known = {name for name, (why, _) in found.items() if why is None}

    assert known == {"plain", "joined", "nested", "application"}
    same = {name for name, (_, is_same) in found.items() if is_same}
    assert known <= same
    assert not same & {"operation", "lambda", "activation", "softmax", "softmax from the end"}
