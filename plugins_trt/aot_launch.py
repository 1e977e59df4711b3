# SPDX-License-Identifier: Apache-2.0
"""What the ahead-of-time plugins share: sizes, and what TensorRT is told of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import Parameter, Signature
from math import prod
from types import GenericAlias
from typing import Any

from linfdeploy.errors import EngineError
from linfdeploy.kernels import _cuda
from linfdeploy.kernels.cuda.aot import AotKernel
from linfdeploy.kernels.cuda.compiler import ptx
from linfdeploy.plugins_trt import PLUGIN_NAMESPACE

__all__ = ["Launch", "Target", "declare", "launch", "least", "most", "plugin_id", "refuse_large"]

# Name, PTX, grid and block, and the numbers among the arguments.
Launch = tuple[str, str, Any, Any]
Describe = Callable[[Any, Any, Any, dict[str, Any]], Any]
Combinations = Callable[[Any, Any, Any], Any]
Kernel = Callable[[Any, Any, Any, dict[str, Any], int], Launch]

LARGEST_INDEX = 2**31 - 1
NUMBER_BYTES = 4


@dataclass
class Target:
    """What engines are built for.

    Attributes:
        architecture: Such as 87 for compute capability 8.7; 0 before it is known.
    """

    architecture: int = 0


def plugin_id(name: str) -> str:
    """Returns what TensorRT's Python calls a plugin of ours."""
    return f"{PLUGIN_NAMESPACE}::{name}"


def declare(
    name: str, attributes: dict[str, Any], describe: Describe, combinations: Combinations, kernel: Kernel
) -> None:
    """Tells TensorRT of a plugin with the inputs X, W and B and one output.

    Args:
        name: Of the plugin.
        attributes: Names and types; TensorRT has no defaults, so a node carries all of them.
        describe: Takes the inputs and the attributes by name; returns the output's shape and type.
        combinations: Takes the inputs; returns the types, formats and tactics that fit them.
        kernel: Takes the inputs, the attributes by name and a tactic.
    """
    import tensorrt.plugin as trtp

    def launched(x: Any, w: Any, b: Any, *others: Any) -> Launch:
        *values, _, tactic = others
        return kernel(x, w, b, dict(zip(attributes, values, strict=True)), tactic)

    def combined(x: Any, w: Any, b: Any, _: Any) -> Any:
        return combinations(x, w, b)

    def described(x: Any, w: Any, b: Any, **values: Any) -> Any:
        return describe(x, w, b, values)

    inputs = dict.fromkeys("xwb", trtp.TensorDesc)
    outputs = {"outputs": GenericAlias(tuple, (trtp.TensorDesc,))}
    of_launch = GenericAlias(tuple, (str, str, trtp.KernelLaunchParams, trtp.SymExprs))
    _sign(described, inputs | attributes, trtp.TensorDesc)
    _sign(combined, inputs | outputs, GenericAlias(list, (trtp.AutoTuneCombination,)))
    _sign(launched, inputs | attributes | outputs | {"tactic": int}, of_launch)
    trtp.register(plugin_id(name))(described)
    trtp.autotune(plugin_id(name))(combined)
    trtp.aot_impl(plugin_id(name))(launched)


def _sign(function: Any, parameters: dict[str, Any], result: Any) -> None:
    """TensorRT reads names and types from a signature; none can be written for a module that may not be there."""
    kind = Parameter.POSITIONAL_OR_KEYWORD
    listed = [Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = Signature(listed, return_annotation=result)


def launch(kernel: AotKernel, target: Target, rows: Any, columns: Any, numbers: Sequence[Any]) -> Launch:
    """Returns what TensorRT needs to start a kernel whenever the sizes change.

    Args:
        kernel: Which.
        target: What it is compiled for.
        rows: Of the results, an expression of sizes.
        columns: Of the results, an expression of sizes.
        numbers: The arguments between those of the inputs and the output: expressions of sizes, or numbers.

    Raises:
        KernelError: The kernel does not compile.
        MissingExtraError: The compiler is not installed.
    """
    import tensorrt.plugin as trtp

    blocks = trtp.cdiv(rows, kernel.rows) * trtp.cdiv(columns, kernel.columns)
    grid = trtp.KernelLaunchParams()
    # An empty grid could not be started.
    grid.grid_x = trtp.max(blocks, 1)
    grid.block_x = kernel.threads
    grid.shared_mem = kernel.shared_bytes
    arguments = trtp.SymIntExprs.from_tuple([trtp.SymInt32(number) for number in numbers])
    return kernel.name, ptx(kernel.file, kernel.name, target.architecture), grid, arguments


def least(tensor: Any) -> tuple[int, ...]:
    """Returns a tensor's smallest shape in the profile."""
    return tuple(tensor.shape.min if tensor.shape.is_dynamic else tensor.shape)


def most(tensor: Any) -> tuple[int, ...]:
    """Returns a tensor's largest shape in the profile."""
    return tuple(tensor.shape.max if tensor.shape.is_dynamic else tensor.shape)


def refuse_large(name: str, row: int, *shapes: Sequence[int]) -> None:
    """Checks that a kernel's indices reach all of the largest tensors: nobody looks at run time.

    Args:
        name: Of the plugin.
        row: The numbers in a row of w.
        shapes: Of all tensors.

    Raises:
        EngineError: They do not.
    """
    if max(map(prod, shapes)) > LARGEST_INDEX or row > _cuda.MAX_ROW_BYTES // NUMBER_BYTES:
        raise EngineError(
            f"{plugin_id(name)}: X, W or Y has up to {max(map(prod, shapes))} elements in rows of {row}; expected "
            f"fewer than 2^31, and rows of less than 2 GiB: make the largest batch of the profile smaller"
        )
