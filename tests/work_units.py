# SPDX-License-Identifier: Apache-2.0
"""How tests are shared out: those that share builds or other fixtures run on one worker, the longest first.

The marks of xdist would do, but each file must name them, and since pytest 9.2 xdist 3.8 overlooks them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest

__all__ = ["WorkUnits", "sorted_by_cost", "unit_of"]

SHARED = {
    # The builds of the kernels for the emulator.
    "emulator": (
        "kernels/cuda/test_emulated.py",
        "kernels/cuda/test_ops.py",
        "plugins_trt/test_aot.py",
        "plugins_trt/test_conformance.py",
        "plugins_trt/test_verify_golden.py",
        "plugins_trt/test_verify_golden_refusals.py",
    ),
    # The process that ranks are forked from, which takes seconds to import torch.
    "ranks": ("test_ranks.py", "training/test_resume.py", "verify/test_resume.py", "verify/test_shards.py"),
}
"""Files that use one costly thing, and what it is."""

LONGEST = (
    "emulator",
    "kernels/cuda/test_compile.py",
    "test_packaging.py",
    "ranks",
    "kernels/test_native.py",
)
"""What would leave the other workers without work if it came last."""


def unit_of(nodeid: str) -> str:
    """A test's unit: its file, or what several files share."""
    file = nodeid.split("::", maxsplit=1)[0].removeprefix("tests/")
    return next((unit for unit, files in SHARED.items() if file in files), file)


def sorted_by_cost(items: list[pytest.Item]) -> list[pytest.Item]:
    """The longest units first, the others as they were."""
    rank = {unit: place for place, unit in enumerate(LONGEST)}
    return sorted(items, key=lambda item: rank.get(unit_of(item.nodeid), len(rank)))


class WorkUnits(LoadScopeScheduling):  # type: ignore[misc]
    """Hands out whole units, in the order of their first tests."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
