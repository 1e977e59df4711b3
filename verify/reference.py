# SPDX-License-Identifier: Apache-2.0
"""The checkpoint before deployment: its own predictions, and sound certificates of the real net it stands for.

The certificates are computed with the checkpoint's weights in pixels, rounded to float32 but not snapped. That
moves the real net by at most the sum of the layers' weight and bias roundings, and of what the centre in front of
convolutions was rounded by; evaluating it rounds by at most `rounding_error`. All goes into `slack`, so each
certificate holds for the real net of the checkpoint itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from linfdeploy.engines.base import Images
from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.files import sha256_of
from linfdeploy.nets.checkpoint import load_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.onnx.chain import Centre, Chain
from linfdeploy.onnx.export import pixel_net_from_chain
from linfdeploy.onnx.mlp_head import MlpHead
from linfdeploy.onnx.passes.fold import fold_head, fold_normalization, folding_error
from linfdeploy.onnx.passes.ranges import LayerRange, rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet, Precision
from linfdeploy.onnx.sorting import real_net_from_chain
from linfdeploy.onnx.trace import chain_from_net
from linfdeploy.report.model import ReferenceFacts
from linfdeploy.verify.certificates import Flags, certified_by_margin, exact_margins, separated
from linfdeploy.verify.determinism import run_batched
from linfdeploy.verify.head import REAL, head_gaps
from linfdeploy.verify.threat import box_of

__all__ = ["Reference", "load_reference"]

BATCH = 512

FOLDED = replace(REAL, operand=2.0**-52)
"""The real head, whose weights were divided by the unit of its features in float64."""


@dataclass(frozen=True)
class Reference:
    """A checkpoint that an engine is held against.

    Attributes:
        net: In evaluation mode at p = inf.
        facts: For the report.
    """

    net: LinfNet
    facts: ReferenceFacts

    def exported(self, precision: Precision, grid: int | None) -> PixelNet:
        """Returns what the checkpoint exports to.

        Raises:
            ExportError: It cannot be exported so.
        """
        return pixel_net_from_chain(self._chain, precision, grid)

    def predictions(self, images: Images) -> npt.NDArray[np.int64]:
        """Returns the labels, (N,) int64, that the torch net gives to uint8 images."""
        labels = [self._label(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return np.concatenate(labels)

    def certified(self, images: Images, levels: int) -> tuple[Flags, Flags]:
        """Certifies the real net of the checkpoint, by margin and by interval.

        Guarantees that no image within `levels` pixels, clipped to [0, 255], gets another label than
        the real net gives to the image.

        Returns:
            Flags by margin and by interval, each (N,).
        """
        net = self._real_net()
        slack = rounding_error(net, ranges := value_ranges(net)) + _weight_rounding(ranges)
        slack += Fraction(folding_error(self._chain)) + _centre_rounding(self._chain, net)
        if net.head is not None:
            return self._certified_head(net, images, levels, float(slack) * (1 + 2.0**-40))
        evaluator = ReferenceEngine(net)
        logits = run_batched(evaluator, images)
        lower, upper = evaluator.bounds(*box_of(images, levels))
        # Doubled, which covers the rounding of the float64 difference.
        interval = separated(lower, upper, logits.argmax(1), slack=float(4 * slack))
        return certified_by_margin(exact_margins(logits), levels, slack), interval

    def _real_net(self) -> PixelNet:
        return real_net_from_chain(self._chain) if self.net.sorts else self.exported("fp32", None)

    def _certified_head(self, net: PixelNet, images: Images, levels: int, slack: float) -> tuple[Flags, Flags]:
        """As `certified`: the real head on real features, which lie within `slack` pixels of the evaluator's."""
        # Folded in float64, by a division: one rounding more than the head has.
        weights, biases = zip(*fold_head(fold_normalization(self._chain)), strict=True)
        head = MlpHead(weights, biases, "tanh")
        labels = run_batched(ReferenceEngine(net), images).argmax(1)
        evaluator = ReferenceEngine(net.distances)
        at, box = evaluator.bounds(images, images), evaluator.bounds(*box_of(images, levels))
        found = []
        for (low, high), wider in ((at, levels + slack), (box, slack)):
            ends = -high.astype(np.float64) - wider, -low.astype(np.float64) + wider
            outward = np.nextafter(ends[0], -np.inf), np.nextafter(ends[1], np.inf)
            found.append(head_gaps(head, outward, labels, FOLDED) > 0)
        return found[0], found[1]

    @cached_property
    def _chain(self) -> Chain:
        return chain_from_net(self.net)

    def _label(self, images: Images) -> npt.NDArray[np.int64]:
        with torch.no_grad():
            logits = self.net(torch.from_numpy(np.ascontiguousarray(images)).float() / 255)
        labels: npt.NDArray[np.int64] = logits.argmax(1).numpy()
        return labels


def load_reference(path: Path) -> Reference:
    """Reads the checkpoint to hold an engine against.

    Raises:
        CheckpointError: The file is unreadable or no checkpoint.
    """
    checkpoint = load_checkpoint(path)
    return Reference(checkpoint.net, ReferenceFacts(str(path), sha256_of(path.read_bytes())))


def _centre_rounding(chain: Chain, net: PixelNet) -> Fraction:
    """Bounds how far rounding the centre moves the real net's logits, in pixels: what is beside images moves."""
    step = fold_normalization(chain).steps[0]
    if not isinstance(step, Centre) or net.centre is None:
        return Fraction(0)
    moved = float(np.abs(step.offset - net.centre.astype(np.float64)).max())
    return Fraction(moved) * (1 + Fraction(1, 2**50))


def _weight_rounding(ranges: Sequence[LayerRange]) -> Fraction:
    """Bounds how far rounding the folded constants to float32 moves the real net's logits, in pixels."""
    # The constants of `ranges` are rounded already: 2^-23 covers the half ulp of what they were.
    return sum((Fraction(layer.weight) + Fraction(layer.bias) for layer in ranges), Fraction(0)) / 2**23
