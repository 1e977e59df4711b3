# SPDX-License-Identifier: Apache-2.0
"""FAB-T of Croce and Hein 2020: to the linearised boundary with a target class, and back towards the image.

FAB looks for the smallest change; here each iterate is also clipped into the box and judged there. It steps to
where the linearisation is 0, so it needs gradients that say more than one pixel: it follows the l_p surrogate.
"""

from __future__ import annotations

import torch

from linfdeploy.onnx.pixel_net import PIXEL_MAX
from linfdeploy.verify.attacks.twin import Best, Boxes, Twin, margins

__all__ = ["fab", "linf_projection"]

# The paper's constants: overshoot, step back from the boundary, the largest pull towards the image.
OVERSHOOT = 1.05
BACK = 0.9
PULL = 0.1


def fab(twin: Twin, boxes: Boxes, targets: torch.Tensor, p: float, steps: int) -> torch.Tensor:
    """Looks for the boundary with each target class, (N,).

    Args:
        twin: What is attacked.
        boxes: Where.
        targets: (N,) classes.
        p: Of the surrogate; infinity for the net itself.
        steps: How many.

    Returns:
        (N, I) the best whole-numbered points on the way, as the twin sees them at p = inf.
    """
    best, rows = Best(twin, boxes), torch.arange(len(boxes))

    def lead(logits: torch.Tensor) -> torch.Tensor:
        return logits[rows, targets] - logits[rows, boxes.labels]

    x = boxes.centre
    for _ in range(steps):
        _, value, gradient = twin.gradient(x, p, lead)
        # The hyperplane is  gradient . z = offset.
        offset = (gradient * x).sum(1) - value
        here, home = (linf_projection(z, gradient, offset) for z in (x, boxes.centre))
        near, far = here.abs().amax(1), home.abs().amax(1)
        pull = (near / (near + far).clamp(min=1e-6)).clamp(max=PULL)[:, None]
        x = (1 - pull) * (x + OVERSHOOT * here) + pull * (boxes.centre + OVERSHOOT * home)
        x = x.clamp(0, PIXEL_MAX)
        best.offer(x)
        across = margins(twin.logits(x), boxes.labels) < 0
        x = torch.where(across[:, None], boxes.centre + BACK * (x - boxes.centre), x)
    return best.x


def linf_projection(x: torch.Tensor, normal: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Returns the smallest change, in l_inf, that brings points onto hyperplanes within [0, 255].

    Where none does, the change that comes nearest.

    Args:
        x: (N, I), in pixels.
        normal: (N, I) of the hyperplanes `normal . z = offset`.
        offset: (N,).
    """
    gap = offset - (normal * x).sum(1)
    # Every pixel moves by the same amount in the direction that closes the gap, until it meets an end.
    direction = normal.sign() * gap.sign()[:, None]
    room = torch.where(direction > 0, PIXEL_MAX - x, x)
    room, order = room.sort(1)
    weight = normal.abs().gather(1, order)
    spent = (weight * room).cumsum(1)
    left = weight.sum(1, keepdim=True) - weight.cumsum(1)
    reached = spent + room * left
    first = (reached < gap.abs()[:, None]).sum(1, keepdim=True)
    zero = torch.zeros_like(gap)[:, None]
    spent, left = torch.cat([zero, spent], 1), torch.cat([weight.sum(1, keepdim=True), left], 1)
    move = (gap.abs()[:, None] - spent.gather(1, first)) / left.gather(1, first).clamp(min=1e-12)
    move = torch.where(first < x.shape[1], move, torch.full_like(move, PIXEL_MAX)).clamp(0, PIXEL_MAX)
    ends = torch.where(direction > 0, PIXEL_MAX - x, x)
    return direction * torch.minimum(move, ends)
