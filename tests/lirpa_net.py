# SPDX-License-Identifier: Apache-2.0
"""A pixel net in auto_LiRPA, by the operations of `verifier_model`: Unsqueeze, Sub, Abs, ReduceMax, Add and Neg.

Where a checkout of it and its requirements are importable, it bounds the net with rules that are its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings

import numpy as np
import torch

from linfdeploy.engines.base import Images, Logits
from linfdeploy.onnx.pixel_net import PixelNet

__all__ = ["MISSING", "Lirpa"]

MISSING = (
    None
    if importlib.util.find_spec("auto_LiRPA")
    else "auto_LiRPA is not importable: git clone https://github.com/Verified-Intelligence/auto_LiRPA, "
    "pip install appdirs graphviz pyyaml tqdm, and put the clone on PYTHONPATH"
)


class _Net(torch.nn.Module):
    def __init__(self, net: PixelNet) -> None:
        super().__init__()
        self._layers = [
            (
                torch.from_numpy(layer.weight.astype(np.float32))[None],
                torch.from_numpy(layer.bias.astype(np.float32)),
            )
            for layer in net.layers
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        for weight, bias in self._layers:
            x = (x.unsqueeze(1) - weight).abs().amax(2) + bias
        return -x


class Lirpa:
    """auto_LiRPA's interval bounds of a net."""

    def __init__(self, net: PixelNet) -> None:
        with warnings.catch_warnings():
            # What it imports and calls is deprecated here and there.
            warnings.simplefilter("ignore")
            self._package = importlib.import_module("auto_LiRPA")
            self._perturbations = importlib.import_module("auto_LiRPA.perturbations")
            example = torch.zeros(1, *net.input_shape)
            self._module = self._package.BoundedModule(_Net(net), example, device="cpu")

    def bounds(self, lower: Images, upper: Images) -> tuple[Logits, Logits]:
        """Returns the ends of the logits over boxes of images, (N, K) float32 each."""
        low, high = (torch.from_numpy(end.astype(np.float32)) for end in (lower, upper))
        box = self._perturbations.PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high)
        x = self._package.BoundedTensor((low + high) / 2, box)
        found = self._module.compute_bounds(x=(x,), method="IBP")
        ends: tuple[Logits, Logits] = (found[0].detach().numpy(), found[1].detach().numpy())
        return ends
