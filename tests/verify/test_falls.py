# SPDX-License-Identifier: Apache-2.0
"""A certificate that is wrong is caught by the attack that shows it, and the evidence is saved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pixel_nets import FaultyEngine, random_images, random_net

from linfdeploy.engines.reference import PER_OP, ReferenceEngine, roundings_of
from linfdeploy.report.words import KINDS
from linfdeploy.verify.attacks import Attempt
from linfdeploy.verify.certificates import CertifiedFlags, Certifier
from linfdeploy.verify.falls import MAX_LISTED, Fallen, Falls

NET = random_net((3, 6, 4), "exact", 0)
IMAGES = random_images(NET, 60, 0)
LOGITS = ReferenceEngine(NET).run(IMAGES)
LEVELS = 40


def certifier() -> Certifier:
    return Certifier(NET, PER_OP, IMAGES, LOGITS)


def far_images(seed: int = 1) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    moved = IMAGES.astype(int) + rng.integers(-LEVELS, LEVELS + 1, IMAGES.shape)
    return np.clip(moved, 0, 255).astype(np.uint8)


def lying(sure: bool) -> CertifiedFlags:
    flags = np.full(len(IMAGES), sure)
    return CertifiedFlags(flags, flags, flags)


def test_an_honest_certifier_is_never_contradicted() -> None:
    judge = certifier()
    falls = Falls(ReferenceEngine(NET), IMAGES, judge, judge.at(LEVELS), LEVELS)
    for seed in range(20):
        falls.add(Attempt("random", far_images(seed)))
    assert falls.violations() == []
    assert falls.fallen.any()
    assert not (falls.fallen & judge.at(LEVELS).any).any()


def test_a_lying_certifier_is_caught_by_each_certificate() -> None:
    falls = Falls(ReferenceEngine(NET), IMAGES, certifier(), lying(True), LEVELS)
    logits = falls.add(Attempt("random", far_images()))
    fallen = np.flatnonzero(logits.argmax(1) != LOGITS.argmax(1)).tolist()
    assert 0 < len(fallen) <= MAX_LISTED
    violations = falls.violations()
    assert {violation.kind for violation in violations} == {"certificate"} <= set(KINDS)
    for name in ("exact", "interval", "delta"):
        named = [violation.sample for violation in violations if f"'{name}'" in violation.detail]
        assert named == fallen


def test_certificates_that_do_not_apply_are_not_contradicted() -> None:
    flags = replace(lying(True), exact=None, interval=None)
    falls = Falls(ReferenceEngine(NET), IMAGES, certifier(), flags, LEVELS)
    falls.add(Attempt("random", far_images()))
    assert {violation.detail.split("'")[1] for violation in falls.violations()} == {"delta"}


def test_evidence_shows_every_listed_violation_and_every_fall() -> None:
    engine = ReferenceEngine(NET)
    falls = Falls(engine, IMAGES, certifier(), lying(True), LEVELS)
    for seed in range(6):
        falls.add(Attempt("random", far_images(seed)))
    evidence = falls.evidence()
    assert {violation.saved for violation in falls.violations()} <= set(evidence)
    for violation in falls.violations():
        assert violation.sample is not None
        assert violation.saved is not None
        saved = evidence[violation.saved]
        assert np.array_equal(saved["image"], IMAGES[violation.sample])
        assert engine.run(saved["adversarial"][None]).argmax() != LOGITS[violation.sample].argmax()
    fallen = evidence["adversarial.npz"]
    assert fallen["index"].tolist() == np.flatnonzero(falls.fallen).tolist()
    assert (engine.run(fallen["images"]).argmax(1) != LOGITS[fallen["index"]].argmax(1)).all()
    assert (np.abs(fallen["images"].astype(int) - IMAGES[fallen["index"]]).max((1, 2, 3)) <= LEVELS).all()


def spoiled(value: float) -> Any:
    def fault(logits: npt.NDArray[np.float32], _: int) -> npt.NDArray[np.float32]:
        # The last class, which is not the label of sample 5, so that the label may stay.
        logits[5, LOGITS[5].argmin()] = value
        return logits

    return fault


@pytest.mark.parametrize("value", [-4000.0, np.nan, -np.inf])
def test_a_logit_outside_its_interval_is_caught(value: float) -> None:
    falls = Falls(FaultyEngine(NET, spoiled(value)), IMAGES, certifier(), lying(False), LEVELS)
    adversarial = far_images()
    falls.add(Attempt("random", adversarial))
    contained = [violation for violation in falls.violations() if violation.kind == "containment"]
    assert [violation.sample for violation in contained] == [5]
    assert contained[0].saved is not None
    assert np.array_equal(falls.evidence()[contained[0].saved]["adversarial"], adversarial[5])


def test_one_bit_that_differs_on_an_adversarial_image_is_caught() -> None:
    value = float(np.nextafter(LOGITS[5].min(), np.float32(0)))
    falls = Falls(FaultyEngine(NET, spoiled(value)), IMAGES, certifier(), lying(False), LEVELS)
    falls.add(Attempt("none", IMAGES))
    assert [(violation.kind, violation.sample) for violation in falls.violations()] == [("conformance", 5)]


def test_a_stray_does_not_replace_the_image_that_made_the_sample_fall() -> None:
    judge = certifier()
    falls = Falls(FaultyEngine(NET, spoiled(-4000.0)), IMAGES, judge, lying(True), LEVELS)
    for seed in range(30):
        falls.add(Attempt("random", far_images(seed)))
    for sample, image in zip(*falls.evidence()["adversarial.npz"].values(), strict=True):
        if sample != 5:
            assert ReferenceEngine(NET).run(image[None]).argmax() != LOGITS[sample].argmax()


def test_the_list_is_bounded_and_the_count_given() -> None:
    images = np.repeat(IMAGES, 4, 0)
    logits = ReferenceEngine(NET).run(images)
    judge = Certifier(NET, PER_OP, images, logits)
    flags = CertifiedFlags(None, None, np.ones(len(images), bool))
    falls = Falls(ReferenceEngine(NET), images, judge, flags, 255)
    falls.add(Attempt("others", np.roll(images, 7, 0)))
    listed = falls.violations()
    assert len(listed) == MAX_LISTED
    assert f"({falls.fallen.sum()} samples in all)" in listed[0].detail


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_not_finite_is_caught_even_where_no_rounding_matches(value: float) -> None:
    judge = Certifier(NET, None, IMAGES, LOGITS)
    falls = Falls(FaultyEngine(NET, spoiled(value)), IMAGES, judge, lying(False), LEVELS)
    falls.add(Attempt("none", IMAGES))
    found = [(violation.kind, violation.sample) for violation in falls.violations()]
    assert ("not finite", 5) in found
    assert {violation.saved for violation in falls.violations()} <= set(falls.evidence())


def test_a_logit_of_any_possible_rounding_is_explained_and_no_other() -> None:
    net = random_net((3, 6, 4), "fp16", 0)
    roundings = tuple(roundings_of(net))[:2]
    images = random_images(net, 200, 1)
    first, second, third = (
        ReferenceEngine(net, rounding).run(images) for rounding in tuple(roundings_of(net))[:3]
    )
    mixed = np.where(np.arange(200)[:, None] % 2 == 0, first, second)
    judge = Certifier(net, roundings, images, mixed)

    def strays(logits: npt.NDArray[np.float32]) -> list[int]:
        falls = Falls(FaultyEngine(net, lambda *_: logits), images, judge, judge.at(LEVELS), LEVELS)
        falls.add(Attempt("none", images))
        return [int(violation.sample or 0) for violation in falls.violations() if violation.kind == "conformance"]

    assert strays(mixed) == []
    neither = np.flatnonzero(((third != first).any(1)) & ((third != second).any(1)))
    assert len(neither) > 0
    assert strays(third) == neither[:MAX_LISTED].tolist()


def test_without_a_matching_rounding_only_labels_are_watched() -> None:
    judge = Certifier(NET, None, IMAGES, LOGITS)
    falls = Falls(FaultyEngine(NET, spoiled(-4000.0)), IMAGES, judge, lying(False), LEVELS)
    falls.add(Attempt("none", IMAGES))
    assert falls.violations() == []


def test_parts_show_what_the_whole_shows() -> None:
    flags, far = np.arange(len(IMAGES)) % 2 == 0, far_images()

    def found(part: slice) -> Fallen:
        sample = range(len(IMAGES))[part].index(5) if 5 in range(len(IMAGES))[part] else None

        def spoil(logits: npt.NDArray[np.float32], _: int) -> npt.NDArray[np.float32]:
            if sample is not None:
                logits[sample, 0] = np.nan
            return logits

        judge = Certifier(NET, PER_OP, IMAGES[part], LOGITS[part])
        none = CertifiedFlags(None, None, np.zeros(len(IMAGES[part]), bool))
        falls = Falls(FaultyEngine(NET, spoil), IMAGES[part], judge, none, LEVELS)
        falls.add(Attempt("random", far[part]))
        return falls.found()

    whole, parts = found(slice(None)), [found(slice(0, 7)), found(slice(7, None))]
    arrays = [part.arrays() for part in parts]
    joined = Fallen(**{name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]})
    certified = CertifiedFlags(None, None, flags)
    assert whole.fallen.any()
    assert whole.not_finite.sum() == 1
    assert joined.violations(certified) == whole.violations(certified)
    expected = whole.evidence(IMAGES, certified)
    shown = joined.evidence(IMAGES, certified)
    assert shown.keys() == expected.keys()
    for file, arrays_of in expected.items():
        assert all(np.array_equal(shown[file][name], array) for name, array in arrays_of.items())
    assert Fallen.fits(joined.arrays(), len(IMAGES), IMAGES.shape[1:])
    assert not Fallen.fits({**joined.arrays(), "strays": joined.strays[1:]}, len(IMAGES), IMAGES.shape[1:])
