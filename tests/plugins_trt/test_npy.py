# SPDX-License-Identifier: Apache-2.0
"""How verify_golden reads NumPy's files, which may say anything."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated import Emulated, run
from golden_device import numbers
from trt_headers import PLUGINS


def saved(values: Any, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, values, version)
    return file.getvalue()


def with_header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1") + data


DICTIONARY = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }\n"


@pytest.fixture(scope="session")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that reads .npy files as verify_golden does, and prints what they hold."""
    folder = tmp_path_factory.mktemp("reader")
    build = Emulated(folder, sanitize="address,undefined", flags=("-O0", f"-I{PLUGINS}"))
    return build.program_without_kernels("read_npy", [Path(__file__).parent / "read_npy.cpp"])


class TestNpy:
    """Files that say anything."""

    def read(self, reader: Path, folder: Path, files: list[bytes]) -> list[str]:
        paths = [folder / f"{number}.npy" for number in range(len(files))]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        done = run(reader, *paths)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert len(lines) == len(files)
        return lines

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "ends within its header"),
            (b"PK\x03\x04 an archive", "no .npy file"),
            (saved(np.zeros((1, 1), np.float32), (3, 0)), "version 3.0 of .npy"),
            (saved(np.zeros((1, 1), np.float64)), "numbers of type '<f8'"),
            (saved(np.zeros((1, 1), ">f4")), "numbers of type '>f4'"),
            (saved(np.zeros((2, 3), np.float32, order="F")), "Fortran order"),
            (saved(np.zeros(3, np.float32)), "shape (3)"),
            (saved(np.zeros((2, 3), np.float32)) + b"\0", "shape (2, 3) and 25 bytes of numbers"),
            (saved(np.zeros((2, 3), np.float32))[:-1], "shape (2, 3) and 23 bytes of numbers"),
            (saved(np.zeros(2, [("a", "<f4")])), "a header that is damaged, or of another kind of array"),
            (with_header(" " * 10001), "a header of 10001 bytes"),
            (
                with_header(DICTIONARY % "(4294967296, 4294967296)"),
                "shape (4294967296, 4294967296) and 0 bytes of numbers",
            ),
            (
                with_header(DICTIONARY % "(9223372036854775808, 1)"),
                "a header that is damaged, or of another kind of array",
            ),
            (
                with_header(DICTIONARY % "(-1, 1)", bytes(4)),
                "a header that is damaged, or of another kind of array",
            ),
            (
                with_header("{'descr': '\x1b[31m', 'fortran_order': False, 'shape': (1, 1)}"),
                "numbers of type ' [31m'",
            ),
        ],
    )
    def test_refusals(self, reader: Path, tmp_path: Path, content: bytes, found: str) -> None:
        assert self.read(reader, tmp_path, [content]) == [
            f"refused: {tmp_path / '0.npy'}: {found}; expected a .npy file of float32 (N, K), little-endian and "
            "in C order: copy the golden folder again"
        ]

    @pytest.mark.parametrize("version", [(1, 0), (2, 0)])
    def test_both_versions(self, reader: Path, tmp_path: Path, version: tuple[int, int]) -> None:
        values = numbers(3, 4, least=-9, most=9)
        assert self.read(reader, tmp_path, [saved(values, version)]) == [f"(3, 4) {values.tobytes().hex()}"]

    def test_what_is_read_is_what_numpy_reads(self, reader: Path, tmp_path: Path) -> None:
        """Flipped bits, cut and repeated bytes: nothing crashes, and nothing is taken for something else."""
        rng = random.Random(3)
        good = saved(numbers(2, 3, least=-9, most=9))
        files = [good[:size] for size in range(len(good))]
        for _ in range(1200):
            content = bytearray(good)
            for _ in range(rng.choice([1, 1, 2, 4])):
                content[rng.randrange(rng.choice([12, 80, len(good)]))] ^= 1 << rng.randrange(8)
            if rng.random() < 0.2:
                place = rng.randrange(len(good))
                content[place:place] = content[place : place + rng.randrange(1, 40)]
            files.append(bytes(content))
        accepted = 0
        for written, line in zip(files, self.read(reader, tmp_path, files), strict=True):
            if line.startswith("refused: "):
                continue
            values = np.lib.format.read_array(io.BytesIO(written), allow_pickle=False)
            assert values.dtype == np.float32
            assert line == f"{values.shape} {values.tobytes().hex()}"
            accepted += 1
        assert 20 < accepted < len(files) / 2
