# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of SortNet.

Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function Perspective",
NeurIPS 2022. Its nets have the tensors of L_inf-dist-net-v2, but their neurons sum the sorted distances with
weights that are not in the file: taking one for the other would silently make another net.
"""

from __future__ import annotations

from linfdeploy.errors import CheckpointError
from linfdeploy.training.importers.layout import Evidence, Found, State, counted, size

__all__ = ["REPOSITORY", "hybrid_of", "sorts"]

REPOSITORY = "SortNet"
# The "2x" nets put a patch of the image at four places through the same layers.
PLACES = 4


def sorts(evidence: Evidence, models: tuple[str, str] = ("MLPModel", "SortMLPModel")) -> bool:
    """Says whether a net is of SortNet rather than of L_inf-dist-net-v2.

    Args:
        evidence: What is known besides the tensors.
        models: The classes of such nets in L_inf-dist-net-v2 and in SortNet.

    Raises:
        CheckpointError: Nothing tells, or one thing contradicts another.
    """
    signs: dict[str, bool] = {}
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


def hybrid_of(state: State, depth: int, head: str) -> Found:
    """Tells which hybrid net a state with the names of one is."""
    features, inputs = size(state[f"fc_dist.{depth - 1}.weight"], 0), size(state["fc_linear.0.weight"], 1)
    sorting = counted(depth - 1, "sort-neuron layer")
    if inputs == PLACES * features:
        parts = f"an l_inf-distance convolution, {sorting} at {PLACES} places and {head}"
        return Found(REPOSITORY, "SortHybridModel2", parts)
    parts = f"an l_inf-distance layer, {sorting} and {head}"
    return Found(REPOSITORY, "SortHybridModel", parts)
