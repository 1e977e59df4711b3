# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint of the papers' repositories to one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from linfdeploy import __version__
from linfdeploy.errors import CheckpointError, InputError
from linfdeploy.nets.checkpoint import net_from_state, save_checkpoint
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LayerSpec, LinearSpec, LinfDistSpec, NetSpec, SortDistSpec
from linfdeploy.training.importers import linf_dist_net, linf_dist_net_v2, sortnet
from linfdeploy.training.importers.archive import Source, read_source
from linfdeploy.training.importers.convolutions import check_convolutional_log, convolution_specs, image_values
from linfdeploy.training.importers.inputs import Input, InputOptions, input_of
from linfdeploy.training.importers.layout import Evidence, Found, Layer, Linear
from linfdeploy.training.importers.run_log import NAME, RunLog, read_run_log

__all__ = ["REPOSITORIES", "ImportRequest", "Imported", "import_checkpoint"]

REPOSITORIES = (linf_dist_net.REPOSITORY, linf_dist_net_v2.REPOSITORY, sortnet.REPOSITORY)


@dataclass(frozen=True)
class ImportRequest:
    """What is to be imported.

    Attributes:
        path: The checkpoint.
        log: The run's log; None: the `log.txt` beside the checkpoint, if there is one.
        repository: One of `REPOSITORIES`, or None: what the file and the log say.
        input: What the user says of the net's input.
        eps: The radius that the net was made for, as text, or None: what the log says.
        keep: The chance of an input to be kept by SortNet's subsets, or None: what the log says.
    """

    path: Path
    log: Path | None = None
    repository: str | None = None
    input: InputOptions = field(default_factory=InputOptions)
    eps: str | None = None
    keep: float | None = None


@dataclass(frozen=True, eq=False)
class Imported:
    """A net of ours.

    Attributes:
        net: In evaluation mode, at p = inf; its logits are the reference's, before any scale.
        provenance: JSON-able data: where it came from.
        words: The same in a few words.
    """

    net: LinfNet
    provenance: Mapping[str, Any]
    words: str


def import_checkpoint(request: ImportRequest, out: Path) -> Imported:
    """Reads a checkpoint of one of the papers' repositories and writes it as ours. Nothing in it is executed.

    Raises:
        CheckpointError: The file is damaged, hostile, of none of the repositories, or its net has parts that ours
            cannot have.
        InputError: What the file does not say is missing or contradictory, or `out` cannot be written.
    """
    source = read_source(request.path)
    log = _log_of(request)
    try:
        found = _recognised(source, log, request)
        layers = found.layers
        if log is not None:
            _check_log(layers, found, log)
        taken = input_of(request.input, log, image_values(layers))
        net = net_from_state(_spec(layers, found.head, taken), _state(layers, found.head))
    except CheckpointError as error:
        raise CheckpointError(f"{request.path}: {error}") from None
    except InputError as error:
        raise InputError(f"{request.path}: {error}") from None
    imported = Imported(net, _provenance(source, found, taken, log, request.eps), _words(found, taken))
    save_checkpoint(out, net, imported.provenance)
    return imported


def _log_of(request: ImportRequest) -> RunLog | None:
    beside = request.path.parent / NAME
    if request.log is None and not beside.exists():
        return None
    return read_run_log(request.log or beside)


def _recognised(source: Source, log: RunLog | None, request: ImportRequest) -> Found:
    stated = request.repository
    evidence = Evidence(
        "optimizer" in source.fields,
        log.model.name if log else None,
        stated,
        sortnet.keep_of(request.keep, log),
        sortnet.stride_of(log),
        request.input.shape,
    )
    found = linf_dist_net.recognise(source.state) or linf_dist_net_v2.recognise(source.state, evidence)
    if found is None:
        names = sorted(source.state)[:5]
        raise CheckpointError(
            f"its tensors are {names}{' and more' * (len(source.state) > 5)}; expected those of "
            f"{', '.join(REPOSITORIES[:2])} or {REPOSITORIES[2]}"
        )
    if stated is not None and stated != found.repository:
        raise CheckpointError(f"it is of {found.repository}; expected {stated}, as --repository says")
    return found if found.scale is not None else replace(found, scale=sortnet.scale_of(log))


