# SPDX-License-Identifier: Apache-2.0
"""The family of operation orders and roundings that an engine of a net may follow.

A kernel of `max_i |x_i - w_oi| + b_o` has few freedoms that show in its bits: after which operations it rounds to
the net's format, whether a hidden bias is folded into the next layer's weights, and whether subnormal numbers are
flushed to zero. Each member of the family is monotone in every argument, so that intervals propagated with it are
sound for an engine that follows it: section 7 of docs/theory.md.

Members that provably give the same bits for every image of a net are one: in an exact net all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from linfdeploy.engines.base import Logits
from linfdeploy.onnx.passes.ranges import never_rounds
from linfdeploy.onnx.pixel_net import Floats, PixelLayer, PixelNet, on_grid

__all__ = ["PER_OP", "Flush", "Operands", "Rounding", "flushed", "name_of", "operands_of", "roundings_of"]

Flush: TypeAlias = Literal["never", "inputs", "outputs", "inputs and outputs"]
FLUSHES: tuple[Flush, ...] = ("never", "outputs", "inputs", "inputs and outputs")
NAMED = 4
PLACES = ("distance", "bias", "last_distance", "last_bias")


@dataclass(frozen=True)
class Rounding:
    """Where an engine rounds to the net's format, and in which order it adds.

    A float32 net rounds after every operation; a float16 net may hold float32 in between.

    Attributes:
        distance: Whether it rounds after the hidden layers' distances.
        bias: Whether it rounds after the hidden layers' bias sums; with `folded`, the folded weights.
        last_distance: Whether it rounds after the last layer's distance.
        last_bias: Whether it rounds after the last layer's bias sum.
        folded: Whether hidden biases are folded into the next weights: `y - (w - b)` for `(y + b) - w`.
        flush: Which subnormal numbers of the format become zero: those that enter a subtraction or a sum, those
            that leave it rounded, or both.
    """

    distance: bool = True
    bias: bool = True
    last_distance: bool = True
    last_bias: bool = True
    folded: bool = False
    flush: Flush = "never"

    @property
    def name(self) -> str:
        """`per-op`, `fp32 held throughout`, or the operations that round; then what else departs from per-op."""
        extra = ["hidden biases folded into the next weights"] if self.folded else []
        if self.flush != "never":
            extra.append(f"subnormal {self.flush} flushed to zero")
        return ", ".join([self._places(), *extra])

    def _places(self) -> str:
        rounds = [place.replace("_", " ") for place in PLACES if getattr(self, place)]
        if len(rounds) == len(PLACES):
            return "per-op"
        return f"rounds after {', '.join(rounds)}" if rounds else "fp32 held throughout"


PER_OP = Rounding()


@dataclass(frozen=True)
class Operands:
    """The constants that an engine computes with: of each layer (O, I) and one bias an output, float32."""

    weights: tuple[Logits, ...]
    biases: tuple[Logits, ...]


def name_of(roundings: Sequence[Rounding]) -> str | None:
    """Returns the name of what an engine follows, `one of: ...` where several are possible, None where none is."""
    if len(roundings) < 2:
        return roundings[0].name if roundings else None
    names = [rounding.name for rounding in roundings[:NAMED]]
    if more := len(roundings) - len(names):
        names.append(f"{more} more")
    return f"one of: {'; '.join(names)}"


def roundings_of(net: PixelNet) -> Iterator[Rounding]:
    """Yields the family of a net, per-op first, without members that provably equal an earlier one."""
    if never_rounds(net):
        yield PER_OP
        return
    seen = set()
    for rounding in _family(net):
        if (canonical := _canonical(net, rounding)) not in seen:
            seen.add(canonical)
            yield canonical


def operands_of(net: PixelNet, rounding: Rounding) -> Operands:
    """Returns the constants of a net as an engine that follows `rounding` holds them."""
    layers = [_flushed_layer(layer) if "inputs" in rounding.flush else layer for layer in net.layers]
    weights = [layer.weight.astype(np.float32) for layer in layers]
    biases = [layer.output_bias.astype(np.float32) for layer in layers]
    if rounding.folded:
        dtype = net.format if rounding.bias else np.float32
        for index, bias in enumerate(biases[:-1]):
            with np.errstate(over="ignore"):
                weights[index + 1] = (weights[index + 1] - bias).astype(dtype).astype(np.float32)
            biases[index] = np.zeros_like(bias)
    return Operands(tuple(weights), tuple(biases))


def _family(net: PixelNet) -> Iterator[Rounding]:
    """Yields every order and rounding; folding and flushing are not combined."""
    flags = (True, False) if net.format == np.float16 else (True,)
    flushes = FLUSHES if _may_be_subnormal(net) else FLUSHES[:1]
    # Behind a bias that was folded away, the zeros beside an image would be others.
    folding = [] if net.convolves else [(FLUSHES[0], True)]
    for flush, folded in [(flush, False) for flush in flushes] + folding:
        for distance, bias, last_distance, last_bias in product(flags, repeat=len(PLACES)):
            yield Rounding(distance, bias, last_distance, last_bias, folded, flush)


def _canonical(net: PixelNet, rounding: Rounding) -> Rounding:
    """Returns the first member of the family that gives the same bits for every image, for a reason given here."""
    hidden, last = [layer.bias for layer in net.layers[:-1]], net.layers[-1].bias
    if not hidden:
        # There is nothing that the hidden layers' places could say.
        rounding = replace(rounding, distance=True, bias=True, folded=False)
    elif not any(bias.any() for bias in hidden):
        # Adding zero changes nothing, and rounding twice is rounding once.
        once = rounding.distance or (rounding.bias and not rounding.folded)
        rounding = replace(rounding, distance=once, bias=once, folded=False)
    # Flushed inputs tell whether a last sum of zero adds to a rounded number.
    if not last.any() and rounding.flush != "inputs":
        once = rounding.last_distance or rounding.last_bias
        rounding = replace(rounding, last_distance=once, last_bias=once)
    return rounding


def _may_be_subnormal(net: PixelNet) -> bool:
    """Returns whether some value may be subnormal: never, if all constants are multiples of a normal number.

    Differences and sums of multiples of the smallest normal number are such multiples, and so are their roundings.
    """
    grid = -int(np.finfo(net.format).minexp)
    return not all(on_grid(layer.weight, grid) and on_grid(layer.bias, grid) for layer in net.layers)


def _flushed_layer(layer: PixelLayer) -> PixelLayer:
    weight, bias = (flushed(values, values.dtype) for values in (layer.weight, layer.bias))
    return replace(layer, weight=weight, bias=bias)


def flushed(values: Floats, dtype: npt.DTypeLike) -> Floats:
    """Returns the values, in their own type, with the subnormal ones of `dtype` set to zero."""
    kept: Floats = np.where(np.abs(values) < np.finfo(dtype).smallest_normal, values.dtype.type(0), values)
    return kept
