# SPDX-License-Identifier: Apache-2.0
"""Every fault that changes an output on the probes is found in exact mode; in fp16 the others are listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fault_catalogue import NO_ORDER, THREAT, Outcome, catalogue, outcome, shared_probes
from pixel_nets import random_images, random_net

from linfdeploy.engines.reference import ReferenceEngine
from linfdeploy.onnx.pixel_net import Precision
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.summary import TestSet

SIZES = (12, 16, 9, 4)
# Of a weight's bits, those that are tried here; benchmarks/faults.py tries them all.
EVERY = 5
SILENT = {
    "subnormal outputs flushed to zero",
    "activations saturate as int16 in 1/64 pixel",
    "two pixels have one pair of values",
    "four pixels have one set of values",
    "wrong once in 100 runs",
    "wrong once in 10,000 runs",
    "layer 0: one bias an ulp off",
}
"""What no probe shows: harmless for this net, too rare, or hidden in images that nobody shows it."""
RARE = {"wrong once in 100 runs"}
"""Wrong in some run of the Lipschitz search, which sees it only if the pair breaks the bound."""
NO_ROUNDING = {"weights in 22 bits", "activations in 22 bits", "distances cut, not rounded"}
"""Silent in exact mode, since nothing rounds there."""
WITHIN_HALF_PRECISION = {
    "weights in bf16",
    "activations in bf16",
    "distances cut, not rounded",
    "every layer: a running maximum that starts at 1",
    "pixels divided by 255 and multiplied by 256",
    "pixels a level too dark",
    "white clipped to 254",
    "one class an ulp too high",
    "one class an ulp too low",
}
"""What float16's own roundings could explain by their size: no order fits, and nothing more is said."""


def outcomes(precision: Precision, folder: Path) -> list[Outcome]:
    net = random_net(SIZES, precision, 6)
    images = random_images(net, 60, 3)
    data = TestSet("noise", images, ReferenceEngine(net).run(images).argmax(1))
    families = [family[:] for family in make_probes(net, images, THREAT.levels, 0).families.values()]
    with shared_probes():
        return [
            outcome(fault, net, data, families, folder)
            for index, fault in enumerate(catalogue(net, images))
            if not fault.group.startswith("bit") or index % EVERY == 0
        ]


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return outcomes("exact", tmp_path_factory.mktemp("exact"))


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    return outcomes("fp16", tmp_path_factory.mktemp("fp16"))


def test_whatever_changes_an_output_on_the_probes_fails_the_verdict_in_exact_mode(exact: list[Outcome]) -> None:
    for found in exact:
        assert (found.verdict == "fail") == bool(found.steps)
        assert found.steps or found.changed == 0, found
    assert sum(found.verdict == "fail" for found in exact) > 50


def test_what_the_engine_never_showed_is_not_found(exact: list[Outcome], half: list[Outcome]) -> None:
    for found in (*exact, *half):
        assert found.first is not None or found.steps == (), found
        # What shows on a probe is found; of a fault that comes once in many runs, only pairs may have seen one.
        assert found.first is None or found.steps != () or found.name in RARE, found


def test_the_silent_ones_are_these(exact: list[Outcome]) -> None:
    silent = {found.name for found in exact if found.verdict == "pass" and not found.group.startswith("bit")}
    assert silent | RARE == SILENT | NO_ROUNDING
    bits = [found for found in exact if found.group == "bit of a weight that a logit of the data rests on"]
    assert len(bits) > 15
    assert all(found.verdict == "fail" for found in bits)


def test_in_fp16_what_changes_an_output_takes_the_interval_certificate_away(half: list[Outcome]) -> None:
    for found in half:
        assert found.changed == 0 or NO_ORDER in found.steps, found
    silent = {found.name for found in half if not found.steps and not found.group.startswith("bit")}
    assert silent | RARE == SILENT
    passed = {found.name for found in half if found.steps == (NO_ORDER,) and not found.group.startswith("bit")}
    assert passed == WITHIN_HALF_PRECISION


def test_the_step_that_finds_a_fault_is_the_one_that_should(exact: list[Outcome]) -> None:
    steps = {found.name: found.steps for found in exact}
    assert steps["wrong once in 10 runs"][:1] in {("conformance",), ("determinism",)}
    assert "determinism" in steps["rows beyond 512 are not computed"]
    assert steps["rows beyond 512 are not computed"] == ("determinism",)
    assert steps["a batch of one is wrong"] == ("determinism",)
    assert steps["one class an ulp too high"] == ("conformance",)
    assert "Lipschitz audit" in steps["logits doubled"]
    assert {name for name, found in steps.items() if found == ("determinism",)} <= {
        "rows beyond 512 are not computed",
        "a batch of one is wrong",
        "wrong once in 10 runs",
        "wrong once in 2 runs",
    }
