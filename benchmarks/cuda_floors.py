# SPDX-License-Identifier: Apache-2.0
"""The least time a card could take: instructions an element, by the unit that executes them, and bytes moved.

Nothing here is from a datasheet but the lanes of each unit. Clock and bandwidth are measured (cuda_ceilings.py),
instructions counted in the machine code of the kernels' inner loops; reads of shared memory, addresses and ends of
loops come on top, about one instruction in thirty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["COSTS", "CardRates", "Cost", "Kernel", "cost_of", "cycles_of", "floor_seconds", "lanes_of"]


# The architectures whose maximum takes three floats, or three pairs of halves, as their machine code shows.
FLOATS_OF_THREE, HALVES_OF_THREE = (100, 120), (90, 110)


@dataclass(frozen=True)
class Cost:
    """Instructions of one element, a (b, o, i) triple.

    Attributes:
        fma: Additions and products, of one float or a pair of halves.
        alu: Maxima, comparisons, selections.
        mufu: Logarithms and powers of two, in the special function unit.
    """

    fma: float
    alu: float
    mufu: float = 0.0

    @property
    def issued(self) -> float:
        """All of them: what the schedulers have to issue."""
        return self.fma + self.alu + self.mufu


@dataclass(frozen=True)
class Kernel:
    """A kernel's cost.

    Attributes:
        two: Where a maximum takes two operands.
        three: Where one instruction takes three; as `two` if left out.
        joined: The first architecture with such, and the first after them without.
    """

    two: Cost
    three: Cost | None = None
    joined: tuple[int, int] = FLOATS_OF_THREE


@dataclass(frozen=True)
class CardRates:
    """What floors need to know of a card.

    Attributes:
        architecture: Such as 90 for compute capability 9.0.
        multiprocessors: Their number.
        clock: Clocks a second of a multiprocessor at work.
        bandwidth: Bytes moved a second, read and written together.
    """

    architecture: int
    multiprocessors: int
    clock: float
    bandwidth: float


COSTS: dict[str, Kernel] = {
    # x - w; max with |.|
    "float32": Kernel(Cost(1, 1), Cost(1, 0.5)),
    "float16": Kernel(Cost(0.5, 0.5), Cost(0.5, 0.25), HALVES_OF_THREE),
    # As float32 and float16, and what makes such numbers of integers, for 8 rows and 8 outputs at a time.
    "int16": Kernel(Cost(1, 1.375), Cost(1, 0.875)),
    "uint8": Kernel(Cost(0.5, 0.625), Cost(0.5, 0.375), HALVES_OF_THREE),
    "int8": Kernel(Cost(0.5, 0.6875), Cost(0.5, 0.4375), HALVES_OF_THREE),
    # Of every four terms the largest; a comparison and two selections with what was found before.
    "argmax": Kernel(Cost(1, 1.5), Cost(1, 1.25)),
    # Two differences, two maxima, two minima.
    "bounds": Kernel(Cost(2, 4), Cost(2, 2)),
    "conv": Kernel(Cost(1, 1), Cost(1, 0.5)),
    # d, d^2, d^4, sum of d^8; backward: d, d^2, d^4, d^6, d^7, and a product into either gradient.
    "p = 8": Kernel(Cost(4, 0)),
    "p = 8 backward": Kernel(Cost(7, 0)),
    # d, ratio, its guard, log2, times p, 2^v, sum; backward: a guard and two products more.
    "p < 40": Kernel(Cost(fma=4, alu=1, mufu=2)),
    "p < 40 backward": Kernel(Cost(fma=6, alu=2, mufu=2)),
    # Every term is looked at, for the maximum and in a search: a difference, a comparison and what is kept of it;
    # in the backward pass by the search alone. Powers are few.
    "p >= 40": Kernel(Cost(2, 2.25), Cost(2, 2.5)),
    "p >= 40 backward": Kernel(Cost(1, 1.25), Cost(1, 1.75)),
}
"""What each kernel needs for one element, by the names that the benchmark uses."""


def lanes_of(architecture: int) -> dict[str, int]:
    """Returns the lanes of a multiprocessor's units: threads' instructions a clock.

    Args:
        architecture: Of the card, such as 90.
    """
    return {"issued": 128, "fma": 64 if architecture in {75, 80} else 128, "alu": 64, "mufu": 16}


def cost_of(kernel: str, architecture: int) -> Cost:
    """Returns a kernel's cost on an architecture."""
    found = COSTS[kernel]
    first, end = found.joined
    return found.three if found.three and first <= architecture < end else found.two


def cycles_of(cost: Cost, lanes: Mapping[str, int]) -> float:
    """Returns the clocks of one multiprocessor for one element: those of the unit that has most to do.

    >>> 1 / cycles_of(Cost(fma=1, alu=1), lanes_of(90))
    64.0
    """
    return float(max(getattr(cost, unit) / count for unit, count in lanes.items()))


def floor_seconds(kernel: str, elements: float, size: float, card: CardRates) -> float:
    """Returns the least time of a kernel: of its arithmetic or of its bytes, whichever takes longer.

    Args:
        kernel: One of COSTS, or anything else where only bytes count.
        elements: (b, o, i) triples.
        size: Bytes read once and written once.
        card: What the card does.
    """
    moved = size / card.bandwidth
    if kernel not in COSTS:
        return moved
    cycles = elements * cycles_of(cost_of(kernel, card.architecture), lanes_of(card.architecture))
    return max(moved, cycles / (card.multiprocessors * card.clock))
