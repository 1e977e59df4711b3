# SPDX-License-Identifier: Apache-2.0
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import exact_net

from linfdeploy.errors import ExportError
from linfdeploy.onnx.chain import Chain, Distance, Normalize, Shift, Step
from linfdeploy.onnx.passes.fold import fold_normalization, fold_shifts, folding_error

# Few enough bits that folding in float64 is exact, so that results can be compared as rationals.
small = st.integers(-(2**10), 2**10).map(lambda value: value / 2**8)
ONE = Normalize(np.zeros(2), 1.0)
DISTANCE = Distance(np.ones((2, 2)))


def fractions(values: object) -> list[Fraction]:
    return [Fraction(float(value)) for value in np.asarray(values).reshape(-1)]


def rows(weight: object) -> list[list[Fraction]]:
    return [fractions(row) for row in np.asarray(weight)]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    mean = np.array(draw(st.lists(small, min_size=sizes[0], max_size=sizes[0])))
    steps: list[Step] = [Normalize(mean, draw(st.integers(1, 2**8)) / 2**8)]
    for inputs, outputs in itertools.pairwise(sizes):
        weight = draw(st.lists(small, min_size=inputs * outputs, max_size=inputs * outputs))
        steps.append(Distance(np.array(weight).reshape(outputs, inputs)))
        for _ in range(draw(st.integers(0, 2))):
            steps.append(Shift(np.array(draw(st.lists(small, min_size=outputs, max_size=outputs)))))
    return Chain((1, 1, sizes[0]), tuple(steps))


def logits(chain: Chain, image: list[int]) -> list[Fraction]:
    """The chain as written, for an image of pixels."""
    x = [Fraction(value) for value in image]
    for step in chain.steps:
        if isinstance(step, Normalize):
            x = [(v / 255 - m) / Fraction(step.std) for v, m in zip(x, fractions(step.mean), strict=True)]
        elif isinstance(step, Distance):
            x = [-value for value in exact_net(x, [(rows(step.weight), None, None)])]
        else:
            assert isinstance(step, Shift)
            x = [a + b for a, b in zip(x, fractions(step.offset), strict=True)]
    return [-value for value in x]


@given(chains(), st.data())
@settings(max_examples=60, deadline=None)
def test_logits_are_255_std_times_as_large(chain: Chain, data: st.DataObject) -> None:
    inputs = chain.input_shape[2]
    image = data.draw(st.lists(st.integers(0, 255), min_size=inputs, max_size=inputs))
    normalize = chain.steps[0]
    assert isinstance(normalize, Normalize)
    folded = fold_shifts(fold_normalization(chain))
    layers = [(rows(weight), None, fractions(bias)) for weight, bias in folded]
    unit = 255 * Fraction(normalize.std)
    found = exact_net([Fraction(value) for value in image], layers)  # type: ignore[arg-type]
    assert found == [unit * value for value in logits(chain, image)]


@pytest.mark.parametrize("steps", [(DISTANCE,), (ONE,), (ONE, Shift(np.ones(2)), DISTANCE), ()])
def test_refuses_what_does_not_start_with_normalisation_and_distance(steps: tuple[Step, ...]) -> None:
    with pytest.raises(ExportError, match="does not start with"):
        fold_normalization(Chain((1, 1, 2), steps))


def test_refuses_a_second_normalisation() -> None:
    with pytest.raises(ExportError, match="twice"):
        fold_normalization(Chain((1, 1, 2), (ONE, DISTANCE, ONE)))


def test_refuses_a_shift_before_the_first_distance() -> None:
    with pytest.raises(ExportError, match="Shift comes before"):
        fold_shifts(Chain((1, 1, 2), (Shift(np.ones(2)), DISTANCE)))


@pytest.mark.parametrize("std", [0.0, float("inf"), float("nan")])
def test_refuses_a_std_that_is_no_number_in_float32(std: float) -> None:
    with pytest.raises(ExportError, match="expected a finite positive number"):
        fold_normalization(Chain((1, 1, 2), (Normalize(np.zeros(2), std), DISTANCE)))


def exactly_folded(chain: Chain) -> list[list[Fraction]]:
    """The constants of each layer, weights before biases, folded in rationals."""
    normalize, *steps = chain.steps
    assert isinstance(normalize, Normalize)
    unit, mean = 255 * Fraction(normalize.std), [255 * value for value in fractions(normalize.mean)]
    layers: list[list[Fraction]] = []
    for step in steps:
        if isinstance(step, Distance):
            first = mean if not layers else [Fraction(0)] * step.weight.shape[1]
            weights = [m + unit * w for row in rows(step.weight) for m, w in zip(first, row, strict=True)]
            layers += [weights, [Fraction(0)] * len(step.weight)]
        elif isinstance(step, Shift):
            layers[-1] = [a + unit * b for a, b in zip(layers[-1], fractions(step.offset), strict=True)]
    return layers


@given(st.integers(0, 2**32), st.sampled_from([1.0, 1e6, 1e12]))
@settings(max_examples=60, deadline=None)
def test_folding_error_bounds_what_folding_rounds(seed: int, cancelling: float) -> None:
    rng = np.random.default_rng(seed)
    away = cancelling * rng.normal(size=3)
    steps: list[Step] = [Normalize(rng.random(4), float(rng.random()) + 0.01), Distance(rng.normal(size=(3, 4)))]
    steps += [Shift(away), Shift(rng.normal(size=3) - away), Distance(rng.normal(size=(2, 3)))]
    chain = Chain((1, 1, 4), tuple(steps))
    found = [values for pair in fold_shifts(fold_normalization(chain)) for values in pair]
    moved = sum(
        max(abs(a - b) for a, b in zip(fractions(ours), exact, strict=True))
        for ours, exact in zip(found, exactly_folded(chain), strict=True)
    )
    assert moved <= Fraction(folding_error(chain))
