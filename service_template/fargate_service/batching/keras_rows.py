"""Decides whether a Keras network is known to process each image of a batch independently.

Keras's built-in layers do, with `training=False`: BatchNormalization then uses the means it learned, and Dropout
passes everything through. Unknown are custom layers, Lambda and plain operations (`x - mean(x, axis=0)`), and layers
that the network itself calls with `training=True` (in Keras 3.15 the caller's False wins, but this code does not rely
on that), that carry state from one batch to the next, or that work along the batch axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fargate_service.batching.row_independence import library_of

_NETWORKS = frozenset({"Sequential", "Functional"})
_NAMES = """
InputLayer Dense Flatten Reshape Permute RepeatVector Conv1D Conv2D Conv3D Conv2DTranspose SeparableConv1D
SeparableConv2D DepthwiseConv1D DepthwiseConv2D MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D
AveragePooling2D AveragePooling3D GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D
UpSampling1D UpSampling2D BatchNormalization LayerNormalization GroupNormalization Dropout SpatialDropout1D
SpatialDropout2D GaussianDropout GaussianNoise AlphaDropout Activation ReLU LeakyReLU PReLU ELU Softmax Add Subtract
Multiply Average Maximum Minimum Concatenate Rescaling Resizing CenterCrop Normalization RandomFlip RandomRotation
RandomZoom RandomContrast RandomTranslation RandomBrightness
"""
_LAYERS = frozenset(_NAMES.split())
_AXES = frozenset({"axis", "axes"})


def why_network_alone(network: Any, keras: Any) -> str | None:
    """Returns why `network` is not known to process each image independently; None if it is."""
    for layer in _layers_of(network):
        kind = type(layer)
        is_listed = library_of(kind) == "keras" and kind.__name__ in _LAYERS | _NETWORKS
        if not is_listed or not _has_known_activation(layer, keras):
            return f"layer {layer.name} ({kind.__name__}) is not known to process each image independently"
    for name, value in _settings(network.get_config()):
        if name in ("training", "stateful") and value:
            return f"a layer has {name}=True and may not process each image independently"
        # Counted from the end, only the last axis is certainly not the batch axis.
        if name in _AXES and any(axis < -1 or axis == 0 for axis in _whole_numbers(value)):
            return "a layer works along the batch axis, or might"
        if name == "target_shape" and not value:
            return "a layer keeps only the batch axis"
    return None


def _layers_of(network: Any) -> Iterator[Any]:
    """Yields the network and all nested layers, including the plain operations of Keras 3, which `layers` omits."""
    yield network
    if type(network).__name__ in _NETWORKS:
        for layer in getattr(network, "operations", network.layers):
            yield from _layers_of(layer)


def _has_known_activation(layer: Any, keras: Any) -> bool:
    """Returns whether the activation is Keras's own or absent; a user's function can do anything."""
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(activation, keras.layers.Layer):
        return activation is None
    return getattr(keras.activations, getattr(activation, "__name__", ""), None) is activation


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Yields every key with its value, at any depth."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield name, value
            yield from _settings(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _settings(value)


def _whole_numbers(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [one for one in values if isinstance(one, int)]
