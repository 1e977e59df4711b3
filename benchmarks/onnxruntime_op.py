# SPDX-License-Identifier: Apache-2.0
"""Times LinfDist in ONNX Runtime, side by side: `python benchmarks/onnxruntime_op.py`.

One layer of equal width, as the bare kernel, as the custom op, and as two function bodies: ours, a Scan over the
rows of W, and the naive one, which broadcasts the difference. All answers are compared to the bit first. Then each
way runs once a round, in turn, so that a busy machine slows all of them, and each right after a call that is not
timed, on caches and threads of its own; medians and quartiles are of the rounds. Prints a table and writes it to
`benchmarks/results/onnxruntime_op.json`, `.md` and `.svg`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import FunctionProto, ModelProto, helper, numpy_helper
from timing import CPU, WALL, cpu_model, surroundings

from linfdeploy.engines.custom_ops.library import THREADS_ENTRY, library
from linfdeploy.files import write_bytes
from linfdeploy.kernels import _cpu
from linfdeploy.onnx import linf_dist
from linfdeploy.report.svg import BOTTOM, LEFT, RIGHT, TOP, Axis, Plot

HERE = Path(__file__).parent / "results"
SIZES = (128, 1024, 5120)
BATCHES = (1, 32, 256)
THREADS = (1, 2)
WAYS = ("bare kernel", "custom op", "Scan body", "naive body")
SEED = 20
OPSET = 18
# The naive body holds two copies of batch * outputs * inputs floats.
NAIVE_BYTES = 4 * 2**30
# Of a case: at least so many rounds, and more while there is time.
LEAST_ROUNDS, MOST_ROUNDS, SECONDS = 5, 200, 8.0
# ONNX Runtime's threads go on spinning for a while after a call, against those of whoever comes next.
SETTLE = 0.005

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """What one way took in one case.

    Attributes:
        size: Inputs and outputs of the layer.
        batch: Rows of X.
        threads: Of the bare kernel and of ONNX Runtime.
        way: One of WAYS.
        rounds: How often it was timed.
        median: Seconds: of the processor on one thread, since others may use the machine; on two, by the clock.
        quartiles: Seconds: a quarter of the rounds took less, a quarter more.
        relative: How many times the custom op's median this one is.
    """

    size: int
    batch: int
    threads: int
    way: str
    rounds: int
    median: float
    quartiles: tuple[float, float]
    relative: float


@click.command()
@click.option("--sizes", default=",".join(map(str, SIZES)), help="Inputs and outputs, separated by commas.")
@click.option("--batches", default=",".join(map(str, BATCHES)), help="Batches, separated by commas.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE, help="Where the results go.")
def main(sizes: str, batches: str, out: Path) -> None:
    """Measures, prints and writes."""
    if not library().is_file():
        raise click.ClickException("there is no custom-op library: install with ONNXRUNTIME_ROOT")
    rows: list[Row] = []
    print(f"{'I = O':>6} {'N':>4} {'threads':>7}  {'way':<12} {'median ms':>10} {'quartiles':>21} {'times':>8}")
    for size in map(int, sizes.split(",")):
        for threads in THREADS:
            for batch, found in measure_layer(size, threads, [int(batch) for batch in batches.split(",")]):
                rows += found
                print_rows(found, batch)
    facts = {**surroundings("onnxruntime"), "instruction_set": _cpu.active(), "seed": SEED}
    result = {**facts, "rows": [asdict(row) for row in rows]}
    write_bytes(out / "onnxruntime_op.json", (json.dumps(result, indent=2) + "\n").encode())
    write_bytes(out / "onnxruntime_op.md", markdown(rows).encode())
    write_bytes(out / "onnxruntime_op.svg", chart(rows).encode())


def measure_layer(size: int, threads: int, batches: list[int]) -> list[tuple[int, list[Row]]]:
    """Times every way for every batch of one layer; sessions are made once."""
    rng = np.random.default_rng(SEED)
    w, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((size, size), (size,)))
    sessions = {
        "custom op": session(layer(w, b, linf_dist.function(OPSET)), threads, custom_op=True),
        "Scan body": session(layer(w, b, linf_dist.function(OPSET)), threads, custom_op=False),
        "naive body": session(layer(w, b, naive_function()), threads, custom_op=False),
    }
    results = []
    for batch in batches:
        x = rng.standard_normal((batch, size)).astype(np.float32)
        calls: dict[str, Callable[[], Array]] = {"bare kernel": bare(x, w, threads)}
        for way, one in sessions.items():
            if way != "naive body" or 8 * batch * size * size <= NAIVE_BYTES:
                calls[way] = running(one, x)
        assert_same_bits(calls, b)
        seconds = timed(calls, CPU if threads == 1 else WALL)
        results.append((batch, rows_of(size, batch, threads, seconds)))
    return results


def bare(x: Array, w: Array, threads: int) -> Callable[[], Array]:
    """Returns a call of the kernel alone, which adds no bias and writes into memory that is there."""
    y = np.empty((len(x), len(w)), np.float32)

    def call() -> Array:
        _cpu.linf_dist(x, w, y, threads)
        return y

    return call


def running(session: Any, x: Array) -> Callable[[], Array]:
    """Returns a call of a session."""
    return lambda: np.asarray(session.run(None, {"X": x})[0])


def assert_same_bits(calls: dict[str, Callable[[], Array]], bias: Array) -> None:
    """Refuses to time what computes something else; this is also the warm-up."""
    expected = calls["bare kernel"]() + bias
    for way, call in calls.items():
        if way != "bare kernel":
            assert call().tobytes() == expected.tobytes(), way


def timed(calls: dict[str, Callable[[], Array]], clock: Callable[[], float]) -> dict[str, list[float]]:
    """Runs all calls in turn, round after round; returns the seconds of each."""
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    start = time.perf_counter()
    for index in range(MOST_ROUNDS):
        if index >= LEAST_ROUNDS and time.perf_counter() - start > SECONDS:
            break
        for way, call in calls.items():
            time.sleep(SETTLE)
            call()
            begin = clock()
            call()
            seconds[way].append(clock() - begin)
    return seconds


def rows_of(size: int, batch: int, threads: int, seconds: dict[str, list[float]]) -> list[Row]:
    """Summarises the rounds of a case."""
    unit = statistics.median(seconds["custom op"])
    rows = []
    for way, rounds in seconds.items():
        first, median, third = statistics.quantiles(rounds, n=4)
        rows.append(Row(size, batch, threads, way, len(rounds), median, (first, third), median / unit))
    return rows


def layer(w: Array, b: Array, function: FunctionProto) -> ModelProto:
    """Returns a model of one LinfDist with constant weights and a function body."""
    graph = helper.make_graph(
        [linf_dist.node("X", "W", "B", "Y", "layer")],
        "layer",
        [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, ["N", w.shape[1]])],
        [helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, ["N", w.shape[0]])],
        [numpy_helper.from_array(w, "W"), numpy_helper.from_array(b, "B")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(linf_dist.DOMAIN, linf_dist.DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)


def naive_function() -> FunctionProto:
    """Returns the textbook body: all differences at once, then their maximum."""
    axes = numpy_helper.from_array(np.array([1]), "one"), numpy_helper.from_array(np.array([2]), "two")
    nodes = [
        helper.make_node("Constant", [], ["one"], value=axes[0]),
        helper.make_node("Constant", [], ["two"], value=axes[1]),
        helper.make_node("Unsqueeze", ["X", "one"], ["rows"]),
        helper.make_node("Sub", ["rows", "W"], ["differences"]),
        helper.make_node("Abs", ["differences"], ["magnitudes"]),
        helper.make_node("ReduceMax", ["magnitudes", "two"], ["distances"], keepdims=0),
        helper.make_node("Add", ["distances", "B"], ["Y"]),
    ]
    attributes = ["plugin_namespace", "plugin_version"]
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_function(linf_dist.DOMAIN, linf_dist.OP, ["X", "W", "B"], ["Y"], nodes, opsets, attributes)


def session(model: ModelProto, threads: int, *, custom_op: bool) -> Any:
    """Returns a session on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if custom_op:
        options.add_session_config_entry(THREADS_ENTRY, str(threads))
        options.register_custom_ops_library(str(library()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def print_rows(rows: list[Row], batch: int) -> None:
    """Prints the lines of one case."""
    for row in rows:
        low, high = row.quartiles
        spread = f"{low * 1e3:.3f} to {high * 1e3:.3f}"
        case = f"{row.size:>6} {batch:>4} {row.threads:>7}"
        print(f"{case}  {row.way:<12} {row.median * 1e3:>10.3f} {spread:>21} {row.relative:>8.2f}", flush=True)


def markdown(rows: list[Row]) -> str:
    """Returns the medians as a table: milliseconds, and in brackets how many times the custom op's."""
    lines = [f"| I = O | N | threads | {' | '.join(WAYS)} |", "|---" * (3 + len(WAYS)) + "|"]
    for size, batch, threads in dict.fromkeys((row.size, row.batch, row.threads) for row in rows):
        found = {row.way: row for row in rows if (row.size, row.batch, row.threads) == (size, batch, threads)}
        cells = [
            f"{found[way].median * 1e3:.3f} ({found[way].relative:.2f})" if way in found else "too large"
            for way in WAYS
        ]
        lines.append(f"| {size} | {batch} | {threads} | {' | '.join(cells)} |")
    note = "Milliseconds, medians, of processor time on one thread and by the clock on two; in brackets, how many"
    lines += ["", f"{note} times the custom op's. {machine()}."]
    return "\n".join(lines) + "\n"


STYLE = (
    "svg{font:11px sans-serif}.grid{stroke:#ddd}.axis,.nick{stroke:#555}.tick.x{text-anchor:middle}"
    ".tick.y,.label.x,.note.end{text-anchor:end}.w0{fill:#999}.w1{fill:#1b6ca8}.w2{fill:#e0a030}.w3{fill:#b5483a}"
)


def chart(rows: list[Row]) -> str:
    """Returns bars of the times on one thread as multiples of the custom op's, on a logarithmic axis."""
    shown = [row for row in rows if row.threads == THREADS[0]]
    cases = list(dict.fromkeys((row.size, row.batch) for row in shown))
    top = max(np.log10(row.relative) for row in shown) * 1.05 + 0.1
    bottom = min(-0.3, *(np.log10(row.relative) for row in shown))
    axes = Axis(0, len(cases), LEFT, RIGHT), Axis(bottom, top, BOTTOM, TOP + 16)
    plot = Plot("onnxruntime-op", "LinfDist in ONNX Runtime", "Time of each way, times the custom op's", *axes)
    decades = [(float(power), f"{10**power}x") for power in range(int(top) + 1)]
    names = [(index + 0.5, f"{size}/{batch}") for index, (size, batch) in enumerate(cases)]
    plot.axes("inputs = outputs / batch, one thread", "time, custom op = 1x", names, decades)
    for row in shown:
        place, way = cases.index((row.size, row.batch)), WAYS.index(row.way)
        left = place + 0.12 + 0.19 * way
        low, high = sorted((0.0, float(np.log10(row.relative))))
        tip = f"{row.way}: {row.median * 1e3:.3f} ms, {row.relative:.2f}x"
        plot.bar(f"w{way}", left, left + 0.19, low, max(high, low + 0.01), tip)
    for index, way in enumerate(WAYS):
        plot.text(f"w{index}", LEFT + 60 + 90 * index, TOP, way)
    markup = plot.markup().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return markup.replace("</desc>", f"</desc><style>{STYLE}</style>", 1) + "\n"


def machine() -> str:
    """Returns what was measured on, in words."""
    return f"{cpu_model()}, {_cpu.active()}, ONNX Runtime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
