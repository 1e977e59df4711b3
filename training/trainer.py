# SPDX-License-Identifier: Apache-2.0
"""A run, epoch by epoch. The same recipe, data and versions give the same bits, resumed or not.

Nothing random outlives an epoch: order, crops and mirror images of epoch e come from the seed and e alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from linfdeploy.errors import RecipeError
from linfdeploy.training import graphs
from linfdeploy.training.average import share_batch_means
from linfdeploy.training.batches import Batches, generator_of
from linfdeploy.training.data import Dataset
from linfdeploy.training.history import History
from linfdeploy.training.place import CPU, Place
from linfdeploy.training.recipe import Recipe
from linfdeploy.training.running_means import renew_running_means
from linfdeploy.training.schedules import Dials, dials_at
from linfdeploy.training.start import initial_net, initial_optimizer
from linfdeploy.training.step import Settings, Step
from linfdeploy.training.times import PhaseTimes, phase_of

__all__ = ["Trainer"]

# Behind the streams of all epochs.
SUBSETS = 2**32


class Trainer:
    """A run that advances epoch by epoch.

    On the CPU every step's loss is looked at. On CUDA the host runs ahead of the device and looks once an epoch;
    the dials are rounded to float32, so the bits are not those of the CPU.

    Attributes:
        recipe: What to do.
        place: Where.
        net: The net in training.
        scale: (1,) float32, the papers' scalar s. The logits of the cross-entropy are multiplied by it; margins
            are not, so it is no part of the net. It stays 1 where the loss has no such cross-entropy.
        optimizer: Adam on both.
        epoch: Epochs done.
        times: What they took.
        history: What they came to, which is for the caller to add to.
    """

    def __init__(self, recipe: Recipe, dataset: Dataset, place: Place = CPU) -> None:
        _check_place(recipe, place)
        self.recipe = recipe
        self.place = place
        self.epoch = 0
        self.times = PhaseTimes()
        self.history = History()
        self.batches = Batches(recipe, dataset, place)
        self.net = initial_net(recipe, dataset).to(place.device)
        share_batch_means(self.net, place.ranks)
        self.net.share = place.ranks.rank, place.ranks.world
        self.scale = torch.nn.Parameter(torch.ones(1, device=place.device))
        on_device = place.graphs or place.device.type != "cpu"
        self.optimizer = initial_optimizer(recipe, self.net, self.scale)
        self._std = dataset.std
        self._step = Step(recipe, self.net, self.scale, self.optimizer, place.ranks)
        self._device_step = self._new_device_step() if on_device else None
        self._stream = _stream_on(place.device) if place.device.type == "cuda" else None

    def _new_device_step(self) -> graphs.DeviceStep:
        return graphs.DeviceStep(self._step, self.place.device, graphs.CudaGraph if self.place.graphs else None)

    def run_epoch(self) -> tuple[float, Dials]:
        """Trains for one epoch.

        Returns:
            The mean loss and the settings of the last step.

        Raises:
            RecipeError: The loss or a weight is not finite; on every rank.
            PeerError: Another process is gone.
        """
        begin = time.monotonic()
        self.net.train()
        # A stream of its own: the images of an epoch are the same with and without subsets.
        self.net.generator = generator_of(self.recipe.seed, SUBSETS + self.epoch)
        steps = self.batches.steps(self.epoch)
        plan = [dials_at(self.recipe, self.epoch * steps + index, steps) for index in range(steps)]
        total = self._run_on_host(plan) if self._device_step is None else self._run_ahead(self._device_step, plan)
        # The kernels' maxima may swallow a NaN, so the loss alone does not tell.
        if not bool(torch.stack([parameter.isfinite().all() for parameter in self.net.parameters()]).all()):
            raise self._diverged("some weights are not finite", plan[-1])
        self.times.add(phase_of(plan[-1].p), time.monotonic() - begin)
        self.epoch += 1
        return total / steps, plan[-1]

    def renew_running_means(self) -> None:
        """Makes the running means those of the net as it is evaluated, where training has others."""
        renew_running_means(self.net, self.batches.of_epoch(self.recipe.epochs))

    def moved(self) -> None:
        """Says that a state was restored, so that no captured graph holds any more."""
        if self._device_step is not None:
            self._device_step.forget()

    def _run_on_host(self, plan: Sequence[Dials]) -> float:
        total = 0.0
        for dials, (images, labels) in zip(plan, self.batches.of_epoch(self.epoch), strict=True):
            value = self._step(images, labels, Settings.of(dials, self._std)).item()
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", dials)
            total += value
        return total

    def _run_ahead(self, step: graphs.DeviceStep, plan: Sequence[Dials]) -> float:
        with self._beside_the_default_stream():
            step.total.zero_()
            step.dials.plan(plan, self._std)
            for index, (images, labels) in enumerate(self.batches.of_epoch(self.epoch)):
                step.dials.turn_to(index)
                step.run(images, labels, plan[index].p)
            # The one moment of an epoch at which the host waits.
            total = step.total.item()
        if not math.isfinite(total):
            raise self._diverged(f"the loss is {total}", plan[-1])
        return total

    @contextmanager
    def _beside_the_default_stream(self) -> Iterator[None]:
        """Runs steps, captured or not, on one stream of their own: CUDA captures none on the default stream."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.place.device))
        with torch.cuda.stream(self._stream):
            yield

    def _diverged(self, found: str, dials: Dials) -> RecipeError:
        return RecipeError(
            f"training diverged in epoch {self.epoch + 1}: {found} at p = {dials.p:g}, lr = {dials.lr:g}; "
            "expected finite numbers: try a smaller lr, lambda_start or p_end"
        )


def _check_place(recipe: Recipe, place: Place) -> None:
    """Refuses what the subsets of sorted distances cannot yet be trained on."""
    if recipe.neuron == "sort_dist" and (place.device.type != "cpu" or place.graphs):
        raise RecipeError(
            f"neuron is 'sort_dist' on {place.device}; expected cpu, where sorted distances are trained so far: "
            "use --device cpu"
        )


def _stream_on(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
