# SPDX-License-Identifier: Apache-2.0
"""Counts false certificates at the boundary: `python benchmarks/boundary.py`.

Prints, for each kind of net, how many cases each check certifies and how many of those have a counterexample, and
writes the same to `benchmarks/results/boundary.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from linfdeploy.files import write_bytes

HERE = Path(__file__).parent
SEED = 20


def main() -> None:
    """Measures, prints and writes."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from boundary_cases import CASES, boundary_cases, table, tally

    tallies = [tally(boundary_cases(family, SEED)) for family in CASES]
    print(table(tallies))
    result = {"seed": SEED, "families": [asdict(row) for row in tallies]}
    write_bytes(HERE / "results" / "boundary.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
