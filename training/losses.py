# SPDX-License-Identifier: Apache-2.0
"""The loss of the papers: cross-entropy that finds a way, a clipped hinge that certifies."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["clipped_hinge", "mixture_loss"]


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
