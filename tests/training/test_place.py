# SPDX-License-Identifier: Apache-2.0
"""Devices that there are, that there are not, and what is said of them."""

from __future__ import annotations

import pytest
import torch

from linfdeploy.errors import KernelError
from linfdeploy.ranks import Ranks
from linfdeploy.training.place import CPU, Place, place_from


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two CUDA devices, as far as torch says; returns which were made the current one, and had kernels loaded."""
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("linfdeploy.kernels.torch.cuda.prepare", lambda device: chosen.append(device.index))
    return chosen


def test_the_cpu_has_no_graphs() -> None:
    assert place_from("cpu") == place_from("cpu", graphs=False) == CPU
    with pytest.raises(KernelError) as caught:
        place_from("cpu", graphs=True)
    assert str(caught.value) == (
        "CUDA graphs were asked for on the device 'cpu'; expected --device cuda: omit --graphs on the CPU"
    )


@pytest.mark.parametrize("name", ["tpu", "cuda:", "cuda:-1", "cuda:x", "CPU", "", "cpu\n", "cuda:99999"])
def test_an_unknown_device(name: str) -> None:
    with pytest.raises(KernelError) as caught:
        place_from(name)
    assert str(caught.value) == (
        f"the device is {name!r}; expected 'cpu', 'cuda' or 'cuda:N', where the kernels of training run"
    )


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_no_cuda(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelError) as caught:
        place_from(name)
    assert str(caught.value) == (
        f"the device is {name!r} and torch {torch.__version__} finds no CUDA device; expected one: install torch "
        "for CUDA and NVIDIA's driver, or train with --device cpu"
    )


def test_one_process_takes_the_device_it_names(devices: list[int]) -> None:
    assert place_from("cuda") == Place(torch.device("cuda", 0), Ranks(), graphs=True)
    assert place_from("cuda:1", graphs=False) == Place(torch.device("cuda", 1), Ranks(), graphs=False)
    assert devices == [0, 0, 1, 1]
    with pytest.raises(
        KernelError, match="the device is 'cuda:2'; expected 'cuda:0' to 'cuda:1', which this mach"
    ):
        place_from("cuda:2")


def test_several_processes_take_one_each(devices: list[int]) -> None:
    assert place_from("cuda", Ranks(3, 4, local=1)).device == torch.device("cuda", 1)
    assert devices == [1, 1]
    with pytest.raises(
        KernelError, match=r"is 'cuda:0' for each of 4 processes; expected 'cuda': each takes its own"
    ):
        place_from("cuda:0", Ranks(3, 4, local=1))
    with pytest.raises(
        KernelError, match=r"process 3 of this machine finds 2 CUDA devices; .* start 2 with --nproc_per_node"
    ):
        place_from("cuda", Ranks(2, 4, local=2))
