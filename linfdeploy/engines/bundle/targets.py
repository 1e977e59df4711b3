# SPDX-License-Identifier: Apache-2.0
"""What a bundle can be made for: releases of JetPack and TensorRT, and what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TARGETS", "Target"]

FIRST_TO_PREFER_PLUGINS = (10, 7)
"""Before it, TensorRT's parser inlines a function body, without a word, even where it has a plugin."""


@dataclass(frozen=True)
class Target:
    """A device's software.

    Attributes:
        title: For people.
        tensorrt: Major and minor number of TensorRT; where several are meant, of the oldest.
        releases: Of TensorRT, in words.
        cuda: Of CUDA, in words.
        boards: Number of the CUDA architecture by the name of the board or the card.
        trtexec: The program, as it is called there.
        package: What pip installs beside linfdeploy: on a Jetson cuda-bindings for its CUDA, elsewhere TensorRT.
        jetpack: Whether this is a Jetson.
    """

    title: str
    tensorrt: tuple[int, int]
    releases: str
    cuda: str
    boards: Mapping[str, int]
    trtexec: str
    package: str
    jetpack: bool

    @property
    def prefers_functions(self) -> bool:
        """Whether a function body in the file keeps the plugin from being used."""
        return self.tensorrt < FIRST_TO_PREFER_PLUGINS

    @property
    def strongly_typed(self) -> bool:
        """Whether trtexec must be told to keep the types of the file; TensorRT 11 knows nothing else."""
        return self.tensorrt < (11, 0)


ORIN, THOR = {"Jetson Orin": 87}, {"Jetson Thor": 110}
CARDS = {"A100": 80, "GeForce RTX 30, A10": 86, "GeForce RTX 40, L4, L40S": 89, "H100, H200": 90}
JETPACK_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"

# The index has no cuda-bindings for CUDA 12.6: those of 12.8 are the oldest of 12.
TARGETS: Mapping[str, Target] = {
    "jetpack6": Target(
        "JetPack 6.1 and 6.2", (10, 3), "10.3", "12.6", ORIN, JETPACK_TRTEXEC, "cuda-bindings==12.8.*", True
    ),
    "jetpack7": Target(
        "JetPack 7.0 and 7.1", (10, 13), "10.13", "13.0", THOR, JETPACK_TRTEXEC, "cuda-bindings==13.0.*", True
    ),
    "jetpack7.2": Target(
        "JetPack 7.2", (10, 16), "10.16", "13.2", {**ORIN, **THOR}, JETPACK_TRTEXEC, "cuda-bindings==13.2.*", True
    ),
    "tensorrt10": Target(
        "TensorRT 10", (10, 7), "10.7 or a later 10.x", "12 or 13", CARDS, "trtexec", "tensorrt>=10.7,<11", False
    ),
    "tensorrt11": Target(
        "TensorRT 11", (11, 0), "11.0 or later", "13", CARDS, "trtexec", "tensorrt>=11,<12", False
    ),
}
