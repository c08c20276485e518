"""Whether a Keras network is known to look at each image of a batch alone when it predicts.

Layers of Keras itself do, with `training=False`: a BatchNormalization then takes the means that it learned, a Dropout
lets all through. Not known are layers of the user's, Lambda and plain operations (`x - mean(x, axis=0)`), layers that
the network itself calls with `training=True` (in Keras 3.15 the caller's False wins, which is not counted on here),
that carry a state from one batch to the next, or that work along the axis of the batch.
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
    """What in `network` is not known to treat each image alone, in words; None when all of it is."""
    for layer in _layers_of(network):
        kind = type(layer)
        is_listed = library_of(kind) == "keras" and kind.__name__ in _LAYERS | _NETWORKS
        if not is_listed or not _has_known_activation(layer, keras):
            return f"layer {layer.name} ({kind.__name__}) is not known to treat each image alone"
    for name, value in _settings(network.get_config()):
        if name in ("training", "stateful") and value:
            return f"a layer has {name}=True and may not treat each image alone"
        # Counted from the end only the last axis is surely not the batch's.
        if name in _AXES and any(axis < -1 or axis == 0 for axis in _whole_numbers(value)):
            return "a layer works along the axis of the batch, or may"
        if name == "target_shape" and not value:
            return "a layer leaves no axis but the batch's"
    return None


def _layers_of(network: Any) -> Iterator[Any]:
    """The network, its layers and theirs; plain operations of Keras 3 too, which `layers` leaves out."""
    yield network
    if type(network).__name__ in _NETWORKS:
        for layer in getattr(network, "operations", network.layers):
            yield from _layers_of(layer)


def _has_known_activation(layer: Any, keras: Any) -> bool:
    """A function of the user's may be anything. `linear` is what Keras takes where none is given."""
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(activation, keras.layers.Layer):
        return activation is None
    return getattr(keras.activations, getattr(activation, "__name__", ""), None) is activation


def _settings(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, however deep."""
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
