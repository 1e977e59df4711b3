# SPDX-License-Identifier: Apache-2.0
"""Counts false certificates at the boundary: `python benchmarks/boundary.py`.

A million cases, ten thousand of them boxes of floats of which every one is run; `--share 0.02` for a fiftieth.
Prints, for each kind of net, how many cases each check certifies and how many of those have a counterexample, and
the share of the cases outside a band of 8 ulp that intervals certify; writes the same to
`benchmarks/results/boundary.json`. One process, about ten minutes. Exit status 1 if a certificate is false.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from linfdeploy.files import write_bytes

HERE = Path(__file__).parent
SEED = 20
CERTIFICATES = ("E", "I", "J", "D", "H")


def main() -> int:
    """Measures, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description="Counts false certificates at the boundary.")
    parser.add_argument("--share", type=float, default=1.0, help="of the million cases")
    share = parser.parse_args().share
    sys.path.insert(0, str(HERE.parent / "tests"))
    from boundary_cases import CASES
    from boundary_special import head_tally, ulp_tally
    from boundary_tally import table, tally

    began = time.process_time()
    tallies = [*ulp_tally(SEED, share), *head_tally(SEED, share)]
    for family in CASES:
        print(f"{time.process_time() - began:.0f} s, {family.name}", file=sys.stderr, flush=True)
        tallies.append(tally(family, SEED, share))
    false = {name: sum(row.false.get(name, 0) for row in tallies) for name in CERTIFICATES}
    outside, kept = sum(row.outside for row in tallies), sum(row.kept for row in tallies)
    result = {
        "seed": SEED,
        "cases": sum(row.cases for row in tallies),
        "broken": sum(row.broken for row in tallies),
        "false": false,
        "unconfirmed counterexamples": sum(row.missed for row in tallies),
        "outside 8 ulp": outside,
        "of them certified": kept,
        "processor seconds": round(time.process_time() - began),
        "families": [asdict(row) for row in tallies],
    }
    print(table(tallies))
    print({name: value for name, value in result.items() if name != "families"})
    if share == 1.0:
        write_bytes(HERE / "results" / "boundary.json", (json.dumps(result, indent=2) + "\n").encode())
    return 1 if any(false.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
