# SPDX-License-Identifier: Apache-2.0
"""How far another class may overtake the label, over a box of features: what certified losses are made of.

Real bounds, evaluated in float32 and with gradient: to train by, and no certificate.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from linfdeploy.nets.net import LinfNet

__all__ = ["worst_in_box", "worst_logits"]


def worst_logits(
    net: LinfNet, features: torch.Tensor, labels: torch.Tensor, eps: float | torch.Tensor
) -> torch.Tensor:
    """Bounds `logit_j - logit_y` over the eps ball around the end of the distance part, with gradient.

    Every feature is 1-Lipschitz, so it moves by at most eps when the image does. A pure net has
    `logit_j - logit_y + 2 eps`; through a head the ball goes as intervals, and through its last layer as
    `W_j - W_y`.

    Source: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons",
    ICML 2021.

    Args:
        net: Any.
        features: (N, F) float32, of `net.features`; or images (N, C, H, W) in [0, 1], which are put through it.
        labels: (N,) int64.
        eps: In normalised pixels, not negative; a number, or a scalar on the device of the features.

    Returns:
        (N, classes) float32, upper bounds; 0 at the label itself. The label wins on the ball where all others are
        negative.
    """
    if features.ndim == 4:
        features = net.features(features)
    if net.head:
        return worst_in_box(net, features - eps, features + eps, labels)
    truth = features.gather(1, labels[:, None])
    return (truth - features + 2 * eps).scatter(1, labels[:, None], 0.0)


def worst_in_box(net: LinfNet, lower: torch.Tensor, upper: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Bounds `logit_j - logit_y` over boxes of features, with gradient.

    Takes memory for N times the size of the head's last layer.

    Args:
        net: Any.
        lower: (N, F) float32, lower ends.
        upper: (N, F) float32, upper ends.
        labels: (N,) int64.

    Returns:
        (N, classes) float32, upper bounds; 0 at the label itself.
    """
    if not net.head:
        return (upper.gather(1, labels[:, None]) - lower).scatter(1, labels[:, None], 0.0)
    *hidden, last = net.head
    for layer in hidden:
        lower, upper = layer.bounds(lower, upper)
    weight = last.scaled_weight
    difference = weight - weight[labels][:, None]
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    middle = F.linear(centre, weight, last.bias)
    spread = (difference.abs() @ radius[:, :, None])[:, :, 0]
    worst = middle - middle.gather(1, labels[:, None]) + spread
    return worst.scatter(1, labels[:, None], 0.0)
