# SPDX-License-Identifier: Apache-2.0
"""The losses of the papers, as functions of logits and of worst margins.

A worst margin bounds `logit_j - logit_y` over the ball, see `linfdeploy.training.margins`; it is 0 at the label.
The scale multiplies the logits of a cross-entropy, and no margin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["ce_hinge_loss", "clean_margins", "clipped_hinge", "cross_entropy", "hinge", "mixture_loss"]


def clipped_hinge(logits: torch.Tensor, labels: torch.Tensor, eps: float | torch.Tensor) -> torch.Tensor:
    """Returns `mean_n max_j min(max(1 + (logit_j - logit_y) / (2 eps), 0), 1)` over the wrong classes j.

    0 where the margin is at least `2 eps`, 1 (and without gradient) where the image is misclassified.

    Args:
        logits: (N, classes) float32, in normalised pixels, without the scale.
        labels: (N,) int64.
        eps: In normalised pixels, positive; a number, or a scalar on the device of the logits.

    Returns:
        A scalar in [0, 1].
    """
    truth = logits.gather(1, labels[:, None])
    excess = (1 + (logits - truth) / (2 * eps)).clamp(0, 1)
    return excess.scatter(1, labels[:, None], 0.0).amax(1).mean()


def mixture_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    scale: torch.Tensor,
    eps: float | torch.Tensor,
    weight: float | torch.Tensor,
) -> torch.Tensor:
    """Returns `weight * cross_entropy(scale * logits, labels) + clipped_hinge(logits, labels, eps)`.

    Source: Zhang et al., "Boosting the Certified Robustness of l-infinity Distance Nets", ICLR 2022.

    Args:
        logits: (N, classes) float32, in normalised pixels.
        labels: (N,) int64.
        scale: One float32; learned through the cross-entropy alone.
        eps: In normalised pixels, positive; a number, or a scalar on the device of the logits.
        weight: The paper's lambda, in either form as well.

    Returns:
        A scalar.
    """
    return weight * F.cross_entropy(scale * logits, labels) + clipped_hinge(logits, labels, eps)


def clean_margins(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns `logit_j - logit_y`, (N, classes): the margins at eps = 0, negative where the label wins."""
    return logits - logits.gather(1, labels[:, None])


def hinge(margins: torch.Tensor, mix: float) -> torch.Tensor:
    """Returns `mix mean_n max_j max(margin_j, 0) + (1 - mix) mean_{n,j} max(margin_j, 0)`.

    The mean counts the label's own margin, which is 0. The second paper's code calls `1 - mix` what the first
    one's calls `mix`.

    Source: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons", ICML
    2021.

    Args:
        margins: (N, classes) float32, worst or clean; 0 at the label.
        mix: From 0 to 1.

    Returns:
        A scalar.
    """
    excess = margins.clamp(min=0)
    return mix * excess.amax(1).mean() + (1 - mix) * excess.mean()


def cross_entropy(margins: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns `mean_n log sum_j exp(margin_j - margin_y)`: of worst margins a bound of the loss over the ball.

    Args:
        margins: (N, classes) float32, worst or clean; 0 at the label.
        labels: (N,) int64.

    Returns:
        A scalar.
    """
    return F.cross_entropy(margins, labels)


def ce_hinge_loss(
    logits: torch.Tensor,
    worst: torch.Tensor,
    labels: torch.Tensor,
    scale: torch.Tensor,
    weight: float | torch.Tensor,
) -> torch.Tensor:
    """Returns `weight * cross_entropy(scale * logits, labels) + mean_n c_n max(0, max_j (1 + worst_j))`.

    j runs over the wrong classes; c is 1 where the image is classified correctly, else 0, and has no gradient.

    Source: Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
    Perspective", NeurIPS 2022.

    Args:
        logits: (N, classes) float32.
        worst: (N, classes) float32, worst margins.
        labels: (N,) int64.
        scale: One float32; learned through the cross-entropy alone.
        weight: The paper's lambda; a number, or a scalar on the device of the logits.

    Returns:
        A scalar.
    """
    scaled = scale * logits
    correct = scaled.argmax(1) == labels
    excess = (1 + worst).scatter(1, labels[:, None], 0.0).amax(1)
    return (correct * excess).mean() + weight * F.cross_entropy(scaled, labels)
