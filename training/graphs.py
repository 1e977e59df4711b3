# SPDX-License-Identifier: Apache-2.0
"""Steps captured in a CUDA graph, so that one launch replays the hundreds of kernels of a step.

A graph repeats kernels on the addresses that they had, so images, labels and dials are copied to where it reads
them. Which kernels run depends on p by its kind alone; where the kind changes, some steps run one by one and then
the graph is captured anew. Each step is a real one and happens once: warming up is training, and a capture runs
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from linfdeploy.kernels.torch.lp_dist import lp_dist_kind
from linfdeploy.training.step import DeviceDials, Step

__all__ = ["WARM_UP", "CudaGraph", "DeviceStep", "Graph"]

# Steps before a capture: the first creates Adam's state, loads kernels and connects NCCL, libraries take their
# memory in the first few.
WARM_UP = 3

# Other kernels than those of any finite p, whose kinds are 0 and more.
KIND_OF_INFINITY = -1


def kind_of(p: float) -> int:
    """Returns what a graph depends on of p: which kernels run."""
    return KIND_OF_INFINITY if math.isinf(p) else lp_dist_kind(p)


class Graph(Protocol):
    """What a step is captured in."""

    def capture(self, work: Callable[[], None]) -> None:
        """Records what the work would do on the device; none of it is done."""

    def replay(self) -> None:
        """Does what was recorded."""


class CudaGraph:
    """A CUDA graph, on the current stream, in the memory of the one that it replaces."""

    def __init__(self, replaced: Graph | None) -> None:
        self._graph = torch.cuda.CUDAGraph()
        # The replaced graph is never replayed again, but must live until the capture for its memory to stay.
        self._pool = replaced._graph.pool() if isinstance(replaced, CudaGraph) else None

    def capture(self, work: Callable[[], None]) -> None:
        """See `Graph`."""
        # Within this thread alone: NCCL's own threads may ask CUDA about events meanwhile.
        with torch.cuda.graph(
            self._graph,
            pool=self._pool,
            stream=torch.cuda.current_stream(),
            capture_error_mode="thread_local",
        ):
            work()

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


class DeviceStep:
    """Steps on a device that the host does not wait for, captured in graphs where that is wanted.

    Attributes:
        dials: To be set before each step.
        total: () float64 on the device, the sum of the losses since it was last set to 0.
        captures: How often a graph was captured.
    """

    def __init__(
        self, step: Step, device: torch.device, make_graph: Callable[[Graph | None], Graph] | None
    ) -> None:
        self.dials = DeviceDials(device)
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.captures = 0
        self._step = step
        self._make_graph = make_graph
        self._graph: Graph | None = None
        self._inputs: tuple[torch.Tensor, torch.Tensor] | None = None
        self.forget()

    def forget(self) -> None:
        """Lets the next steps be captured anew, because tensors have moved."""
        self._kind: int | None = None
        self._warm = 0
        self._captured = False

    def run(self, images: torch.Tensor, labels: torch.Tensor, p: float) -> None:
        """Trains on the images of this rank, with `dials`; the loss is added to `total`.

        Args:
            images: (N, C, H, W) float32 in [0, 1]; where N changes, steps are captured anew.
            labels: (N,) int64.
            p: The norm that the dials hold as well.
        """
        self._fill(images, labels)
        if self._kind != (kind := kind_of(p)):
            self.forget()
            self._kind = kind
        if self._make_graph is None or self._warm < WARM_UP:
            self._warm += 1
            self._once(p)
            return
        if not self._captured:
            self._capture(self._make_graph, p)
        assert self._graph is not None
        self._graph.replay()

    def _fill(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        if self._inputs is None or len(self._inputs[0]) != len(images):
            self.forget()
            self._inputs = torch.empty_like(images), torch.empty_like(labels)
        for place, values in zip(self._inputs, (images, labels), strict=True):
            place.copy_(values)

    def _once(self, p: float) -> None:
        assert self._inputs is not None
        self.total.add_(self._step(*self._inputs, self.dials.settings(p)))

    def _capture(self, make_graph: Callable[[Graph | None], Graph], p: float) -> None:
        graph = make_graph(self._graph)
        # Gradients of the steps before are freed, so that the captured ones lie in the graph's own memory.
        self._step.optimizer.zero_grad()
        with _capturable(self._step.optimizer):
            graph.capture(lambda: self._once(p))
        self._graph = graph
        self._captured = True
        self.captures += 1


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Tells torch that this capture is meant. Always on, it would warn of the steps that run one by one."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False
