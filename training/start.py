# SPDX-License-Identifier: Apache-2.0
"""The net before the first step, and its optimizer."""

from __future__ import annotations

import torch

from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.batches import generator_of
from linfdeploy.training.data import Dataset
from linfdeploy.training.recipe import Recipe

__all__ = ["initial_net", "initial_optimizer"]


def initial_net(recipe: Recipe, dataset: Dataset) -> LinfNet:
    """Returns the net that a recipe starts from, on the CPU: its seed gives the same weights everywhere."""
    _, channels, height, width = dataset.images.shape
    spec = NetSpec.mlp((channels, height, width), dataset.mean, dataset.std, recipe.hidden, dataset.classes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator_of(recipe.seed, 0).get_state())
        net = LinfNet(spec)
    if recipe.identity_init:
        _start_as_identity(net, recipe.identity_init)
    return net


def initial_optimizer(recipe: Recipe, net: LinfNet, scale: torch.nn.Parameter, *, fused: bool) -> torch.optim.Adam:
    """Returns Adam for the net and, in a group of its own, the scale.

    Args:
        recipe: Has the steps and decays.
        net: On its device.
        scale: On the same.
        fused: Whether one kernel does a group's step and counts it on the device; else torch's plain code does.
    """
    return torch.optim.Adam(
        [{"params": list(net.parameters())}, {"params": [scale]}],
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        fused=True if fused else None,
    )


@torch.no_grad()
def _start_as_identity(net: LinfNet, value: float) -> None:
    """Lets each output copy an input: `|x_i + value|` dominates as long as |x| stays small beside `value`."""
    for layer in net.distances:
        outputs, inputs = layer.weight.shape
        if inputs <= outputs:
            rows = torch.arange(outputs)
            layer.weight[rows, rows % inputs] = -value
