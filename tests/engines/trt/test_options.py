# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest

from linfdeploy.engines.trt.options import OPTIONS, TrtOptions, options_from
from linfdeploy.errors import EngineError


def test_defaults() -> None:
    assert options_from({}, "library") == TrtOptions("library")
    assert TrtOptions("library").batches == (1, 64, 256)


def test_all_are_read() -> None:
    given = {
        "plugin": "aot",
        "plugin_library": "lib.so",
        "tensorrt_root": "/opt/tensorrt",
        "batch": [1, 2, 3],
        "workspace": 5,
        "hardware": "ampere+",
        "timing_cache": "timings",
        "refit": True,
        "cuda_graph": False,
    }
    assert set(given) == OPTIONS
    expected = TrtOptions(
        "aot", Path("lib.so"), Path("/opt/tensorrt"), (1, 2, 3), 5, "ampere+", Path("timings"), True, False
    )
    assert options_from(given, "library") == expected


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"plugin": "dll"}, "plugin is 'dll'; expected one of library, embedded, aot, none"),
        ({"plugin": ["aot"]}, "plugin is ['aot']; expected one of library, embedded, aot, none"),
        ({"hardware": "all"}, "hardware is 'all'; expected one of same, same-capability, ampere+"),
        ({"workspace": 0}, "workspace is 0; expected 1 to 1048576 MiB"),
        ({"workspace": True}, "workspace is True; expected 1 to 1048576 MiB"),
        ({"refit": 1}, "refit is 1; expected true or false"),
        ({"cuda_graph": None}, "cuda_graph is None; expected true or false"),
        ({"timing_cache": 3}, "timing_cache is 3; expected a path"),
        *[
            (
                {"batch": batch},
                f"batch is {batch}; expected the smallest batch, the usual and the largest, "
                "1 <= smallest <= usual <= largest <= 65536, such as 1:64:256",
            )
            for batch in ([1, 2], [2, 1, 3], [0, 1, 2], [1, 2, 65537], [True, 1, 1], 7, None, [1.0, 2, 3])
        ],
    ],
)
def test_refuses(option: dict[str, Any], text: str) -> None:
    with pytest.raises(EngineError) as refused:
        options_from(option, "library")
    assert str(refused.value) == text
