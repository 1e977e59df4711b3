# SPDX-License-Identifier: Apache-2.0
"""Some 200 steps of every paper's method against the same in float64, and the packaged recipes' schedules.

Training amplifies a rounding until nothing can be compared, so the oracle starts every step from the weights at
hand. What is compared is each step: its dials, loss, gradients, decay, Adam's step and running means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from training_oracle import (
    Adam,
    Array,
    Dial,
    Gradients,
    Layer,
    Loss,
    decayed,
    first_schedule,
    gradients,
    second_schedule,
)
from training_runs import RECIPE, blobs, one_thread

from linfdeploy.nets.subsets import draw_subsets
from linfdeploy.training.recipe import Recipe, load_recipe, recipe_names
from linfdeploy.training.schedules import dials_at
from linfdeploy.training.step import Settings
from linfdeploy.training.trainer import Trainer

STEPS = 23
P = (8.0, 1000.0)
PLAIN = replace(
    RECIPE, batch_size=10, epochs=9, hidden=(12, 13), p_end=P[1], loss="hinge", lambda_start=0.0, lambda_end=0.0
)


@dataclass(frozen=True)
class Family:
    """A recipe, and what the papers' words for it are."""

    recipe: Recipe
    loss: Loss
    schedule: Callable[..., Dial]
    epochs: tuple[int, ...]
    decay: float = 0.0
    head_decay: float = 0.0
    corner: float = 0.0
    keep: float = 1.0
    kept: Callable[[list[Array | None]], list[Array | None]] = list

    def dial(self, step: int) -> Dial:
        corner = {"corner": self.corner} if self.corner else {}
        return self.schedule(self.epochs, step / STEPS, self.recipe.lr, self.recipe.eps_train, P, **corner)


GROWING = replace(PLAIN, p_from_epoch=1, p_until_epoch=7)
FIRST = replace(GROWING, lr=0.02, lr_from_epoch=1, weight_decay=5e-3)
HEAD: dict[str, Any] = {"head": (7,), "eps_train": 0.02}

# Two sub-batches, of which the last is not full.
SORTED: dict[str, Any] = {"neuron": "sort_dist", "keep": 0.6, "batch_size": 45, "hidden": (12, 13, 11)}

