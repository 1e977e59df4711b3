# SPDX-License-Identifier: Apache-2.0
"""The threads that share a kernel's blocks: they stay from call to call, for several callers and after a fork."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest

from linfdeploy.kernels import _cpu

# Enough work for seven threads.
ROWS, TERMS, OUTPUTS = 60, 128, 128

FORKED = """
import os, sys
import numpy as np
from linfdeploy.kernels import _cpu

def distances(threads):
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal((rows, 128)).astype(np.float32) for rows in (60, 128))
    y = np.empty((60, 128), np.float32)
    _cpu.linf_dist(x, w, y, threads)
    return y.tobytes()

before = distances(5)
child = os.fork()
if child == 0:
    # A child without threads of its own would wait here for ever.
    os._exit(0 if distances(5) == before else 1)
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) or distances(5) != before)
"""


def pair(seed: int) -> tuple[oracles.Float32, oracles.Float32]:
    rng = np.random.default_rng(seed)
    return oracles.float32(rng.standard_normal((ROWS, TERMS))), oracles.float32(
        rng.standard_normal((OUTPUTS, TERMS))
    )


def distances(seed: int, threads: int) -> oracles.Float32:
    x, w = pair(seed)
    y = np.empty((ROWS, OUTPUTS), np.float32)
    _cpu.linf_dist(x, w, y, threads)
    return y


def test_more_and_fewer_threads_than_before() -> None:
    for call, threads in enumerate([2, 7, 3, 1, 12, 2]):
        np.testing.assert_array_equal(distances(call, threads), oracles.linf_dist(*pair(call)))


def test_several_callers_at_once() -> None:
    expected = [oracles.linf_dist(*pair(seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as callers:
        for _ in range(20):
            found = list(callers.map(distances, range(4), [1, 2, 3, 4]))
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_forked_child_has_helpers_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], timeout=60, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
