# SPDX-License-Identifier: Apache-2.0
"""What CUDA's compiler makes of the kernels: registers, spills and machine code, none of which needs a GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "linfdeploy" / "kernels"
SOURCES = sorted(path.stem for path in (KERNELS / "cuda").glob("*.cu") if path.stem != "runtime")
# Of the architectures with the instructions of an earlier one (80, 86, 87 and 89; 100 and 110), one each.
ARCHITECTURES = ("sm_75", "sm_87", "sm_90", "sm_110", "sm_120")
FURTHER_ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_100")

_REPORT = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
    r"(\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


@dataclass(frozen=True)
class Entry:
    """What a kernel needs.

    Attributes:
        registers: A thread's.
        memory: Bytes of local memory, for spilled registers or arrays.
    """

    registers: int
    memory: int


def nvcc() -> str | None:
    return shutil.which("nvcc")


def disassembler() -> str | None:
    """nvdisasm, of a toolkit or of the package nvidia-cuda-nvdisasm."""
    package = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/*/bin/nvdisasm"))
    return shutil.which("nvdisasm") or next(map(str, package), None)


def compile_kernels(source: str, architecture: str, cubin: Path) -> dict[str, Entry]:
    """Compiles a file of kernels, every warning an error, and returns what its entries need."""
    command = [nvcc() or "nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-Xptxas", "-v"]
    strict = ["--Werror", "all-warnings", "-Xptxas", "--warning-as-error", "-Xptxas", "--warn-on-spills"]
    files: list[str | Path] = ["-I", KERNELS / "include", KERNELS / "cuda" / f"{source}.cu", "-o", cubin]
    done = subprocess.run([*command, *strict, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: Entry(int(registers), int(stack) + int(stores) + int(loads))
        for name, stack, stores, loads, registers in _REPORT.findall(done.stdout + done.stderr)
    }


def innermost_loop(cubin: Path, entry: str, operation: str) -> list[str]:
    """Returns the instructions of the loop of an entry that has most of an operation, such as FMNMX.

    Each instruction is its operation with modifiers, such as LDS.128; loops are what lies between a label and a
    branch back to it.
    """
    done = subprocess.run([disassembler() or "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True)
    _, code = re.split(rf"\.section\s+\.text\.{entry}\b", done.stdout, maxsplit=1)
    lines = re.split(r"\.section\s", code, maxsplit=1)[0].splitlines()
    labels = {line.strip()[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\s*\.L_\w+:\s*", line)}
    loops = [
        [found[1] for line in lines[labels[target[1]] : at] if (found := re.search(_INSTRUCTION, line))]
        for at, line in enumerate(lines)
        if (target := re.search(r"BRA.*`\((\.L_\w+)\)", line)) and labels.get(target[1], at) < at
    ]
    return min(
        (loop for loop in loops if count(loop, operation) == max(count(each, operation) for each in loops)),
        key=len,
    )


_INSTRUCTION = r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)"


def count(instructions: list[str], *operations: str) -> int:
    """Returns how many of the instructions are one of the operations, whatever their modifiers."""
    return sum(instruction.split(".")[0] in operations for instruction in instructions)
