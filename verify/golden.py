# SPDX-License-Identifier: Apache-2.0
"""Golden images of an edge bundle: which to choose, and whether an engine answers their bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from linfdeploy.engines.base import Answers, Engine, Logits
from linfdeploy.engines.bundle.golden import PROBE, Golden, GoldenImages, answer_all
from linfdeploy.onnx.passes.ranges import rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PixelNet
from linfdeploy.report.model import GoldenFacts, Violation
from linfdeploy.verify.conformance import ulp_distance
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.summary import TestSet

__all__ = ["check_golden", "golden_images"]

PROBED_IMAGES = 64
"""Images of the data set whose boxes are probed; each family of probes has as many, or 256."""


def golden_images(net: PixelNet, data: TestSet, levels: int, seed: int) -> GoldenImages:
    """Returns the images of a data set, followed by the probes of the conformance test.

    Args:
        net: For which some of the probes are made.
        data: Labelled images.
        levels: Half the width of the boxes of which the corners are probed.
        seed: Of the random images.
    """
    families = dict(make_probes(net, data.images[:PROBED_IMAGES], levels, seed).families)
    del families["data"]
    images = np.concatenate([data.images, *(family[:] for family in families.values())])
    labels = np.full(len(images), PROBE, np.int64)
    labels[: len(data.labels)] = data.labels
    return GoldenImages(data.name, images, labels, {name: len(family) for name, family in families.items()})


def check_golden(
    engine: Engine, net: PixelNet, golden: Golden, *, required: bool
) -> tuple[GoldenFacts, tuple[Violation, ...]]:
    """Runs the golden images and compares every output with the golden one.

    Args:
        engine: The engine.
        net: Read from the engine's own graph.
        golden: From the bundle.
        required: Whether every difference is a violation, as for an exact graph; else only those that no rounding
            of the net's format explains.

    Raises:
        EngineError: The images do not fit the engine, or it fails.
    """
    answers = answer_all(engine, golden.images)
    logits, expected = answers["logits"].astype(np.float32), golden.answers["logits"].astype(np.float32)
    if logits.shape != expected.shape:
        detail = f"the engine has {logits.shape[1]} logits where the bundle has {expected.shape[1]}"
        return GoldenFacts(len(logits), 0.0), (Violation("golden", detail),)
    facts = GoldenFacts(len(logits), float((ulp_distance(logits, expected) == 0).mean()))
    return facts, tuple(_differences(net, answers, golden.answers, required))


def _differences(net: PixelNet, answers: Answers, expected: Answers, required: bool) -> Iterator[Violation]:
    logits = answers["logits"].astype(np.float32)
    allowed = 0.0 if required else float(2 * rounding_error(net, value_ranges(net)))
    if detail := _logit_difference(logits, expected["logits"].astype(np.float32), allowed):
        yield Violation("golden", detail)
    for name in sorted(expected.keys() - {"logits"}):
        if name not in answers:
            yield Violation("golden", f"the engine has no output '{name}'; the bundle's graph has it")
        # Those of a float engine follow from its own logits, which conformance holds them against.
        elif required and (wrong := int((answers[name] != expected[name]).sum())):
            yield Violation("golden", f"the output '{name}' of {wrong} of {len(logits)} golden images differs")


def _logit_difference(logits: Logits, expected: Logits, allowed: float) -> str | None:
    """Says how many golden logits are wrong, and which is the first."""
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(logits.astype(np.float64) - expected.astype(np.float64)) <= allowed)
    if not wrong.any():
        return None
    image, output = (int(index) for index in np.argwhere(wrong)[0])
    limit = "" if allowed == 0 else f" by more than the {allowed:g} pixel that rounding explains"
    return (
        f"{int(wrong.sum())} of {wrong.size} golden logits differ{limit}; first logit {output} of image {image}: "
        f"{logits[image, output]} where {expected[image, output]} is golden"
    )