def _check_log(layers: tuple[Layer, ...], found: Found, log: RunLog) -> None:
    """Compares the sizes: a log of another run would give the net a wrong input."""
    if layers[0].moves is not None and found.repository == linf_dist_net.REPOSITORY:
        check_convolutional_log(layers, found.model, log)
        return
    unit = linf_dist_net.WIDTH if found.repository == linf_dist_net.REPOSITORY else 1
    widths = sorted({len(layer.weight) for layer in (layers if found.head else layers[:-1])})
    # The first paper counts the layers in front of the head, the others all of them.
    depth = len(layers) + (0 if found.repository == linf_dist_net.REPOSITORY else len(found.head))
    said = log.model.name, log.model.arguments.get("depth"), log.model.arguments.get("width")
    held = (
        found.model,
        str(depth),
        str(widths[0] // unit) if len(widths) == 1 and not widths[0] % unit else "?",
    )
    if said != held:
        raise CheckpointError(
            f"it holds {found.model} of depth {depth} with hidden layers of {widths} units, but {log.path} "
            f"tells of {said[0]} of depth {said[1]} and width {said[2]}; expected the log of the same run: name "
            "it with --log"
        )


def _spec(layers: tuple[Layer, ...], head: tuple[Linear, ...], taken: Input) -> NetSpec:
    specs: list[LayerSpec] = list(convolution_specs(layers, taken.shape))
    specs += [_layer_spec(layer) for layer in layers[len(specs) :]]
    for index, linear in enumerate(head):
        outputs, inputs = linear.weight.shape
        specs.append(LinearSpec(inputs, outputs, "tanh" if index + 1 < len(head) else "none"))
    return NetSpec(taken.shape, taken.mean, taken.std, tuple(specs))


def _layer_spec(layer: Layer) -> LayerSpec:
    outputs, inputs = layer.weight.shape
    parts = inputs, outputs, layer.mean is not None, layer.bias is not None
    if layer.keep == 1:
        return LinfDistSpec(*parts)
    return SortDistSpec(*parts, keep=layer.keep, terms=min(inputs, sortnet.TERMS))


def _state(layers: tuple[Layer, ...], head: tuple[Linear, ...]) -> Mapping[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(layers):
        parts = {"weight": layer.weight, "mean_shift.running_mean": layer.mean, "bias": layer.bias}
        state.update({f"layers.{index}.{name}": part for name, part in parts.items() if part is not None})
    for index, linear in enumerate(head, len(layers)):
        state |= {f"layers.{index}.weight": linear.weight, f"layers.{index}.bias": linear.bias}
    return state


def _provenance(
    source: Source, found: Found, taken: Input, log: RunLog | None, eps: str | None
) -> Mapping[str, Any]:
    logged = log.arguments if log else {}
    return {
        "imported": {
            "file": source.path.name,
            "sha256": source.sha256,
            "layout": source.layout,
            "repository": found.repository,
            "model": found.model,
            "scale": found.scale,
            **({} if (keep := _keep(found)) is None else {"keep": keep}),
        },
        "dataset": taken.dataset,
        "eps": eps or (None if logged.get("eps_test") == "None" else logged.get("eps_test")),
        "log": {"sha256": log.sha256, "arguments": dict(log.arguments)} if log else None,
        "versions": {"linfdeploy": __version__, "torch": str(torch.__version__)},
    }


def _keep(found: Found) -> float | None:
    return next((layer.keep for layer in found.layers if layer.keep != 1), None)


def _words(found: Found, taken: Input) -> str:
    return f"{found.model} of {found.repository}, {found.parts}, input {taken.shape}"
