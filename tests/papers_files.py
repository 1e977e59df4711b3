# SPDX-License-Identifier: Apache-2.0
"""Files as the papers' code saves them, with random numbers; and that code's forward pass, written plainly."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

__all__ = ["Papers", "Plain", "head_v1", "log_lines", "make", "save_with_modules", "v1_state", "v2_state"]

State = dict[str, torch.Tensor]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plain:
    """A net as numbers: weights, running means of all layers but the last, the last bias."""

    weights: list[npt.NDArray[np.float32]]
    means: list[npt.NDArray[np.float32]]
    bias: npt.NDArray[np.float32]

    def logits(self, images: npt.NDArray[np.float32], mean: Any, std: float) -> tuple[Float64, float]:
        """The formulas in float64, and how far float32 may be from it.

        Each layer rounds a difference, the mean shift or the bias, each by half an ulp, and passes on what it was
        given without enlarging it: one ulp of the layer's largest number. The normalisation rounds twice: one ulp.
        """
        x = ((images - np.float32(mean).reshape(-1, 1, 1)).astype(np.float64) / np.float32(std)).reshape(
            len(images), -1
        )
        allowed = ulp(x)
        for index, weight in enumerate(self.weights):
            distance = np.abs(x[:, None, :] - weight[None].astype(np.float64)).max(-1)
            last = index == len(self.means)
            x = distance + self.bias if last else distance - self.means[index]
            allowed += max(ulp(distance), ulp(x))
        return -x, allowed


def ulp(values: Float64) -> float:
    return float(np.spacing(np.float32(np.abs(values).max())))


@dataclass(frozen=True)
class Papers:
    """A net, and where its file lies."""

    net: Plain
    path: Path


def make(sizes: tuple[int, ...], seed: int = 0) -> Plain:
    rng = np.random.default_rng(seed)
    shapes = list(zip(sizes[1:], sizes[:-1], strict=True))
    weights = [rng.normal(0, 3, shape).astype(np.float32) for shape in shapes]
    means = [rng.normal(5, 1, out).astype(np.float32) for out in sizes[1:-1]]
    return Plain(weights, means, rng.normal(0, 1, sizes[-1]).astype(np.float32))


def v1_state(net: Plain) -> State:
    state: State = {}
    for index, (weight, mean) in enumerate(zip(net.weights[:-1], net.means, strict=True)):
        state[f"feature.fc.{index}.weight"] = torch.from_numpy(weight)[..., None, None].clone()
        state[f"feature.fc.{index}.normalize.running_mean"] = torch.from_numpy(mean)
    state["feature.fc_last.weight"] = torch.from_numpy(net.weights[-1])[..., None, None].clone()
    state["feature.fc_last.bias"] = torch.from_numpy(net.bias)
    return state


def v2_state(net: Plain, scale: float | None = 3.5) -> State:
    state: State = {} if scale is None else {"scalar": torch.tensor([scale])}
    for index, weight in enumerate(net.weights):
        state[f"fc_dist.{index}.weight"] = torch.from_numpy(weight)
        if index < len(net.means):
            state[f"fc_dist.{index}.mean_shift.running_mean"] = torch.from_numpy(net.means[index])
    state[f"fc_dist.{len(net.means)}.bias"] = torch.from_numpy(net.bias)
    return state


def head_v1(features: int, hidden: int, classes: int) -> State:
    return {
        "predictor.fc1.weight": torch.ones(hidden, features),
        "predictor.fc1.bias": torch.ones(hidden),
        "predictor.fc2.weight": torch.ones(classes, hidden),
        "predictor.fc2.bias": torch.ones(classes),
    }


def save_with_modules(path: Path, state: Mapping[str, torch.Tensor], **options: Any) -> None:
    """Saves as the first paper's code does: the optimizer's groups hold modules of classes that are then gone."""
    module = ModuleType("model_of_another_program")

    class NormDist(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 3))
            self.inner = nn.ModuleList([nn.Tanh()])

    NormDist.__module__, NormDist.__qualname__ = module.__name__, "NormDist"
    module.NormDist = NormDist  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        groups = [{"params": [0], "lr": 0.02, "betas": (0.9, 0.99), "module": NormDist()}]
        states = {0: {"step": 3, "exp_avg": torch.zeros(2, 3)}}
        data = {"state_dict": state, "optimizer": {"state": states, "param_groups": groups}}
        # The old layout stores the source code of modules, and warns where there is none.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(data, path, **options)
    finally:
        del sys.modules[module.__name__]


def log_lines(model: str, dataset: str = "MNIST", **more: str) -> str:
    statistics = {
        "MNIST": "mean=[0.1307], std=[0.3081]",
        "CIFAR10": "mean=[0.4914 0.4822 0.4465], std=[0.2009, 0.2009, 0.2009]",
    }
    arguments = {"dataset": dataset, "model": model, "loss": "hinge", "eps_test": "0.3", "filter_name": "", **more}
    head = "".join(f"{name} = {value}\n" for name, value in arguments.items())
    normalize = f"    Normalize({statistics[dataset]})\n" if dataset in statistics else ""
    return f"{head}Compose(\n    ToTensor()\n{normalize})\nMLPModel(\n  (0): x = 3\n)\nEpoch 0:  train loss 0.6\n"
