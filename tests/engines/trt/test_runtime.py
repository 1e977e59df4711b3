# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfdeploy.engines.trt.runtime import parts_of
from linfdeploy.errors import EngineError

SIZES = st.integers(1, 40)


@given(count=st.integers(1, 200), least=SIZES, more=st.integers(0, 40))
def test_parts_fit_and_are_the_batch(count: int, least: int, more: int) -> None:
    most = least + more
    images = np.arange(count, dtype=np.uint8).reshape(count, 1, 1, 1)
    possible = any(parts * least <= count <= parts * most for parts in range(1, count + 1))
    if not possible:
        with pytest.raises(
            EngineError, match=f"a batch of {count} is outside the engine's profile; expected {least}"
        ):
            parts_of(images, least, most)
        return
    parts = parts_of(images, least, most)
    assert all(least <= len(part) <= most for part in parts)
    assert np.concatenate(parts).tobytes() == images.tobytes()
    assert len(parts) == -(-count // most)


def test_as_many_as_can_be_are_of_one_size() -> None:
    images = np.zeros((20, 1, 1, 1), np.uint8)
    assert [len(part) for part in parts_of(images, 1, 8)] == [8, 8, 4]
    assert [len(part) for part in parts_of(images, 5, 8)] == [7, 7, 6]
