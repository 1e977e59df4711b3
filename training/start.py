# SPDX-License-Identifier: Apache-2.0
"""The net before the first step, and its optimizer."""

from __future__ import annotations

from typing import Any

import torch

from linfdeploy.nets.convolutions import LinfDistConv
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.training.augment import Augmentation
from linfdeploy.training.batches import generator_of
from linfdeploy.training.data import Dataset
from linfdeploy.training.recipe import Recipe

__all__ = ["initial_net", "initial_optimizer"]


def initial_net(recipe: Recipe, dataset: Dataset) -> LinfNet:
    """Returns the net that a recipe starts from, on the CPU: its seed gives the same weights everywhere."""
    channels = dataset.images.shape[1]
    height, width = Augmentation.of(recipe).size(*dataset.images.shape[2:])
    spec = NetSpec.mlp(
        (channels, height, width),
        dataset.mean,
        dataset.std,
        recipe.hidden,
        dataset.classes,
        recipe.head or None,
        recipe.convolutions,
    )
    if recipe.neuron == "sort_dist":
        spec = spec.sorting(recipe.keep, recipe.terms)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator_of(recipe.seed, 0).get_state())
        net = LinfNet(spec)
    _start_with(net, recipe.weight_std, recipe.identity_init)
    for layer in net.distances:
        layer.kept_bits = recipe.kept_bits
    return net


def initial_optimizer(recipe: Recipe, net: LinfNet, scale: torch.nn.Parameter) -> torch.optim.Adam:
    """Returns Adam for the distances, the scale and, where there is one, the head, in groups of their own.

    Args:
        recipe: Has the steps and decays.
        net: On its device.
        scale: On the same. Where the loss has no use for it, its group is empty.
    """
    groups: list[dict[str, Any]] = [
        {"params": [parameter for layer in net.distances for parameter in layer.parameters()]},
        {"params": [scale] if recipe.learns_scale else []},
    ]
    if net.head:
        groups.append({"params": [parameter for layer in net.head for parameter in layer.parameters()]})
    return torch.optim.Adam(
        groups,
        lr=recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        # One pass over the weights in the place of ten; on a device it also counts the steps there.
        fused=True,
    )


@torch.no_grad()
def _start_with(net: LinfNet, std: float, identity: float) -> None:
    """Sets the deviation of normal weights, and lets each output copy an input, unless `identity` is 0.

    `|x_i + identity|` dominates as long as |x| stays small beside `identity`. Of a convolution the input is a
    channel, in the middle of the window.
    """
    for layer in net.distances:
        layer.weight.mul_(std)
        outputs, taps = len(layer.weight), 1
        if isinstance(layer, LinfDistConv):
            taps = layer.window.kernel**2
        inputs = layer.weight.shape[1] // taps
        if identity and inputs <= outputs:
            rows = torch.arange(outputs)
            layer.weight[rows, rows % inputs * taps + taps // 2] = -identity
