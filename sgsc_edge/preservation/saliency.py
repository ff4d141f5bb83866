"""Saliency: how strongly a decision rests on what the model sees, one figure a sample.

With a convolution of activations ``A`` [c, positions] and the logit ``y`` of the decided class, Grad-CAM is

    L = ReLU(sum_c alpha_c A_c),   alpha_c = mean over positions of dy/dA_c

(Selvaraju et al., arXiv 1610.02391, equations 1 and 2; the convolution's output, in front of its activation
function), and the *intensity* is the mean of L over positions. Without a convolution the penultimate features
``f`` take its place with ReLU(sum_j f_j dy/df_j), gradient times activation: the same formula for
channels of one position. Zero means that nothing speaks for the decision.

Of a language model ``y`` is the sum of the decided logits of its labelled next tokens, ``f`` the features of
each token, and the intensity the mean of ReLU(sum_j f_j dy/df_j) over the labelled ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sgsc_edge.errors import ModelError

# How torch.autograd words it when the decision does not depend on the layer.
_NO_GRADIENT = ("appears to not have been used in the graph", "does not require grad")

Saliency = Callable[[Tensor], Tensor]
"""Inputs [n, ...] to intensities float32 [n]; runs the scored function once."""


def grad_cam(score: Callable[[Tensor], Tensor], layer: nn.Module, name: str) -> Saliency:
    """Grad-CAM intensity at a convolution; ``score`` maps inputs [n, ...] to one figure a sample [n]."""
    from captum.attr import LayerGradCam

    attribution = LayerGradCam(score, layer)

    def intensity(inputs: Tensor) -> Tensor:
        maps = _attributed(attribution, name, inputs, relu_attributions=True)  # [n, 1, *positions]
        return maps.flatten(1).mean(1)

    return intensity


def gradient_times_activation(score: Callable[[Tensor], Tensor], layer: nn.Module, name: str) -> Saliency:
    """Gradient times activation of a layer's input, for models without a convolution."""
    from captum.attr import LayerGradientXActivation

    attribution = LayerGradientXActivation(score, layer)

    def intensity(inputs: Tensor) -> Tensor:
        products = _attributed(attribution, name, inputs, attribute_to_layer_input=True)  # [n, ..., features]
        return products.flatten(1).sum(1).relu()

    return intensity


def gradient_times_activation_by_token(
    score: Callable[[Tensor], Tensor], layer: nn.Module, name: str, *, at_output: bool
) -> Saliency:
    """Gradient times activation at each token, summed over them: of a layer's output, or of its input."""
    from captum.attr import LayerGradientXActivation

    attribution = LayerGradientXActivation(score, layer)

    def intensity(inputs: Tensor) -> Tensor:
        products = _attributed(attribution, name, inputs, attribute_to_layer_input=not at_output)  # [n, T, d]
        return products.sum(-1).relu().sum(1)

    return intensity


def _attributed(attribution: Any, name: str, inputs: Tensor, **options: bool) -> Tensor:
    try:
        with torch.enable_grad():
            result: Tensor = attribution.attribute(inputs, **options)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _NO_GRADIENT):
            raise
        raise ModelError(
            f"no gradient reaches layer '{name}'",
            where="preservation.layer",
            remedy="name another convolution, or remove no_grad and detach from the forward pass",
        ) from error
    return result.detach()
