# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of L_inf-dist-net-v2.

Zhang et al., "Boosting the Certified Robustness of l-infinity Distance Nets", ICLR 2022.
Those of SortNet have the same names, so `sortnet` says which of the two a file is.
"""

from __future__ import annotations

from linfdeploy.errors import CheckpointError
from linfdeploy.training.importers.layout import (
    Evidence,
    Found,
    State,
    check_names,
    count,
    counted,
    layer,
    linear,
    names_of,
    size,
)
from linfdeploy.training.importers.sortnet import OVERLAPPING, hybrid_of, overlapping, sorting, sorts
from linfdeploy.training.importers.sortnet import REPOSITORY as SORTNET

__all__ = ["REPOSITORY", "recognise"]

REPOSITORY = "L_inf-dist-net-v2"

MEAN = "mean_shift.running_mean"
HEAD = names_of("fc_linear.0", ("weight", "bias")) | names_of("fc_final", ("weight", "bias"))


def recognise(state: State, evidence: Evidence) -> Found | None:
    """Tells which net of this repository or of SortNet a state is; None: of another one.

    Raises:
        CheckpointError: A tensor is missing or unknown, its shape does not fit, or nothing tells which of the two
            repositories it is of.
    """
    if not any(name.startswith("fc_dist.") for name in state):
        return None
    scaled = {"scalar"} & set(state)
    if any(name.startswith(("fc_linear.", "fc_final.")) for name in state):
        return _hybrid(state, scaled, evidence)
    depth = count(state, "fc_dist.")
    names = names_of("fc_dist.", ("weight", MEAN), depth - 1) | names_of(
        f"fc_dist.{depth - 1}", ("weight", "bias")
    )
    check_names(state, names | scaled, f"MLPModel of {REPOSITORY} or SortMLPModel of {SORTNET}")
    hidden = [layer(state, f"fc_dist.{index}", MEAN, 2) for index in range(depth - 1)]
    layers = (*hidden, layer(state, f"fc_dist.{depth - 1}", None, 2))
    if sorts(evidence):
        parts = f"an l_inf-distance layer and {counted(depth - 1, 'sort-neuron layer')}"
        return Found(SORTNET, "SortMLPModel", parts, sorting(layers, evidence), scale=_scale(state))
    return Found(REPOSITORY, "MLPModel", counted(depth, "l_inf-distance layer"), layers, scale=_scale(state))


def _hybrid(state: State, scaled: set[str], evidence: Evidence) -> Found:
    depth = count(state, "fc_dist.")
    what = f"HybridModel of {REPOSITORY} or of {SORTNET}"
    check_names(state, names_of("fc_dist.", ("weight", MEAN), depth) | HEAD | scaled, what)
    head = f"an MLP head of {size(state['fc_linear.0.weight'], 0)} hidden units"
    # The second paper's hybrid net has no scalar; SortNet's may have a number in its stead, which no file holds.
    sort = sorts(evidence, ("HybridModel", "SortHybridModel"), own_scalar=bool(scaled))
    layers = tuple(layer(state, f"fc_dist.{index}", MEAN, 2) for index in range(depth))
    behind = linear(state, "fc_linear.0"), linear(state, "fc_final")
    if not sort:
        parts = f"{counted(depth, 'l_inf-distance layer')} and {head}"
        return Found(REPOSITORY, "HybridModel", parts, layers, behind)
    model, parts = hybrid_of(state, depth, head)
    layers = sorting(layers, evidence)
    if model == OVERLAPPING:
        layers = overlapping(layers, evidence)
    return Found(SORTNET, model, parts, layers, behind, _scale(state))


def _scale(state: State) -> float | None:
    if "scalar" not in state:
        return None
    scale = state["scalar"]
    if scale.shape != (1,) or not float(scale[0]) > 0:
        raise CheckpointError(
            f"scalar is {scale.flatten()[:4].tolist()} of shape {tuple(scale.shape)}; expected one positive "
            "number, which leaves the order of the logits as it is"
        )
    return float(scale[0])
