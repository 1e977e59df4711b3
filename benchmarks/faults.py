# SPDX-License-Identifier: Apache-2.0
"""Puts every fault of the catalogue into an engine and audits it: `python benchmarks/faults.py demo/ckpt.pt`.

Writes `benchmarks/results/faults.md` and `faults.json`: which step of `verify` finds each fault, after how many
images, and which stay silent. `make demo` leaves the checkpoint.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from linfdeploy.files import write_bytes
from linfdeploy.onnx.pixel_net import PRECISIONS, Precision
from linfdeploy.training.data import load_dataset
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.reference import load_reference
from linfdeploy.verify.summary import TestSet

RESULTS = Path(__file__).parent / "results"
SAMPLES = 150
HEADER = """\
# What the audit makes of a faulty engine

{faults} faults of `tests/fault_catalogue.py`, each in an engine of the digits demo's net in three precisions;
{samples} test images, {probes} probes in exact mode, no reference checkpoint, no manifest. A cell names the
steps of `verify` that find the fault, and after how many images the engine first answered wrongly. **silent**:
no step finds it. *no order fits* alone: the verdict is pass, but certificates I and J are withheld, for no order
of operations explains the bits; the difference is within what rounding may explain. In parentheses what
`--attack fast` finds besides, which is tried on silent faults that are not single bits. `-`: does not apply.

"""


def main() -> None:
    """Audits, prints and writes."""
    sys.path.insert(0, str(RESULTS.parent.parent / "tests"))
    reference = load_reference(Path(sys.argv[1]))
    digits = load_dataset("digits", "test")
    data = TestSet("digits", digits.images[:SAMPLES], digits.labels[:SAMPLES])
    result: dict[str, Any] = {"samples": SAMPLES}
    for precision in PRECISIONS:
        result[precision] = _audited(precision, reference, data)
    write_bytes(RESULTS / "faults.json", (json.dumps(result, indent=1) + "\n").encode())
    text = _table(result)
    write_bytes(RESULTS / "faults.md", text.encode())
    print(text)


def _audited(precision: Precision, reference: Any, data: TestSet) -> dict[str, Any]:
    from fault_catalogue import THREAT, catalogue, outcome, shared_probes

    net = reference.exported(precision, None)
    probes = make_probes(net, data.images, THREAT.levels, 0)
    families = [family[:] for family in probes.families.values()]
    found = []
    with TemporaryDirectory() as folder, shared_probes():
        for fault in catalogue(net, data.images):
            one = asdict(outcome(fault, net, data, families, Path(folder)))
            if not one["steps"] and not fault.group.startswith("bit"):
                attacked = outcome(fault, net, data, families, Path(folder), "fast")
                one["with_attack"] = {"steps": attacked.steps, "first": attacked.first}
            found.append(one)
            print(precision, one, file=sys.stderr)
    return {
        "probes": sum(map(len, families)),
        "coverage": [asdict(layer) for layer in probes.coverage],
        "faults": found,
    }


def _table(result: dict[str, Any]) -> str:
    rows = {}
    for precision in PRECISIONS:
        for fault in result[precision]["faults"]:
            rows.setdefault((fault["group"], fault["name"]), {})[precision] = fault
    probes = result["exact"]["probes"]
    text = HEADER.format(faults=len(rows), samples=result["samples"], probes=probes)
    lines = ["| fault | " + " | ".join(PRECISIONS) + " |", "|---|---|---|---|"]
    singles = {key: cells for key, cells in rows.items() if not key[0].startswith("bit")}
    for (group, name), cells in singles.items():
        lines.append(f"| {group}: {name} | " + " | ".join(_cell(cells.get(each)) for each in PRECISIONS) + " |")
    lines += ["", "## Bits of weights", "", *_bits({key: rows[key] for key in rows if key not in singles})]
    lines += ["", "## Coverage", "", *_coverage(result)]
    return text + "\n".join(lines) + "\n"


def _cell(fault: dict[str, Any] | None) -> str:
    if fault is None:
        return "-"
    if fault["steps"]:
        return f"{', '.join(fault['steps'])}; {fault['first']:,}"
    more = fault.get("with_attack", {})
    return "**silent**" + (f" ({', '.join(more['steps'])})" if more.get("steps") else "")


def _bits(rows: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """One line for each layer and choice of weight: how many of its bits are found, and which are silent."""
    yield "Found of all bits of the format, 32 or 16; bit 0 is the last of the fraction, the highest the sign."
    yield ""
    yield "| weight | " + " | ".join(PRECISIONS) + " |"
    yield "|---|---|---|---|"
    places = dict.fromkeys((group, name.split(",")[0]) for group, name in rows)
    for group, layer in places:
        cells = []
        for precision in PRECISIONS:
            of = [
                cell[precision]
                for (kind, name), cell in rows.items()
                if (kind, name.split(",")[0]) == (group, layer) and precision in cell
            ]
            cells.append(_bits_cell(of))
        yield f"| {layer}, {group.removeprefix('bit of ')} | " + " | ".join(cells) + " |"


def _bits_cell(faults: Sequence[dict[str, Any]]) -> str:
    if not faults:
        return "-"
    failed = sum(fault["verdict"] == "fail" for fault in faults)
    withheld = sum(bool(fault["steps"]) and fault["verdict"] == "pass" for fault in faults)
    silent = [fault["name"].rsplit(" ", 1)[1] for fault in faults if not fault["steps"]]
    words = [f"{failed} fail"] + ([f"{withheld} no order fits"] if withheld else [])
    return "; ".join([*words, f"silent: {', '.join(silent)}"] if silent else words)


def _coverage(result: dict[str, Any]) -> Iterator[str]:
    yield "Of each layer's weights: those that attain a distance on some probe, and those that a logit rests on."
    yield ""
    yield "| layer | weights | " + " | ".join(PRECISIONS) + " |"
    yield "|---|---|---|---|---|"
    by_layer = zip(*(result[precision]["coverage"] for precision in PRECISIONS), strict=True)
    for index, layers in enumerate(by_layer):
        cells = [f"{layer['attaining']:,}, {layer['reaching']:,}" for layer in layers]
        yield f"| {index} | {layers[0]['weights']:,} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
