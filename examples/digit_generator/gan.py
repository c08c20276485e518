"""A small GAN of dense layers, plain or conditional, and its training data: scikit-learn's digits, enlarged."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

NOISE = 100
SIDE = 28
BATCH_SIZE = 64


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Returns images (n, 28, 28, 1) in 0..1 and their digits (n, 1)."""
    digits = load_digits()
    enlarged = [np.asarray(Image.fromarray(one.astype("float32")).resize((SIDE, SIDE))) for one in digits.images]
    pictures = np.clip(np.stack(enlarged) / 16, 0, 1).astype("float32")[..., np.newaxis]
    return pictures, digits.target.astype("int32")[:, np.newaxis]


def make_generator(*, conditional: bool) -> keras.Model:
    """Returns a network: noise (100), and a digit if conditional → an image."""
    noise = keras.Input((NOISE,), name="noise")
    inputs, features = _with_label(noise, noise, conditional=conditional)
    features = keras.layers.Dense(256, activation="leaky_relu")(features)
    features = keras.layers.BatchNormalization()(features)
    features = keras.layers.Dense(512, activation="leaky_relu")(features)
    drawn = keras.layers.Dense(SIDE * SIDE, activation="sigmoid")(features)
    return keras.Model(inputs, keras.layers.Reshape((SIDE, SIDE, 1))(drawn))


def make_critic(*, conditional: bool) -> keras.Model:
    """Returns a network: an image, and a digit if conditional → how real it looks."""
    picture = keras.Input((SIDE, SIDE, 1), name="picture")
    inputs, features = _with_label(picture, keras.layers.Flatten()(picture), conditional=conditional)
    for width in (512, 256):
        features = keras.layers.Dense(width, activation="leaky_relu")(features)
        features = keras.layers.Dropout(0.3)(features)
    return keras.Model(inputs, keras.layers.Dense(1)(features))


def train_gan(*, conditional: bool, epochs: int, seed: int = 1) -> tuple[keras.Model, dict[str, float]]:
    """Trains and returns a generator, with the last losses of both networks."""
    keras.utils.set_random_seed(seed)
    pictures, digits = read_digits()
    generator, critic = make_generator(conditional=conditional), make_critic(conditional=conditional)
    draws, judges = keras.optimizers.Adam(2e-4, beta_1=0.5), keras.optimizers.Adam(2e-4, beta_1=0.5)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)

    @tf.function
    def step(real: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        noise = tf.random.normal((tf.shape(real)[0], NOISE))
        with tf.GradientTape() as of_generator, tf.GradientTape() as of_critic:
            drawn = generator(_inputs(noise, labels, conditional=conditional), training=True)
            says_real = critic(_inputs(real, labels, conditional=conditional), training=True)
            says_drawn = critic(_inputs(drawn, labels, conditional=conditional), training=True)
            fooled = loss(tf.ones_like(says_drawn), says_drawn)
            wrong = loss(tf.ones_like(says_real), says_real) + loss(tf.zeros_like(says_drawn), says_drawn)
        for side, tape, amount, optimizer in (
            (generator, of_generator, fooled, draws),
            (critic, of_critic, wrong, judges),
        ):
            gradients = tape.gradient(amount, side.trainable_variables)
            optimizer.apply_gradients(zip(gradients, side.trainable_variables, strict=True))
        return fooled, wrong

    data = tf.data.Dataset.from_tensor_slices((pictures, digits)).shuffle(len(pictures), seed=seed)
    for _ in range(epochs):
        for real, labels in data.batch(BATCH_SIZE, drop_remainder=True):
            fooled, wrong = step(real, labels)
    return generator, {"generator_loss": float(fooled), "critic_loss": float(wrong)}


def _with_label(first: object, features: object, *, conditional: bool) -> tuple[object, object]:
    if not conditional:
        return first, features
    label = keras.Input((1,), dtype="int32", name="label")
    told = keras.layers.Flatten()(keras.layers.Embedding(10, 50)(label))
    return [first, label], keras.layers.Concatenate()([features, told])


def _inputs(first: object, labels: object, *, conditional: bool) -> object:
    return [first, labels] if conditional else first
