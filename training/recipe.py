# SPDX-License-Identifier: Apache-2.0
"""Recipes: every dial of a training run, read once from a TOML file."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError, MissingExtraError, RecipeError
from linfdeploy.files import read_bytes

__all__ = ["Recipe", "load_recipe", "recipe_names"]

FOLDER = Path(__file__).parent / "recipes"
MAX_BYTES = 2**20
MAX_WIDTH = 2**20
BARE_WORD = re.compile(r"[A-Za-z_/.~][\w./{}~-]*")


@dataclass(frozen=True)
class Recipe:
    """One training run. Radii are fractions of the pixel range: 0.1 is 25.5 of 255 levels.

    Source of the method and of the defaults: Zhang et al., "Boosting the Certified Robustness of l-infinity
    Distance Nets", ICLR 2022.

    Attributes:
        name: The name of the TOML file, without its ending.
        dataset: What `linfdeploy.training.data.load_dataset` takes.
        eps_test: The radius at which the net is certified.
        eps_train: Half the margin, in pixels, at which the hinge is satisfied; the paper's theta is twice this.
        hidden: Units of each hidden layer.
        identity_init: Where a layer has no fewer outputs than inputs, output o starts with weight
            `-identity_init` on input `o mod inputs`; 0 leaves the normal distribution alone.
        epochs: Passes over the training images.
        batch_size: Images in a step; what is left of an epoch is dropped.
        lr: Adam's step for weights and biases at the start; follows a cosine to 0.
        scale_lr: The same for the scalar that multiplies the logits in the cross-entropy.
        beta1: Adam's decay of the gradient's mean.
        beta2: Adam's decay of the gradient's square; large values lag behind the drift of p.
        adam_eps: Adam's guard against division by 0; tiny, since most gradients are tiny at large p.
        p_start: The norm until `p_from_epoch`.
        p_end: The norm just before `p_until_epoch`, reached geometrically.
        p_from_epoch: Where p starts to grow.
        p_until_epoch: Where p becomes infinity.
        eps_warmup_epochs: Epochs over which the hinge's radius grows linearly from 0 to `eps_train`.
        lambda_start: Weight of the cross-entropy until `p_from_epoch`.
        lambda_end: Weight of the cross-entropy from `p_until_epoch`; geometric in between, like p.
        crop_padding: Images are shifted at random by up to this many pixels.
        crop_fill: What enters at the side: `edge`, the edge repeated, or `zero`, black.
        crop_size: Side of the square that is cropped at random, and from the middle of test images; 0: all of it.
        flip: Whether half of the images are mirrored, left to right.
        seed: Decides the initial weights, and with the epoch's number the order, the crops and the mirror images
            of an epoch.
    """

    name: str
    dataset: str
    eps_test: float
    eps_train: float
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    lr: float
    p_start: float
    p_end: float
    p_from_epoch: int
    p_until_epoch: int
    lambda_start: float
    lambda_end: float
    scale_lr: float = 0.006
    identity_init: float = 10.0
    eps_warmup_epochs: int = 0
    crop_padding: int = 0
    crop_fill: str = "edge"
    crop_size: int = 0
    flip: bool = False
    beta1: float = 0.9
    beta2: float = 0.99
    adam_eps: float = 1e-10
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value and how they fit together.

        Raises:
            RecipeError: Naming the field, what was found and what was expected.
        """
        for name, (allowed, expected) in RULES.items():
            if not allowed(value := getattr(self, name)):
                raise RecipeError(f"{name} is {value!r}; expected {expected}")
        if not self.p_start <= self.p_end:
            raise RecipeError(f"p_end is {self.p_end}; expected at least p_start, which is {self.p_start}")
        if not self.p_from_epoch <= self.p_until_epoch <= self.epochs:
            raise RecipeError(
                f"p_from_epoch is {self.p_from_epoch}, p_until_epoch {self.p_until_epoch} and "
                f"epochs {self.epochs}; expected them in ascending order"
            )

    def to_json(self) -> dict[str, Any]:
        """Returns the recipe as data that JSON can hold."""
        return {**asdict(self), "hidden": list(self.hidden)}


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by its name or from a TOML file.

    Args:
        name_or_path: One of `recipe_names()`, or a path that ends in `.toml`.
        overrides: `key=value` each, in TOML's syntax for values; bare words are taken as strings. The last one
            of a key counts.

    Raises:
        RecipeError: An unknown name or field, a missing field, a value of the wrong type or an impossible one.
    """
    path = _find(name_or_path)
    try:
        values = _parse(read_bytes(path, MAX_BYTES, "a training recipe"))
        values.update(_parse_override(text) for text in overrides)
        return _recipe_from(path.stem, values)
    except InputError as error:
        text = str(error)
        raise RecipeError(text if str(path) in text else f"recipe {name_or_path}: {text}") from None


def _find(name_or_path: str) -> Path:
    if name_or_path.endswith(".toml"):
        return Path(name_or_path)
    if name_or_path not in recipe_names():
        raise RecipeError(
            f"there is no recipe {name_or_path!r}; expected one of {', '.join(recipe_names())}, "
            "or the path of a file that ends in .toml"
        )
    return FOLDER / f"{name_or_path}.toml"


def _parse(raw: bytes) -> dict[str, Any]:
    toml = _toml()
    try:
        values: dict[str, Any] = toml.loads(raw.decode())
    except ValueError as error:
        raise RecipeError(f"the file is not TOML: {error}; expected lines of the form lr = 0.03") from None
    return values


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or not value.strip():
        raise RecipeError(f"the override {text!r} is not of the form key=value; expected for example lr=0.03")
    value = value.strip()
    toml = _toml()
    try:
        parsed = toml.loads(f"value = {value}")
    except ValueError:
        parsed = {"value": value} if BARE_WORD.fullmatch(value) else {}
    if set(parsed) != {"value"}:
        raise RecipeError(f"the override {text!r} has no TOML value; expected for example hidden=[512,512]")
    return key.strip(), parsed["value"]


def _toml() -> Any:
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib
    try:
        import tomli
    except ImportError:
        raise MissingExtraError("reading a recipe", "train") from None
    return tomli


def _recipe_from(name: str, values: Mapping[str, Any]) -> Recipe:
    known = {field.name: field for field in fields(Recipe) if field.name != "name"}
    if unknown := sorted(set(values) - set(known)):
        raise RecipeError(f"unknown field {unknown[0]!r}; expected among {', '.join(sorted(known))}")
    required = {field.name for field in known.values() if field.default is MISSING}
    if missing := sorted(required - set(values)):
        raise RecipeError(f"the field {missing[0]!r} is missing; expected all of {', '.join(sorted(required))}")
    return Recipe(name=name, **{key: _typed(key, str(known[key].type), value) for key, value in values.items()})


def _typed(name: str, kind: str, value: Any) -> Any:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if (kind == "str" and isinstance(value, str)) or (kind == "bool" and isinstance(value, bool)):
        return value
    if kind == "int" and is_int:
        return value
    if kind == "float" and (is_int or isinstance(value, float)):
        return float(value)
    if kind == "tuple[int, ...]" and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    wanted = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
        kind, "a list of whole numbers"
    )
    raise RecipeError(f"{name} is {value!r}; expected {wanted}")


def _between(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= value <= high


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "dataset": (bool, "the name of a data set, such as digits"),
    "eps_test": (lambda value: 0 < value < 0.5, "a fraction of the pixel range above 0 and below 0.5"),
    "eps_train": (_is_positive, "a positive number"),
    "hidden": (
        lambda value: all(1 <= units <= MAX_WIDTH for units in value),
        f"layers of 1 to {MAX_WIDTH} units",
    ),
    "epochs": (_between(1, 10**6), "at least 1 and at most 1000000"),
    "batch_size": (_between(2, 10**6), "at least 2 and at most 1000000"),
    "lr": (lambda value: 0 < value <= 1000, "above 0 and at most 1000"),
    "scale_lr": (_between(0, 1000), "0 to 1000"),
    "p_start": (_between(2, 10**5), "a norm from 2 to 100000"),
    "p_end": (_between(2, 10**5), "a norm from 2 to 100000"),
    "p_from_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "p_until_epoch": (_between(0, 10**6), "0 or a later epoch"),
    "lambda_start": (_is_positive, "a positive number"),
    "lambda_end": (_is_positive, "a positive number"),
    "identity_init": (lambda value: 0 <= value < math.inf, "0 (off) or a positive number"),
    "eps_warmup_epochs": (_between(0, 10**6), "0 (off) or a number of epochs"),
    "crop_padding": (_between(0, 64), "0 (off) to 64 pixels"),
    "crop_fill": (lambda value: value in {"edge", "zero"}, "'edge' or 'zero'"),
    "crop_size": (_between(0, 4096), "0 (off) to 4096 pixels"),
    "beta1": (lambda value: 0 <= value < 1, "a decay from 0 to below 1"),
    "beta2": (lambda value: 0 <= value < 1, "a decay from 0 to below 1"),
    "adam_eps": (_is_positive, "a positive number"),
    "seed": (_between(0, 2**63 - 1), "0 to 2^63 - 1"),
}
