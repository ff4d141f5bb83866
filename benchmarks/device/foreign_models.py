"""Writes int8 .tflite files as TensorFlow's converter makes them: `python foreign_models.py FOLDER`.

Run by `benchmarks.device.foreign` in an environment that has TensorFlow; it imports nothing of this project.
Weights and the statistics of norms are random: what counts is that arithmetic agrees.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

SAMPLES = 64


def main() -> None:
    """One file a network; float inputs and outputs where its name says so."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, network) in NETWORKS.items():
        keras.utils.set_random_seed(0)
        inputs = keras.Input(shape, batch_size=1)
        model = keras.Model(inputs, network(inputs))
        randomise(model)
        (folder / f"{name}.tflite").write_bytes(
            converted(model, shape, float_ends=name.endswith("float_ends"))
        )


def randomise(model: Any) -> None:
    """Give norms statistics and parameters of their own, biases values."""
    chance = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            n = layer.get_weights()[0].shape
            gamma, beta, mean = (
                chance.uniform(0.6, 1.4, n),
                chance.normal(0, 0.3, n),
                chance.normal(0, 0.3, n),
            )
            layer.set_weights([gamma, beta, mean, chance.uniform(0.5, 2.0, n)])
        elif len(weights := layer.get_weights()) > 1:
            weights[-1] = chance.normal(0, 0.2, weights[-1].shape)
            layer.set_weights(weights)


def converted(model: Any, shape: tuple[int, ...], *, float_ends: bool) -> bytes:
    """Post-training quantization, integers throughout."""
    chance = np.random.default_rng(1)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [chance.normal(size=(1, *shape)).astype(np.float32)] for _ in range(SAMPLES)
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    if not float_ends:
        converter.inference_input_type = converter.inference_output_type = tf.int8
    data: bytes = converter.convert()
    return data


def _conv(x: Any, filters: int, size: int = 3, stride: int = 1, activation: str = "relu") -> Any:
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def _separable(x: Any, filters: int, stride: int = 1) -> Any:
    x = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(x)
    return _conv(layers.ReLU(6.0)(layers.BatchNormalization()(x)), filters, 1)


def mobilenet(x: Any) -> Any:
    """MobileNetV1 at a quarter of its width, to two classes (the visual wake word network of MLPerf Tiny)."""
    x = _conv(x, 8, stride=2)
    for filters, stride in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ):
        x = _separable(x, filters, stride)
    return layers.Softmax()(layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def keyword_spotter(x: Any) -> Any:
    """DS-CNN to twelve words."""
    x = layers.Conv2D(64, (10, 4), 2, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(4):
        x = _separable(x, 64)
    return layers.Softmax()(layers.Dense(12)(layers.Flatten()(layers.AveragePooling2D((25, 5))(x))))


def resnet(x: Any) -> Any:
    """ResNet8 to ten classes."""
    x = _conv(x, 16)
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.BatchNormalization()(
            layers.Conv2D(filters, 3, padding="same")(_conv(x, filters, 3, stride))
        )
        if stride != 1:
            x = layers.Conv2D(filters, 1, stride, padding="same")(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    return layers.Softmax()(layers.Dense(10)(layers.Flatten()(layers.AveragePooling2D(8)(x))))


def autoencoder(x: Any) -> Any:
    """Dense autoencoder."""
    for size in (64, 64, 8, 64, 64):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(size)(x)))
    return layers.Dense(160)(x)


def u_net(x: Any) -> Any:
    """Two steps down, two steps up, joined; one probability a pixel."""
    a = _conv(x, 8)
    b = _conv(layers.MaxPooling2D()(a), 16)
    x = _conv(layers.MaxPooling2D()(b), 24)
    x = _conv(layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(x), b]), 16)
    x = _conv(layers.Concatenate()([layers.Resizing(32, 32, interpolation="nearest")(x), a]), 8)
    return layers.Conv2D(1, 1, activation="sigmoid")(x)


def mixture(x: Any) -> Any:
    """Activations and tensor operations that the others leave out."""
    x = _conv(x, 12, activation="hard_swish")
    a, b = x[:, :, :, :6], x[:, :, :, 6:]
    gate = layers.Activation("tanh")(layers.Conv2D(6, 3, padding="same")(a))
    x = layers.Multiply()([gate, layers.LeakyReLU(negative_slope=0.2)(b)])
    x = layers.Subtract()([layers.PReLU(shared_axes=[1, 2])(x), a])
    x = layers.ZeroPadding2D(1)(layers.MaxPooling2D(2)(x))
    x = layers.Permute((3, 1, 2))(x)
    return layers.Dense(5)(layers.Flatten()(x))


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "mobilenet": ((96, 96, 3), mobilenet),
    "keyword_spotter": ((49, 10, 1), keyword_spotter),
    "resnet": ((32, 32, 3), resnet),
    "autoencoder": ((160,), autoencoder),
    "u_net": ((32, 32, 1), u_net),
    "mixture": ((12, 12, 3), mixture),
    "mixture_float_ends": ((12, 12, 3), mixture),
}


if __name__ == "__main__":
    main()
