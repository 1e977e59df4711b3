# SPDX-License-Identifier: Apache-2.0
"""Recipes: every dial of a training run, read once from a TOML file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from linfdeploy.errors import InputError, MissingExtraError, RecipeError
from linfdeploy.files import read_bytes
from linfdeploy.training.recipe_rules import check_fields, check_together

__all__ = ["Recipe", "load_recipe", "recipe_defaults", "recipe_names"]

FOLDER = Path(__file__).parent / "recipes"
MAX_BYTES = 2**20
BARE_WORD = re.compile(r"[A-Za-z_/.~][\w./{}~-]*")
FRACTION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)/([1-9]\d{0,8})")


@dataclass(frozen=True)
class Recipe:
    """One training run. Radii are fractions of the pixel range: 0.1 is 25.5 of 255 levels.

    The formulas behind the fields, with their sources: docs/training.md.

    Sources: Zhang et al., "Towards Certifying l_inf Robustness using Neural Networks with l_inf-dist Neurons",
    ICML 2021; "Boosting the Certified Robustness of l-infinity Distance Nets", ICLR 2022, which has the defaults;
    "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function Perspective", NeurIPS 2022.

    Attributes:
        name: The name of the TOML file, without its ending.
        dataset: What `linfdeploy.training.data.load_dataset` takes.
        eps_test: The radius at which the net is certified.
        eps_train: The radius of the loss's margins: half the margin, in pixels, at which a hinge is satisfied.
        hidden: Units of each hidden layer of distances.
        conv: Filters of each convolution of distances in front of the hidden layers, with windows of 3 x 3 and the
            mean pixel around the image; empty: no convolutions.
        conv_strides: How far each convolution's window moves; empty: one pixel.
        epochs: Passes over the training images.
        batch_size: Images in a step; what is left of an epoch is dropped.
        late_batch_size: Images in a step from `late_from_epoch` on, when less noise is worth more than steps;
            0: as before.
        late_from_epoch: See there.
        lr: Adam's step for weights and biases at the start.
        p_start: The norm until `p_from_epoch`.
        p_end: The norm just before `p_until_epoch`, reached geometrically.
        p_from_epoch: Where p starts to grow.
        p_until_epoch: Where p becomes infinity.
        p_whole: Whether p is rounded to whole numbers below 48, whose powers cost a CPU a fraction of others'.
        kept_bits: Terms of distances below 2^-kept_bits of the largest may be left out (`kernels.lp_dist`); less
            than the default is a rougher relaxation that costs a CPU less. The net at p = infinity has none.
        loss: `mixture` (cross-entropy and clipped hinge), `hinge`, `crossentropy` (of the worst margins) or
            `ce_hinge` (cross-entropy, and a hinge of the images that are classified correctly).
        lambda_start: Weight of the cross-entropy in `mixture` and `ce_hinge` until `p_from_epoch`.
        lambda_end: Its weight from `p_until_epoch`; geometric in between, like p.
        loss_mix: Share of the largest margin in `hinge`; the rest is the mean over the classes.
        kappa: Share of the worst margins in `hinge` and `crossentropy`; the rest is the loss of the clean ones.
        margins: `absolute`, or `relative`: of a pure net, divided by `2 eps`; those of `mixture` always are.
        neuron: Of all layers of distances but the first, which has `linf_dist`: that, or `sort_dist`, the weighted
            sum of the sorted differences, trained on random subsets of the inputs.
        keep: The probability with which `sort_dist` keeps an input, which is also the share of its largest term.
        terms: How many of the largest differences `sort_dist` takes outside training.
        head: Units of each hidden layer of a head of linear layers behind the distances; empty: no head.
        identity_init: Where a layer has no fewer outputs than inputs, output o starts with weight
            `-identity_init` on input `o mod inputs`; 0 leaves the normal distribution alone.
        weight_std: Standard deviation of the other weights of distances at the start.
        scale_lr: Like `lr`, for the scalar that multiplies the logits in the cross-entropy.
        lr_from_epoch: Where the steps start to follow a cosine, which ends at 0.
        lr_decay_epochs: Where the steps are divided by 5, in the cosine's place.
        weight_decay: Of the distances: of each weight in proportion to its share of its row's norm of order p.
        head_weight_decay: Ordinary decoupled decay, of the head and the scalar.
        eps_from_epoch: Where the radius of the loss starts to grow.
        eps_warmup_epochs: Epochs over which it grows from 0 to `eps_train`; 0: it is `eps_train` throughout.
        eps_smooth: The share of the warmup over which it grows with the fourth power before it grows linearly.
        crop_padding: Images are shifted at random by up to this many pixels.
        crop_share: The share of the images that are cropped at random; the others are cropped from the middle.
        crop_fill: What enters at the side: `edge`, the edge repeated, or `zero`, black.
        crop_size: Side of the square that is cropped at random, and from the middle of test images; 0: all of it.
        flip: Whether half of the images are mirrored, left to right.
        beta1: Adam's decay of the gradient's mean.
        beta2: Adam's decay of the gradient's square; large values lag behind the drift of p.
        adam_eps: Adam's guard against division by 0; tiny, since most gradients are tiny at large p.
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
    p_whole: bool = False
    kept_bits: float = 37.0
    late_batch_size: int = 0
    late_from_epoch: int = 0
    loss: str = "mixture"
    lambda_start: float = 0.0
    lambda_end: float = 0.0
    loss_mix: float = 0.75
    kappa: float = 1.0
    margins: str = "absolute"
    neuron: str = "linf_dist"
    keep: float = 1.0
    terms: int = 10
    head: tuple[int, ...] = ()
    conv: tuple[int, ...] = ()
    conv_strides: tuple[int, ...] = ()
    identity_init: float = 10.0
    weight_std: float = 1.0
    scale_lr: float = 0.006
    lr_from_epoch: int = 0
    lr_decay_epochs: tuple[int, ...] = ()
    weight_decay: float = 0.0
    head_weight_decay: float = 0.0
    eps_from_epoch: int = 0
    eps_warmup_epochs: int = 0
    eps_smooth: float = 0.0
    crop_padding: int = 0
    crop_share: float = 1.0
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
        check_fields(self)
        check_together(self)

    @property
    def divides_by_eps(self) -> bool:
        """Whether the loss takes margins as multiples of `2 eps`, so that eps must never be 0."""
        return self.loss == "mixture" or self.margins == "relative"

    @property
    def learns_scale(self) -> bool:
        """Whether a cross-entropy of the scaled logits is part of the loss."""
        return self.loss in {"mixture", "ce_hinge"}

    @property
    def convolutions(self) -> tuple[tuple[int, int], ...]:
        """Filters and stride of each convolution."""
        return tuple(zip(self.conv, self.conv_strides or (1,) * len(self.conv), strict=True))

    def batch_size_in(self, epoch: int) -> int:
        """Returns how many images a step of an epoch has, counted from 0."""
        return self.late_batch_size if self.late_batch_size and epoch >= self.late_from_epoch else self.batch_size

    def to_json(self) -> dict[str, Any]:
        """Returns the recipe as data that JSON can hold."""
        return _to_json(asdict(self))


def recipe_defaults() -> dict[str, Any]:
    """Returns the fields that a recipe need not name, with their defaults, as data that JSON can hold."""
    return _to_json({field.name: field.default for field in fields(Recipe) if field.default is not MISSING})


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the package, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe by its name or from a TOML file.

    Args:
        name_or_path: One of `recipe_names()`, or a path that ends in `.toml`.
        overrides: `key=value` each, in TOML's syntax for values; bare words are taken as strings, and numbers may
            be fractions such as `8/255`, which in a file is a string. The last one of a key counts.

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
        parsed = {"value": value} if BARE_WORD.fullmatch(value) or FRACTION.fullmatch(value) else {}
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


def _to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


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
    if kind == "float" and isinstance(value, str) and (found := FRACTION.fullmatch(value)):
        return float(found[1]) / float(found[2])
    if kind == "tuple[int, ...]" and isinstance(value, list) and all(type(item) is int for item in value):
        return tuple(value)
    wanted = {"str": "a string", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
        kind, "a list of whole numbers"
    )
    raise RecipeError(f"{name} is {value!r}; expected {wanted}")
