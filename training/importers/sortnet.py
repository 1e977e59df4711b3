# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of SortNet.

Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function Perspective",
NeurIPS 2022. Its nets have the tensors of L_inf-dist-net-v2, but their neurons sum the sorted distances with
weights that are not in the file: taking one for the other would silently make another net.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from linfdeploy.errors import CheckpointError, InputError, brief
from linfdeploy.nets.windows import MAX_WINDOW
from linfdeploy.training.importers.layout import Evidence, Layer, Moves, State, counted, size
from linfdeploy.training.importers.run_log import RunLog

__all__ = [
    "OVERLAPPING",
    "REPOSITORY",
    "TERMS",
    "hybrid_of",
    "keep_of",
    "overlapping",
    "scale_of",
    "sorting",
    "sorts",
    "stride_of",
]

REPOSITORY = "SortNet"
TERMS = 10
"""The most differences that a sort neuron weighs; it stands in that code alone."""
# What its models take where the run does not say; the code calls the chance to be kept `dropout`.
DEFAULT_KEEP = 0.7
# The "2x" nets put crops at the four corners of the image through the same layers; so many pixels are between
# the crops where a run does not say.
OVERLAPPING, PLACES, DEFAULT_STRIDE = "SortHybridModel2", 4, 2
# A number of Python's with a point or an exponent.
SCALE = re.compile(r"-?(?:\d{1,9}\.\d{0,20}|\.\d{1,20}|\d{1,9}(?=e))(?:e[-+]?\d{1,2})?")


def sorts(
    evidence: Evidence, models: tuple[str, str] = ("MLPModel", "SortMLPModel"), *, own_scalar: bool = False
) -> bool:
    """Says whether a net is of SortNet rather than of L_inf-dist-net-v2.

    Args:
        evidence: What is known besides the tensors.
        models: The classes of such nets in L_inf-dist-net-v2 and in SortNet.
        own_scalar: Whether it has a scalar, and only SortNet's such nets have one.

    Raises:
        CheckpointError: Nothing tells, or one thing contradicts another.
    """
    signs: dict[str, bool] = {"its scalar": True} if own_scalar else {}
    # SortNet's code saves the weights alone.
    if evidence.has_optimizer:
        signs["the optimizer's state in it"] = False
    if evidence.logged_model is not None:
        signs[f"the log's model {evidence.logged_model}"] = evidence.logged_model.startswith("Sort")
    if evidence.stated is not None:
        signs[f"--repository {evidence.stated}"] = evidence.stated == REPOSITORY
    if not signs:
        raise CheckpointError(
            f"its tensors are those of {models[0]} of L_inf-dist-net-v2 and of {models[1]} of {REPOSITORY}, whose "
            "neurons differ; expected the run's log.txt beside it, or --repository"
        )
    if len(set(signs.values())) > 1:
        told = ", ".join(
            f"{sign} for {REPOSITORY if sort else 'L_inf-dist-net-v2'}" for sign, sort in signs.items()
        )
        raise CheckpointError(f"its origin is contradictory: {told}; expected one: mend --repository or --log")
    return all(signs.values())


def keep_of(stated: float | None, log: RunLog | None) -> float | None:
    """Returns the chance of an input to be kept, which no file holds; None where nobody says it.

    Args:
        stated: What the user says.
        log: The run's log, or None.

    Raises:
        InputError: The log says something else than the user, or no chance.
    """
    if log is None or not log.model.name.startswith("Sort"):
        return stated
    text = log.model.arguments.get("dropout", str(DEFAULT_KEEP))
    try:
        # Without subsets the neuron is the ordinary one.
        logged = 1.0 if text == "None" else float(text)
    except ValueError:
        logged = 0.0
    if not 0 < logged <= 1:
        raise InputError(f"{log.path}: its dropout is {brief(text)}; expected a chance above 0 and at most 1")
    if stated is not None and stated != logged:
        raise InputError(
            f"--keep is {stated} but the run's log says dropout={text}, which is the chance to be kept; expected "
            "the same: leave the option out, or name the right log with --log"
        )
    return logged


def scale_of(log: RunLog | None) -> float | None:
    """Returns the number that a run multiplied its logits with, where it learned none; None where it says none.

    That code takes a number with a point or an exponent for such a one, anything else for whether to learn one.

    Raises:
        InputError: It is not positive.
    """
    text = log.model.arguments.get("scalar", "") if log is not None and log.model.name.startswith("Sort") else ""
    if log is None or not SCALE.fullmatch(text):
        return None
    if not 0 < (scale := float(text)) < math.inf:
        raise InputError(f"{log.path}: its scalar is {brief(text)}; expected a positive number")
    return scale


def sorting(layers: Sequence[Layer], evidence: Evidence) -> tuple[Layer, ...]:
    """Returns the layers of a net of this repository: all but the first have sort neurons.

    Raises:
        CheckpointError: Nothing says with which weights.
    """
    if evidence.keep is None:
        raise CheckpointError(
            "nothing says with which chance its sort neurons keep an input; expected the dropout of the model in "
            "the run's log.txt beside it, or --keep"
        )
    first, *others = layers
    return first, *(replace(layer, keep=evidence.keep) for layer in others)


def hybrid_of(state: State, depth: int, head: str) -> tuple[str, str]:
    """Tells which hybrid net a state with the names of one is: its model, and what it is made of."""
    features, inputs = size(state[f"fc_dist.{depth - 1}.weight"], 0), size(state["fc_linear.0.weight"], 1)
    sorting = counted(depth - 1, "sort-neuron layer")
    if inputs == PLACES * features:
        return OVERLAPPING, f"an l_inf-distance convolution, {sorting} at {PLACES} places and {head}"
    return "SortHybridModel", f"an l_inf-distance layer, {sorting} and {head}"


def stride_of(log: RunLog | None) -> int | None:
    """Returns how far apart the crops of a "2x" net are, which no file holds; None where no log says it.

    Raises:
        InputError: The log says no number of pixels.
    """
    if log is None or log.model.name != OVERLAPPING:
        return None
    text = log.model.arguments.get("stride", str(DEFAULT_STRIDE))
    if not (text.isdecimal() and 1 <= int(text[:9]) <= MAX_WINDOW):
        raise InputError(f"{log.path}: its stride is {brief(text)}; expected a whole number of pixels from 1 on")
    return int(text)


def overlapping(layers: Sequence[Layer], evidence: Evidence) -> tuple[Layer, ...]:
    """Returns the layers of a "2x" net as convolutions: crops of the image, then every layer at each of them.

    Raises:
        CheckpointError: Nothing says how large the crops are and how far apart, or they are no squares.
    """
    first, *others = layers
    inputs = first.weight.shape[1]
    # The papers' images have three channels or one; no number is a square and three times a square.
    channels = [evidence.shape[0]] if evidence.shape else [3, 1]
    kernels = [
        math.isqrt(inputs // count) for count in channels if inputs == count * math.isqrt(inputs // count) ** 2
    ]
    if not kernels:
        raise CheckpointError(
            f"fc_dist.0 has {inputs} inputs; expected a square crop of {' or '.join(map(str, channels))} channels"
        )
    stride = evidence.stride or (evidence.shape[1] - kernels[0] if evidence.shape else None)
    if stride is None or stride < 1:
        raise CheckpointError(
            f"nothing says how far apart its crops of {kernels[0]} x {kernels[0]} pixels are; expected the stride "
            "of the model in the run's log.txt beside it, or --input-shape of a larger image"
        )
    moved = (replace(layer, moves=Moves(1, 1, 0)) for layer in others)
    return replace(first, moves=Moves(kernels[0], stride, 0)), *moved
