# SPDX-License-Identifier: Apache-2.0
"""What a recipe may say: the values that each field allows, and how the fields fit together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from linfdeploy.errors import RecipeError
from linfdeploy.nets.layer_specs import MOST_TERMS

if TYPE_CHECKING:
    from linfdeploy.training.recipe import Recipe

__all__ = ["RULES", "check_fields", "check_together"]

MAX_WIDTH = 2**20
MAX_STRIDE = 64

# What each loss has a use for, among the fields that not all of them use; the others keep the value that is off.
USED_BY = {
    "mixture": {"lambda_start", "lambda_end"},
    "hinge": {"loss_mix", "kappa", "margins"},
    "crossentropy": {"kappa", "margins"},
    "ce_hinge": {"lambda_start", "lambda_end", "margins"},
}
OFF: Mapping[str, Any] = {
    "lambda_start": 0.0,
    "lambda_end": 0.0,
    "loss_mix": 0.75,
    "kappa": 1.0,
    "margins": "absolute",
}


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high


def _one_of(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), f"one of {', '.join(names)}"


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _is_ascending(values: tuple[int, ...]) -> bool:
    return all(1 <= value <= 10**6 for value in values) and sorted(set(values)) == list(values)


SHARE = (_between(0, 1), "a share from 0 to 1")
DECAY = (lambda value: 0 <= value < 1, "a decay from 0 to below 1")
UNITS = (lambda value: all(1 <= units <= MAX_WIDTH for units in value), f"layers of 1 to {MAX_WIDTH} units")

RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (bool, "the name of a data set, such as digits"),
    "eps_test": (lambda value: 0 < value < 0.5, "a fraction of the pixel range above 0 and below 0.5"),
    "eps_train": (_is_positive, "a positive number"),
    "hidden": UNITS,
    "head": UNITS,
    "conv": UNITS,
    "conv_strides": (lambda value: all(1 <= step <= MAX_STRIDE for step in value), f"steps of 1 to {MAX_STRIDE}"),
    "neuron": _one_of("linf_dist", "sort_dist"),
    "keep": (lambda value: 0 < value <= 1, "a probability above 0 and at most 1"),
    "terms": (_between(1, MOST_TERMS), f"1 to {MOST_TERMS}"),
    "epochs": (_between(1, 10**6), "at least 1 and at most 1000000"),
    "batch_size": (_between(2, 10**6), "at least 2 and at most 1000000"),
    "late_batch_size": (lambda value: value == 0 or 2 <= value <= 10**6, "0 (off) or 2 to 1000000"),
    "late_from_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "lr": (lambda value: 0 < value <= 1000, "above 0 and at most 1000"),
    "scale_lr": (_between(0, 1000), "0 to 1000"),
    "lr_from_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "lr_decay_epochs": (_is_ascending, "epochs from 1 to 1000000 in ascending order, or none"),
    "weight_decay": DECAY,
    "head_weight_decay": DECAY,
    "p_start": (_between(2, 10**5), "a norm from 2 to 100000"),
    "p_end": (_between(2, 10**5), "a norm from 2 to 100000"),
    "p_from_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "p_until_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "p_whole": (lambda _: True, "true or false"),
    "kept_bits": (lambda value: value == 0 or 1 <= value <= 64, "0 (all terms) or 1 to 64 bits"),
    "loss": _one_of(*USED_BY),
    "loss_mix": SHARE,
    "kappa": SHARE,
    "margins": _one_of("absolute", "relative"),
    "lambda_start": (lambda value: 0 <= value < math.inf, "a positive number"),
    "lambda_end": (lambda value: 0 <= value < math.inf, "a positive number"),
    "identity_init": (lambda value: 0 <= value < math.inf, "0 (off) or a positive number"),
    "weight_std": (_is_positive, "a positive number"),
    "eps_from_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "eps_warmup_epochs": (_between(0, 10**6), "0 (off) or a number of epochs"),
    "eps_smooth": (lambda value: 0 <= value < 1, "0 (linear) or a share of the warmup below 1"),
    "crop_padding": (_between(0, 64), "0 (off) to 64 pixels"),
    "crop_share": SHARE,
    "crop_fill": (lambda value: value in {"edge", "zero"}, "'edge' or 'zero'"),
    "crop_size": (_between(0, 4096), "0 (off) to 4096 pixels"),
    "flip": (lambda _: True, "true or false"),
    "beta1": DECAY,
    "beta2": DECAY,
    "adam_eps": (_is_positive, "a positive number"),
    "seed": (_between(0, 2**63 - 1), "0 to 2^63 - 1"),
}


def check_fields(recipe: Recipe) -> None:
    """Checks every field by itself.

    Raises:
        RecipeError: Naming the field, what was found and what was expected.
    """
    for name, (allowed, expected) in RULES.items():
        if not allowed(value := getattr(recipe, name)):
            raise RecipeError(f"{name} is {value!r}; expected {expected}")


def check_together(recipe: Recipe) -> None:
    """Checks how the fields fit together.

    Raises:
        RecipeError: Naming the fields, what was found and what was expected.
    """
    for check in (_check_epochs, _check_loss, _check_eps, _check_neuron, _check_convolutions):
        check(recipe)


def _check_epochs(recipe: Recipe) -> None:
    if not recipe.p_start <= recipe.p_end:
        raise RecipeError(f"p_end is {recipe.p_end}; expected at least p_start, which is {recipe.p_start}")
    if not recipe.p_from_epoch <= recipe.p_until_epoch <= recipe.epochs:
        raise RecipeError(
            f"p_from_epoch is {recipe.p_from_epoch}, p_until_epoch {recipe.p_until_epoch} and "
            f"epochs {recipe.epochs}; expected them in ascending order"
        )
    if bool(recipe.late_batch_size) != bool(recipe.late_from_epoch):
        raise RecipeError(
            f"late_batch_size is {recipe.late_batch_size} and late_from_epoch {recipe.late_from_epoch}; expected "
            "both, or neither"
        )
    if not recipe.lr_from_epoch < recipe.epochs:
        raise RecipeError(
            f"lr_from_epoch is {recipe.lr_from_epoch}; expected less than epochs, which is {recipe.epochs}"
        )
    if recipe.lr_decay_epochs and recipe.lr_from_epoch:
        raise RecipeError(
            f"lr_from_epoch is {recipe.lr_from_epoch} with lr_decay_epochs, which takes the cosine's place; "
            "expected one of them"
        )


def _check_loss(recipe: Recipe) -> None:
    used = USED_BY[recipe.loss]
    for name, off in OFF.items():
        value = getattr(recipe, name)
        if name not in used and value != off:
            raise RecipeError(f"{name} is {value!r}, of which loss {recipe.loss!r} makes no use; expected {off!r}")
        if name in used and name.startswith("lambda") and value == 0:
            raise RecipeError(f"{name} is {value}; expected a positive number")
    if recipe.head and (recipe.loss == "mixture" or recipe.margins == "relative"):
        raise RecipeError(
            f"loss is {recipe.loss!r} with {recipe.margins} margins and a head, whose logits are no distances; "
            "expected loss 'crossentropy', 'ce_hinge' or 'hinge' with absolute margins"
        )


def _check_eps(recipe: Recipe) -> None:
    if recipe.eps_from_epoch and not recipe.eps_warmup_epochs:
        raise RecipeError(
            f"eps_from_epoch is {recipe.eps_from_epoch} without eps_warmup_epochs; expected 0, or both"
        )
    if recipe.eps_smooth and not recipe.eps_warmup_epochs:
        raise RecipeError(f"eps_smooth is {recipe.eps_smooth} without eps_warmup_epochs; expected 0, or both")
    if recipe.eps_from_epoch and recipe.divides_by_eps:
        raise RecipeError(
            f"eps_from_epoch is {recipe.eps_from_epoch}, until when eps is 0, by which loss {recipe.loss!r} "
            "divides; expected 0"
        )


def _check_neuron(recipe: Recipe) -> None:
    if recipe.neuron == "sort_dist":
        _check_sorting(recipe)
    if recipe.neuron == "linf_dist" and (recipe.keep, recipe.terms) != (1.0, 10):
        raise RecipeError(
            f"keep is {recipe.keep} and terms {recipe.terms} with neuron 'linf_dist', which makes no use of them; "
            "expected 1.0 and 10, or neuron 'sort_dist'"
        )


def _check_convolutions(recipe: Recipe) -> None:
    if recipe.conv_strides and len(recipe.conv_strides) != len(recipe.conv):
        raise RecipeError(
            f"conv_strides is {recipe.conv_strides} with {len(recipe.conv)} convolutions; expected a step for "
            "each, or none"
        )
    if recipe.conv and recipe.neuron == "sort_dist":
        raise RecipeError(
            "neuron is 'sort_dist' with convolutions, which are of l_inf distances; expected neuron 'linf_dist', "
            "or no conv"
        )


def _check_sorting(recipe: Recipe) -> None:
    if recipe.keep == 1:
        raise RecipeError(
            "keep is 1.0 with neuron 'sort_dist', which is then the l_inf distance; expected less than 1, or "
            "neuron 'linf_dist'"
        )
    if len(recipe.hidden) < (2 if recipe.head else 1):
        raise RecipeError(
            "neuron is 'sort_dist' with one layer of distances, which is never a sorted one; expected at least "
            "two: give hidden more layers"
        )