FAMILIES = {
    "first": Family(FIRST, Loss("hinge", mix=0.75), first_schedule, (0, 1, 0, 7, 9), decay=5e-3),
    "first, with a head": Family(
        replace(FIRST, **HEAD, loss="crossentropy", kappa=0.5, head_weight_decay=5e-3, eps_warmup_epochs=3),
        Loss("crossentropy", kappa=0.5),
        first_schedule,
        (0, 1, 3, 7, 9),
        decay=5e-3,
        head_decay=5e-3,
    ),
    "first, with convolutions": Family(
        replace(FIRST, conv=(3, 4), conv_strides=(1, 2), hidden=(9,)),
        Loss("hinge", mix=0.75),
        first_schedule,
        (0, 1, 0, 7, 9),
        decay=5e-3,
    ),
    "second": Family(
        replace(GROWING, loss="mixture", lambda_start=0.1, lambda_end=0.001, scale_lr=0.006),
        Loss("mixture", divide=True),
        second_schedule,
        (0, 0, 1, 7, 9),
    ),
    "second, hinge": Family(
        replace(GROWING, margins="relative"),
        Loss("hinge", mix=0.75, divide=True),
        second_schedule,
        (0, 0, 1, 7, 9),
    ),
    "third, with a head": Family(
        replace(
            replace(GROWING, **HEAD, lr=0.02, loss="ce_hinge", lambda_start=1.0, lambda_end=0.01, scale_lr=0.02),
            head_weight_decay=0.02,
            eps_warmup_epochs=5,
            eps_smooth=0.4,
        ),
        Loss("ce_hinge"),
        second_schedule,
        (0, 5, 1, 7, 9),
        head_decay=0.02,
        corner=0.4,
    ),
    "third, sorted": Family(
        replace(GROWING, **SORTED, lr=0.02, loss="mixture", lambda_start=0.1, lambda_end=0.001, scale_lr=0.02),
        Loss("mixture", divide=True),
        second_schedule,
        (0, 0, 1, 7, 9),
        keep=0.6,
    ),
    "third, sorted with a head": Family(
        replace(
            replace(GROWING, **HEAD, **SORTED, lr=0.02, loss="ce_hinge", lambda_start=1.0, lambda_end=0.01),
            scale_lr=0.02,
            head_weight_decay=0.02,
            eps_warmup_epochs=5,
            eps_smooth=0.4,
        ),
        Loss("ce_hinge"),
        second_schedule,
        (0, 5, 1, 7, 9),
        head_decay=0.02,
        corner=0.4,
        keep=0.6,
    ),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def layers_of(trainer: Trainer) -> list[Layer]:
    """A copy of the net in float64."""
    found: list[Layer] = []
    for layer in trainer.net.distances:
        last = {} if layer.bias is None else {"bias": array(layer.bias)}
        shift = {} if layer.mean_shift is None else {"mean": array(layer.mean_shift.running_mean)}
        window = getattr(layer, "window", None)
        moves = () if window is None else (*window.shape, window.kernel, window.stride, window.padding)
        found.append({"weight": array(layer.weight), **last, **shift, **({"conv": moves} if moves else {})})
    found += [
        {"weight": array(each.weight), "bias": array(each.bias), "linear": True} for each in trainer.net.head
    ]
    return found


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy().copy()


class Oracle:
    """The papers' step, from where a trainer stands; Adam's moments are kept here."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.kept: list[list[Array | None]] = []
        self._adams: dict[str, Adam] = {}

    def weight(self, dial: Dial) -> float:
        start, end = self.family.recipe.lambda_start, self.family.recipe.lambda_end
        return math.exp((1 - dial.progress) * math.log(start) + dial.progress * math.log(end)) if start else 0.0

    def scale_lr(self, dial: Dial) -> float:
        return self.family.recipe.scale_lr * dial.lr / self.family.recipe.lr

    def gradients(
        self, before: State, images: torch.Tensor, labels: torch.Tensor, dial: Dial, kept: list[Array | None]
    ) -> Gradients:
        """Of images (N, 1, 5, 5) of `blobs`."""
        self.kept.append(kept)
        x = ((images.double().numpy() - 0.2) / 0.25).reshape(len(images), -1)
        batch = (x, labels.numpy(), self.family.loss)
        dials = dial.p, dial.eps / 0.25, self.weight(dial)
        return gradients(before.layers, *batch, *dials, before.scale, self.family.kept(kept))

    def after(self, before: State, grads: Mapping[str, Array], dial: Dial) -> dict[str, Array]:
        """The parameters after a step with those gradients."""
        return {name: self._stepped(name, value, grads[name], dial) for name, value in parameters_of(before)}

    def _stepped(self, name: str, value: Array, grad: Array, dial: Dial) -> Array:
        adam = self._adams.setdefault(name, Adam(0.9, 0.99, 1e-10))
        if name == "scale":
            lr = self.scale_lr(dial) if self.family.recipe.lambda_start else 0.0
            return adam.step(value * (1 - lr * self.family.head_decay), grad, lr)
        if name.startswith("linear"):
            return adam.step(value * (1 - dial.lr * self.family.head_decay), grad, dial.lr)
        return adam.step(decayed(value, dial.p, dial.lr * self.family.decay), grad, dial.lr)


@dataclass(frozen=True)
class State:
    """Where a trainer stands, in float64."""

    layers: list[Layer]
    scale: float


def state_at(trainer: Trainer) -> State:
    return State(layers_of(trainer), trainer.scale.item())


def parameters_of(state: State) -> Iterator[tuple[str, Array]]:
    for index, layer in enumerate(state.layers):
        kind = "linear" if "linear" in layer else "distance"
        for name in {"weight", "bias"} & set(layer):
            yield f"{kind} {index} {name}", layer[name]
    yield "scale", np.array([state.scale])


def gradients_of(trainer: Trainer) -> dict[str, Array]:
    """Those of the last step, by the names of `parameters_of`."""
    found = {"scale": np.zeros(1) if trainer.scale.grad is None else array(trainer.scale.grad)}
    for index, layer in enumerate(trainer.net.layers):
        kind = "linear" if layer in trainer.net.head else "distance"
        for name, parameter in layer.named_parameters():
            assert parameter.grad is not None
            found[f"{kind} {index} {name}"] = array(parameter.grad)
    return found


def named(state: State, found: Gradients) -> dict[str, Array]:
    names = dict(parameters_of(state))
    values = {name: found.layers[int(name.split()[1])][name.split()[2]] for name in names if name != "scale"}
    return {**values, "scale": np.array([found.scale])}


def check_step(trainer: Trainer, oracle: Oracle, batch: tuple[torch.Tensor, torch.Tensor], step: int) -> None:
    """Lets both take a step.

    Raises:
        AssertionError: They differ.
    """
    dials, dial = dials_at(oracle.family.recipe, step, STEPS), oracle.family.dial(step)
    ours = (dials.p, dials.eps, dials.lr, dials.scale_lr, dials.weight)
    theirs = (dial.p, dial.eps, dial.lr, oracle.scale_lr(dial), oracle.weight(dial))
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=0, err_msg=f"dials of step {step}")
    before = state_at(trainer)
    expected = oracle.gradients(before, *batch, dial, subsets_of(trainer, len(batch[1])))
    loss = trainer._step(*batch, Settings.of(dials, 0.25)).item()
    # Worst margins are 1 and sums of some twenty numbers of order 1, which nearly cancel: a few ulp of 1.
    np.testing.assert_allclose(loss, expected.loss, rtol=1e-5, atol=1e-6, err_msg=f"loss of step {step}")
    # A rounding within a term grows p times in its power; float32 rounds some ten times on the way there.
    bound = 2e-6 * (dial.p if math.isfinite(dial.p) else 10.0)
    grads = gradients_of(trainer)
    for name, grad in named(before, expected).items():
        kind, index, part = [*name.split(), "", ""][:3]
        size: Any = 1.0 + np.abs(grad)
        if (kind, part) == ("distance", "weight"):
            # Differences of nearly equal numbers have fewer digits than the largest ones.
            size = expected.sizes[int(index)] + 0.01 * expected.sizes[int(index)].max()
        assert (np.abs(grads[name] - grad) <= bound * size).all(), f"gradient of {name}, {step}"
    found = dict(parameters_of(state_at(trainer)))
    for name, value in oracle.after(before, grads, dial).items():
        # Two roundings of the weight, and those of a step of the size lr.
        np.testing.assert_allclose(found[name], value, rtol=3e-7, atol=1e-6 * dial.lr, err_msg=f"{name}, {step}")
    for layer, old, mean in zip(layers_of(trainer), before.layers, expected.means, strict=False):
        if mean is not None:
            np.testing.assert_allclose(
                layer["mean"], 0.9 * old["mean"] + 0.1 * mean, rtol=1e-5, atol=1e-6, err_msg=f"means, {step}"
            )


def subsets_of(trainer: Trainer, count: int) -> list[Array | None]:
    """What each layer keeps of its inputs in the step that comes, from where the net's generator stands."""
    assert trainer.net.generator is not None
    stream = torch.Generator().set_state(trainer.net.generator.get_state())
    masks: list[Array | None] = []
    for layer, kept in zip(trainer.net.distances, draw_subsets(trainer.net.distances, count, stream), strict=True):
        mask = None if kept is None else np.zeros((count, layer.weight.shape[1]))
        if mask is not None and kept is not None:
            for n in range(count):
                mask[n, kept[n // 32].numpy()] = 1
        masks.append(mask)
    return masks


def train_both(family: Family, oracle: Oracle, steps: int) -> Trainer:
    trainer = Trainer(family.recipe, blobs(STEPS * family.recipe.batch_size, 0))
    trainer.net.train()
    trainer.net.generator = torch.Generator().manual_seed(5)
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
    for step in range(steps):
        if step % STEPS == 0:
            batches = trainer.batches.of_epoch(step // STEPS)
        check_step(trainer, oracle, next(batches), step)
    return trainer


def check_chance(kept: list[list[Array | None]], chance: float) -> None:
    """Holds the sizes of the subsets, Binomial(I, chance) each, against their mean.

    Raises:
        AssertionError: It is off by five standard errors, or no layer has subsets.
    """
    layers = [[mask for mask in masks if mask is not None] for masks in zip(*kept, strict=True)]
    assert any(layers) == (chance < 1)
    for masks in filter(None, layers):
        inputs = masks[0].shape[1]
        assert all(len(set(mask.sum(1))) == 1 for mask in masks)
        error = math.sqrt(inputs * chance * (1 - chance) / len(masks))
        found = float(np.mean([mask[0].sum() for mask in masks]))
        assert abs(found - inputs * chance) < 5 * error, f"subsets have {found} of {inputs}"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_step_is_that_of_the_formulas(family: Family) -> None:
    oracle = Oracle(family)
    trainer = train_both(family, oracle, 9 * STEPS)
    assert (trainer.scale.item() != 1) == family.recipe.learns_scale
    check_chance(oracle.kept, family.keep)
    if family.keep < 1:
        with pytest.raises(AssertionError, match="subsets have"):
            check_chance(oracle.kept, family.keep + 0.1)


def of_no_subsets(masks: list[Array | None]) -> list[Array | None]:
    return [None for _ in masks]


def of_the_first_sample(masks: list[Array | None]) -> list[Array | None]:
    return [None if mask is None else np.broadcast_to(mask[:1], mask.shape) for mask in masks]


class ForgetsMeans(Oracle):
    """As the third paper's code: the mean of a unit that nobody keeps is 0."""

    def gradients(self, *arguments: Any) -> Gradients:
        found = super().gradients(*arguments)
        behind = [*self.kept[-1][1:], None]
        means = [
            mean if mask is None or mean is None else mean * (mask.sum(0) > 0)
            for mean, mask in zip(found.means, behind, strict=True)
        ]
        return replace(found, means=means)


def test_another_mean_of_units_that_nobody_keeps_shows() -> None:
    with pytest.raises(AssertionError, match="means, "):
        train_both(FAMILIES["third, sorted"], ForgetsMeans(FAMILIES["third, sorted"]), 30)


@pytest.mark.parametrize(
    ("name", "wrong", "shown"),
    [
        ("first", {"decay": 0.0}, "distance 0 weight, 0"),
        ("first", {"loss": Loss("hinge", mix=0.25)}, "loss of step 0"),
        ("first", {"schedule": second_schedule}, "dials of step 0"),
        ("first, with convolutions", {"decay": 0.0}, "distance 0 weight, 0"),
        ("first, with a head", {"head_decay": 0.0}, "linear 2 weight, 0"),
        ("first, with a head", {"loss": Loss("crossentropy", kappa=0.4)}, "loss of step 1"),
        ("second, hinge", {"loss": Loss("hinge", mix=0.75)}, "loss of step 0"),
        ("third, with a head", {"head_decay": 0.0}, "linear 2 weight, 0"),
        ("third, with a head", {"corner": 0.3}, "dials of step 1"),
        ("third, sorted", {"loss": Loss("mixture")}, "loss of step 0"),
        ("third, sorted", {"schedule": first_schedule}, "dials of step 0"),
        ("third, sorted", {"kept": of_no_subsets}, "loss of step 0"),
        ("third, sorted", {"kept": of_the_first_sample}, "loss of step 0"),
        ("third, sorted with a head", {"head_decay": 0.0}, "linear 3 weight, 0"),
        ("third, sorted with a head", {"corner": 0.3}, "dials of step 1"),
        ("third, sorted with a head", {"loss": Loss("crossentropy")}, "loss of step 0"),
        ("third, sorted with a head", {"kept": of_no_subsets}, "loss of step 0"),
    ],
)
def test_another_formula_shows(name: str, wrong: dict[str, Any], shown: str) -> None:
    with pytest.raises(AssertionError, match=shown):
        train_both(FAMILIES[name], Oracle(replace(FAMILIES[name], **wrong)), 30)


# Recipes that are of no paper.
OWN = {"digits-0.1", "mnist-0.3-cpu"}

# The papers' --epochs of each packaged recipe, by their repository's schedule.
PUBLISHED: dict[str, tuple[Callable[..., Dial], tuple[int, ...]]] = {
    "mnist-0.3-hinge": (first_schedule, (0, 50, 0, 350, 400)),
    "fashion-0.1-hinge": (first_schedule, (0, 50, 0, 350, 400)),
    "cifar10-8-hinge": (first_schedule, (0, 100, 0, 750, 800)),
    "mnist-0.3-mlp": (first_schedule, (0, 50, 50, 350, 400)),
    "fashion-0.1-mlp": (first_schedule, (0, 50, 50, 350, 400)),
    "cifar10-8-mlp": (first_schedule, (0, 100, 100, 750, 800)),
    "cifar10-8-conv-mlp": (first_schedule, (0, 100, 100, 750, 800)),
    "tiny-1-mlp": (first_schedule, (0, 100, 200, 450, 500)),
    "mnist-0.1": (second_schedule, (0, 0, 25, 400, 450)),
    "mnist-0.3": (second_schedule, (0, 0, 25, 400, 450)),
    "cifar10-2": (second_schedule, (0, 0, 100, 1250, 1300)),
    "cifar10-8": (second_schedule, (0, 0, 100, 1250, 1300)),
    "cifar10-16": (second_schedule, (0, 0, 100, 1250, 1300)),
    "mnist-0.1-sort": (second_schedule, (0, 0, 100, 1450, 1500)),
    "mnist-0.3-sort": (second_schedule, (0, 0, 100, 1450, 1500)),
    "cifar10-2-sort": (second_schedule, (0, 0, 200, 2950, 3000)),
    "cifar10-8-sort": (second_schedule, (0, 0, 200, 2950, 3000)),
    "cifar10-2-sort-mlp": (second_schedule, (0, 500, 200, 2950, 3000)),
    "cifar10-8-sort-mlp": (second_schedule, (0, 500, 200, 2950, 3000)),
    "tiny-1-sort-mlp": (second_schedule, (0, 500, 100, 980, 1000)),
    "imagenet64-1-sort-mlp": (second_schedule, (0, 200, 30, 290, 300)),
}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name not in OWN])
def test_packaged_recipes_follow_the_papers_epochs(name: str) -> None:
    recipe = load_recipe(name)
    schedule, epochs = PUBLISHED[name]
    corner = {"corner": 0.4} if epochs[1] and schedule is second_schedule else {}
    for step in range(0, epochs[-1] * 98, 997):
        dials = dials_at(recipe, step, 98)
        dial = schedule(epochs, step / 98, recipe.lr, recipe.eps_train, P, **corner)
        assert (dials.p, dials.eps, dials.lr) == pytest.approx((dial.p, dial.eps, dial.lr), rel=1e-12)
