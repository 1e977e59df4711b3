# SPDX-License-Identifier: Apache-2.0
"""Every kernel compiles for each architecture, within its registers, to the instructions that were counted on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from device_code import (
    ARCHITECTURES,
    FURTHER_ARCHITECTURES,
    SOURCES,
    Entry,
    compile_kernels,
    count,
    disassembler,
    innermost_loop,
    nvcc,
)

# Registers of a thread, the most over all architectures. More would let fewer blocks share a multiprocessor.
BUDGET: dict[str, int] = json.loads((Path(__file__).parent / "registers.json").read_text())

pytestmark = pytest.mark.skipif(
    nvcc() is None, reason="there is no nvcc: install CUDA's toolkit to compile kernels"
)


def on(*architectures: str) -> list[Any]:
    """Parameters; the architectures that stand for others of the same instructions always run."""
    return [
        pytest.param(name, marks=[pytest.mark.thorough] * (name in FURTHER_ARCHITECTURES))
        for name in architectures
    ]


class Compiled:
    """Files for architectures, all files of one compiled side by side when the first is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, dict[str, Entry]] = {}

    def cubin(self, source: str, architecture: str) -> Path:
        self.on(architecture)
        return self._cubin(source, architecture)

    def on(self, architecture: str) -> dict[str, Entry]:
        if architecture not in self._entries:
            with ThreadPoolExecutor(2) as pool:
                jobs = [
                    pool.submit(compile_kernels, source, architecture, self._cubin(source, architecture))
                    for source in SOURCES
                ]
            self._entries[architecture] = {name: entry for job in jobs for name, entry in job.result().items()}
        return self._entries[architecture]

    def _cubin(self, source: str, architecture: str) -> Path:
        return self.folder / f"{source}.{architecture}.cubin"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    return Compiled(tmp_path_factory.mktemp("cubins"))


@pytest.mark.parametrize("architecture", on(*ARCHITECTURES, *FURTHER_ARCHITECTURES))
def test_registers_and_spills(compiled: Compiled, architecture: str) -> None:
    entries = compiled.on(architecture)
    assert sorted(entries) == sorted(BUDGET)
    assert {name: entry.memory for name, entry in entries.items() if entry.memory} == {}
    over = {
        name: (entry.registers, BUDGET[name]) for name, entry in entries.items() if entry.registers > BUDGET[name]
    }
    assert over == {}, "registers found and budgeted: see registers.json"


@pytest.mark.skipif(disassembler() is None, reason="there is no nvdisasm: pip install nvidia-cuda-nvdisasm")
class TestInstructions:
    """The loops over the inputs, as machine code."""

    @pytest.mark.parametrize("entry", ["linf_dist_f32_large", "linf_dist_f32_medium"])
    @pytest.mark.parametrize("architecture", on("sm_75", "sm_80", "sm_87", "sm_89", "sm_90", "sm_120"))
    def test_float32_takes_two_instructions_a_term(
        self, compiled: Compiled, architecture: str, entry: str
    ) -> None:
        loop = innermost_loop(compiled.cubin("linf_dist", architecture), entry, "FMNMX")
        terms = 4 * 8 * 8
        assert count(loop, "FADD") == count(loop, "FMNMX") == terms
        assert count(loop, "FFMA", "FMUL", "FSETP", "FSEL", "LDL", "STL") == 0
        assert len(loop) < 2.2 * terms

    @pytest.mark.parametrize("architecture", on("sm_100", "sm_110"))
    def test_float32_takes_one_and_a_half_with_maxima_of_three(
        self, compiled: Compiled, architecture: str
    ) -> None:
        loop = innermost_loop(compiled.cubin("linf_dist", architecture), "linf_dist_f32_large", "FMNMX3")
        terms = 4 * 8 * 8
        assert (count(loop, "FADD"), count(loop, "FMNMX3"), count(loop, "FMNMX")) == (terms, terms / 2, 0)
        assert len(loop) < 1.75 * terms

    @pytest.mark.parametrize("architecture", on("sm_80", "sm_87", "sm_90", "sm_110"))
    def test_float16_takes_at_most_one_instruction_a_term(self, compiled: Compiled, architecture: str) -> None:
        loop = innermost_loop(compiled.cubin("linf_dist", architecture), "linf_dist_f16_large", "HADD2")
        terms = 2 * 4 * 8 * 8
        assert len(loop) < 1.15 * terms

    def test_bounds_take_six(self, compiled: Compiled) -> None:
        loop = innermost_loop(compiled.cubin("linf_dist_bounds", "sm_90"), "linf_dist_bounds", "FMNMX")
        terms = 4 * 4 * 8
        assert (count(loop, "FADD"), count(loop, "FMNMX")) == (2 * terms, 4 * terms)
        assert len(loop) < 6.5 * terms

    @pytest.mark.parametrize("entry", ["lp_dist_eight", "lp_dist_eight_small"])
    @pytest.mark.parametrize("architecture", on("sm_75", "sm_87", "sm_90", "sm_110"))
    def test_eighth_powers_take_four(self, compiled: Compiled, architecture: str, entry: str) -> None:
        loop = innermost_loop(compiled.cubin("lp_dist", architecture), entry, "FFMA")
        terms = count(loop, "FFMA")
        assert (count(loop, "FADD"), count(loop, "FMUL")) == (terms, 2 * terms)
        assert len(loop) < 4.4 * terms

    @pytest.mark.parametrize("architecture", on("sm_75", "sm_87", "sm_90", "sm_110"))
    def test_powers_take_two_special_functions(self, compiled: Compiled, architecture: str) -> None:
        loop = innermost_loop(compiled.cubin("lp_dist", architecture), "lp_dist_general", "MUFU")
        terms = 4 * 4 * 4
        assert count(loop, "MUFU") == 2 * terms
        # A multiprocessor takes as long for the two as for sixteen others.
        assert len(loop) < 8 * terms

    @pytest.mark.parametrize("architecture", on("sm_75", "sm_87", "sm_90", "sm_110"))
    def test_terms_that_do_not_count_take_two_and_a_half(self, compiled: Compiled, architecture: str) -> None:
        loop = innermost_loop(compiled.cubin("lp_dist", architecture), "lp_dist_large", "FMNMX")
        terms = 4 * 8 * 4
        # With what is done for a term that counts, about 90 instructions.
        assert len(loop) < 2.5 * terms + 100
