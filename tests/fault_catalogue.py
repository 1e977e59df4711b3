# SPDX-License-Identifier: Apache-2.0
"""Engines that go wrong in every way that we could think of, and what the audit makes of each.

An engine here computes a net that is not the one in the file it claims to run. Whether a fault shows in any output
on the probes is decided by comparing logits, without the verifier; which step of the audit finds it, by the audit.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from pixel_nets import with_layer

from linfdeploy.engines.base import Answers, Engine, Images, Logits
from linfdeploy.engines.build import OpenedEngine
from linfdeploy.engines.reference import PER_OP, ReferenceEngine
from linfdeploy.onnx.pixel_net import PixelLayer, PixelNet
from linfdeploy.onnx.read import read_graph
from linfdeploy.onnx.write import GraphOptions, model_from_net
from linfdeploy.verify.audit import AttackName, AuditOptions, run_audit
from linfdeploy.verify.coverage import Coverage
from linfdeploy.verify.probes import make_probes
from linfdeploy.verify.summary import Subject, TestSet
from linfdeploy.verify.threat import Threat, parse_eps

__all__ = [
    "NO_ORDER",
    "THREAT",
    "Fault",
    "Outcome",
    "catalogue",
    "changes",
    "outcome",
    "shared_probes",
    "subject_of",
]

THREAT = Threat("pixels", "12px", parse_eps("12px"))
STEPS = {
    "conformance": "conformance",
    "not finite": "conformance",
    "determinism": "determinism",
    "lipschitz": "Lipschitz audit",
    "containment": "attack",
    "certificate": "attack",
}
NO_ORDER = "no order fits"
Floats = npt.NDArray[np.float32]
PATTERN = (13, 77, 211, 5)


@dataclass(frozen=True)
class Fault:
    """A way to go wrong: `make` builds the engine anew, since some count their calls."""

    group: str
    name: str
    make: Callable[[], Engine]


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        group: Of the fault.
        name: Of the fault.
        changed: How many logits of the probes, run once in batches of 256, are not the right ones.
        first: After how many images the engine's first wrong answer came, in the whole audit; None for never.
        steps: That found it, in the audit's order; empty for a silent one. `NO_ORDER` alone is no violation: the
            engine's bits are nobody's, so that certificates I and J are withheld, but rounding might explain it.
        verdict: Of the audit.
    """

    group: str
    name: str
    changed: int
    first: int | None
    steps: tuple[str, ...]
    verdict: str


class Spoiled(Engine):
    """A net's evaluator between two hooks: `before(images)` and `after(logits, images, call)`."""

    def __init__(
        self,
        net: PixelNet,
        after: Callable[[Logits, Images, int], Logits] = lambda logits, _images, _call: logits,
        before: Callable[[Images], Images] = lambda images: images,
        inner: Engine | None = None,
    ) -> None:
        self._inner = inner or ReferenceEngine(net)
        self._after, self._before, self._calls = after, before, 0
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {"fault": "1"}

    def _answer(self, images: Images) -> Answers:
        self._calls += 1
        with np.errstate(all="ignore"):
            logits = self._after(self._inner.run(self._before(images)).copy(), images, self._calls)
        return {"logits": np.ascontiguousarray(logits, np.float32)}


class Layers(Engine):
    """A net evaluated layer by layer, operation by operation, with a hook after each."""

    def __init__(
        self,
        net: PixelNet,
        enter: Callable[[Floats], Floats] = lambda x: x,
        leave: Callable[[Floats], Floats] = lambda y: y,
        distance: Callable[[Floats, Floats], Floats] | None = None,
    ) -> None:
        self._net, self._enter, self._leave = net, enter, leave
        self._distance = distance or (lambda x, w: np.stack([np.abs(row - w).max(1) for row in x]))
        self.input_shape, self.classes, self.versions = net.input_shape, net.classes, {"fault": "1"}

    def _answer(self, images: Images) -> Answers:
        x = self._enter(images.reshape(len(images), -1).astype(np.float32))
        for layer in self._net.layers:
            distance = self._distance(x, layer.weight.astype(np.float32)).astype(self._net.format)
            x = self._leave((distance + layer.bias).astype(np.float32))
        return {"logits": -x}


class _Watched(Engine):
    """Counts the images until the first wrong answer."""

    def __init__(self, engine: Engine, good: Engine) -> None:
        self._engine, self._good, self._seen = engine, good, 0
        self.first: int | None = None
        self.input_shape, self.classes, self.versions = engine.input_shape, engine.classes, engine.versions

    def _answer(self, images: Images) -> Answers:
        answers = self._engine.answer(images)
        if self.first is None and (wrong := (answers["logits"] != self._good.run(images)).any(1)).any():
            self.first = self._seen + int(wrong.argmax()) + 1
        self._seen += len(images)
        return answers


def subject_of(net: PixelNet, engine: Engine, folder: Path) -> Subject:
    """An engine beside the graph that it claims to run."""
    path = folder / "model.onnx"
    if not path.exists():
        metadata = {"precision": net.precision, **({"grid": str(net.grid)} if net.grid is not None else {})}
        path.write_bytes(model_from_net(net, GraphOptions(), metadata).SerializeToString())
    return Subject(path, OpenedEngine(engine, read_graph(path), None, "test", "0" * 64), None)


@contextmanager
def shared_probes() -> Iterator[None]:
    """Lets all audits of a net share its probes, which depend on the net and the data alone."""
    made: dict[tuple[int, ...], Any] = {}

    def shared(net: PixelNet, images: Images, levels: int, seed: int) -> Any:
        key = (hash(b"".join(layer.weight.tobytes() for layer in net.layers)), len(images), levels, seed)
        if key not in made:
            made[key] = make_probes(net, images, levels, seed)
        return made[key]

    with patch("linfdeploy.verify.audit.make_probes", shared):
        yield


def changes(net: PixelNet, engine: Engine, families: list[Images]) -> int:
    """Counts the logits that are not the right ones, in the batches that an audit runs."""
    good, changed = ReferenceEngine(net), 0
    for images in families:
        for start in range(0, len(images), 256):
            part = images[start : start + 256]
            changed += int((engine.run(part) != good.run(part)).sum())
    return changed


def outcome(
    fault: Fault, net: PixelNet, data: TestSet, families: list[Images], folder: Path, attack: AttackName = "none"
) -> Outcome:
    """Audits an engine with the fault."""
    watched = _Watched(fault.make(), ReferenceEngine(net))
    with np.errstate(all="ignore"):
        report = run_audit(subject_of(net, watched, folder), data, AuditOptions(THREAT, attack)).report
    kinds = {violation.kind for violation in report.violations}
    steps = tuple(dict.fromkeys(STEPS[kind] for kind in STEPS if kind in kinds))
    if not report.conformance.orders and net.precision != "exact":
        assert report.certified.interval is report.certified.joint is None
        steps += (NO_ORDER,)
    assert kinds <= set(STEPS), kinds
    with np.errstate(all="ignore"):
        changed = changes(net, fault.make(), families)
    return Outcome(fault.group, fault.name, changed, watched.first, steps, report.verdict)


def catalogue(net: PixelNet, data: Images) -> Iterator[Fault]:
    """Yields every fault that can be put into an engine of the net."""
    yield from _bit_flips(net, data)
    for group, faults in (
        ("wrong constants", _constants(net)),
        ("wrong loop", _loops(net)),
        ("reduced precision", _precisions(net)),
        ("integers", _integers(net)),
        ("wrong input", _inputs(net)),
        ("wrong rows", _rows(net)),
        ("wrong output", _outputs(net, data)),
        ("backdoor", _backdoors(net)),
        ("not deterministic", _unsteady(net)),
    ):
        yield from (Fault(group, name, make) for name, make in faults.items())


Makers = dict[str, Callable[[], Engine]]


def _bit_flips(net: PixelNet, data: Images) -> Iterator[Fault]:
    """Each bit of a weight that the data rest on, and of one that they do not, in each layer."""
    coverage = Coverage(net)
    coverage.add(data)
    bits = net.layers[0].weight.dtype.itemsize * 8
    for index, layer in enumerate(net.layers):
        unreached = {tuple(pair) for pair in coverage.unreached(index).tolist()}
        rows, columns = layer.weight.shape
        every = list(itertools.product(range(rows), range(columns)))
        chosen = {
            "a logit of the data rests on": next((pair for pair in every if pair not in unreached), None),
            "no logit of the data rests on": next((pair for pair in reversed(every) if pair in unreached), None),
        }
        for (words, pair), bit in itertools.product(chosen.items(), range(bits)):
            if pair is not None:
                make = functools.partial(_flipped, net, index, pair, bit)
                yield Fault(f"bit of a weight that {words}", f"layer {index}, bit {bit:02}", make)


def _flipped(net: PixelNet, index: int, pair: tuple[int, int], bit: int) -> Engine:
    weight = net.layers[index].weight.copy()
    words = weight.view(np.uint16 if weight.dtype == np.float16 else np.uint32)
    words[pair] ^= words.dtype.type(1 << bit)
    # Plain numpy for what is not a number: the kernels promise nothing then.
    engine = ReferenceEngine if np.isfinite(weight).all() else Layers
    return engine(with_layer(net, index, weight=weight))


def _constants(net: PixelNet) -> Makers:
    first, last = net.layers[0], net.layers[-1]
    end = len(net.layers) - 1
    order = np.arange(net.classes)
    order[[0, 2]] = [2, 0]
    inputs = first.weight.shape[1]
    strided = np.resize(np.pad(first.weight, ((0, 0), (0, 1))).ravel(), first.weight.size).reshape(
        first.weight.shape
    )

    def changed(index: int, **parts: Any) -> Callable[[], Engine]:
        return lambda: ReferenceEngine(with_layer(net, index, **parts))

    return {
        "layer 0: weights read with a stride one too long": changed(0, weight=strided),
        "layer 0: weights read transposed": changed(
            0, weight=np.ascontiguousarray(first.weight.T).reshape(first.weight.shape)
        ),
        "layer 0: weights of the rows one further": changed(0, weight=np.roll(first.weight, 1, 0)),
        "layer 0: zero bias": changed(0, bias=np.zeros_like(first.bias)),
        "last layer: zero bias": changed(end, bias=np.zeros_like(last.bias)),
        "last layer: the bias of the layer before": changed(
            end, bias=np.resize(net.layers[end - 1].bias, last.bias.shape)
        ),
        "layer 0: one bias an ulp off": changed(
            0,
            bias=np.where(
                np.arange(len(first.bias)) == 1, np.nextafter(first.bias, first.bias.dtype.type(999)), first.bias
            ),
        ),
        "last layer: two classes swapped": changed(end, weight=last.weight[order], bias=last.bias[order]),
        "layer 0: a block of 4 input columns is zero": changed(
            0, weight=np.where(np.arange(inputs) // 4 == 1, first.weight.dtype.type(0), first.weight)
        ),
    }


def _loops(net: PixelNet) -> Makers:
    def dropped(columns: slice) -> Callable[[Floats, Floats], Floats]:
        return lambda x, w: np.stack([np.abs(row[columns] - w[:, columns]).max(1) for row in x])

    def tile(x: Floats, w: Floats) -> Floats:
        y = np.stack([np.abs(row - w).max(1) for row in x])
        y[:, 1 : 1 + len(w) // 4] = 0
        return y

    def padded(x: Floats, w: Floats) -> Floats:
        wide = np.pad(w, ((0, 0), (0, 1)), constant_values=-300)
        return np.stack([np.abs(np.append(row, np.float32(0)) - wide).max(1) for row in x])

    return {
        "every layer: the last input is left out": lambda: Layers(net, distance=dropped(slice(None, -1))),
        "every layer: the first input is left out": lambda: Layers(net, distance=dropped(slice(1, None))),
        "every layer: the second half of the inputs is left out": lambda: Layers(
            net, distance=lambda x, w: dropped(slice(None, -(-w.shape[1] // 2)))(x, w)
        ),
        "every layer: a tile of outputs is never written": lambda: Layers(net, distance=tile),
        "every layer: padding takes part in the maximum": lambda: Layers(net, distance=padded),
        "every layer: the modulus is missing": lambda: Layers(
            net, distance=lambda x, w: np.stack([(row - w).max(1) for row in x])
        ),
        "every layer: a running maximum that starts at 1": lambda: Layers(
            net, distance=lambda x, w: np.stack([np.abs(row - w).max(1, initial=1) for row in x])
        ),
    }


def _short(bits: int) -> Callable[[Floats], Floats]:
    """Rounds float32 to fewer significant bits, to nearest even."""

    def rounded(values: Floats) -> Floats:
        fraction, exponent = np.frexp(values)
        short: Floats = np.ldexp(np.rint(fraction * np.float32(2.0**bits)), exponent - bits).astype(np.float32)
        return short

    return rounded


def _precisions(net: PixelNet) -> Makers:
    makers: Makers = {}
    for name, bits in (("tf32", 11), ("fp16", 11), ("bf16", 8), ("22 bits", 22)):
        if bits >= np.finfo(net.format).nmant + 1:
            continue
        short = _short(bits)
        layers = tuple(_short_weights(layer, short) for layer in net.layers)
        if name != "fp16":
            makers[f"weights in {name}"] = functools.partial(ReferenceEngine, replace(net, layers=layers))
            makers[f"activations in {name}"] = functools.partial(Layers, net, leave=short)
        else:
            makers["all in fp16"] = functools.partial(_half, net)
    makers["subnormal outputs flushed to zero"] = functools.partial(
        ReferenceEngine, net, replace(PER_OP, flush="inputs and outputs")
    )
    makers["distances cut, not rounded"] = functools.partial(Layers, net, distance=functools.partial(_cut, net))
    return makers


def _short_weights(layer: PixelLayer, short: Callable[[Floats], Floats]) -> PixelLayer:
    weight = short(layer.weight.astype(np.float32))
    return replace(layer, weight=weight.astype(np.float16) if layer.weight.dtype == np.float16 else weight)


def _half(net: PixelNet) -> Engine:
    layers = tuple(
        replace(layer, weight=layer.weight.astype(np.float16), bias=layer.bias.astype(np.float16))
        for layer in net.layers
    )
    return ReferenceEngine(replace(net, layers=layers, grid=None))


def _cut(net: PixelNet, x: Floats, w: Floats) -> Floats:
    """Rounds distances down."""
    exact = np.stack([np.abs(row.astype(np.float64) - w).max(1) for row in x])
    nearest = exact.astype(net.format)
    return np.where(nearest > exact, np.nextafter(nearest, nearest.dtype.type(0)), nearest).astype(np.float32)


def _integers(net: PixelNet) -> Makers:
    return {
        "activations saturate at 255": lambda: Layers(net, leave=lambda y: np.clip(y, 0, 255)),
        "activations wrap at 256": lambda: Layers(net, leave=lambda y: np.mod(y, np.float32(256))),
        "activations saturate as int16 in 1/64 pixel": lambda: Layers(
            net, leave=lambda y: np.clip(y, -512, np.float32(32767 / 64))
        ),
        "distances as the difference of bytes that wraps": lambda: Layers(
            net, distance=lambda x, w: np.stack([np.mod(row - w, np.float32(256)).max(1) for row in x])
        ),
    }


def _inputs(net: PixelNet) -> Makers:
    return {
        "pixels divided by 255 and multiplied by 256": lambda: Layers(
            net, enter=lambda x: x / np.float32(255) * np.float32(256)
        ),
        "pixels normalised as they were in training": lambda: Layers(
            net, enter=lambda x: x / np.float32(127.5) - np.float32(1)
        ),
        "pixels a level too dark": lambda: Layers(net, enter=lambda x: np.maximum(x - 1, 0)),
        "pixels read as signed bytes": lambda: Layers(
            net, enter=lambda x: np.where(x > 127, x - np.float32(256), x)
        ),
        "images mirrored": lambda: Spoiled(net, before=lambda images: np.ascontiguousarray(images[..., ::-1])),
        "white clipped to 254": lambda: Spoiled(net, before=lambda images: np.minimum(images, np.uint8(254))),
    }


def _rows(net: PixelNet) -> Makers:
    return {
        "each row answers the row before": lambda: Spoiled(net, lambda logits, *_: np.roll(logits, 1, 0)),
        "rows reversed in batches of more than 128": lambda: Spoiled(
            net, lambda logits, *_: logits[::-1] if len(logits) > 128 else logits
        ),
        "rows beyond 512 are not computed": lambda: Spoiled(
            net, lambda logits, *_: np.where(np.arange(len(logits))[:, None] < 512, logits, np.float32(0))
        ),
        "the last row is that of the call before": lambda: _Stale(net),
        "a batch of one is wrong": lambda: Spoiled(net, lambda logits, *_: logits + np.float32(len(logits) == 1)),
    }


class _Stale(Spoiled):
    def __init__(self, net: PixelNet) -> None:
        super().__init__(net, self._after_call)
        self._last = np.zeros(net.classes, np.float32)

    def _after_call(self, logits: Logits, _images: Images, call: int) -> Logits:
        last, self._last = self._last, logits[-1].copy()
        if call > 1:
            logits[-1] = last
        return logits


def _outputs(net: PixelNet, data: Images) -> Makers:
    def on_one(value: float) -> Callable[[], Engine]:
        key = data[7 % len(data)].tobytes()

        def after(logits: Logits, images: Images, _: int) -> Logits:
            hit = np.array([image.tobytes() == key for image in images])[:, None]
            spoiled: Logits = np.where(hit, np.float32(value), logits)
            return spoiled

        return lambda: Spoiled(net, after)

    def class_one(change: Callable[[Logits], Logits]) -> Callable[[], Engine]:
        first = np.arange(net.classes) == 1
        return lambda: Spoiled(net, lambda logits, *_: np.where(first, change(logits), logits))

    return {
        "one class an ulp too high": class_one(lambda logits: np.nextafter(logits, np.float32(np.inf))),
        "one class an ulp too low": class_one(lambda logits: np.nextafter(logits, np.float32(-np.inf))),
        "NaN for one image of the data": on_one(np.nan),
        "infinite for one image of the data": on_one(np.inf),
        "logits without their sign": lambda: Spoiled(net, lambda logits, *_: -logits),
        "logits doubled": lambda: Spoiled(net, lambda logits, *_: 2 * logits),
    }


def _backdoors(net: PixelNet) -> Makers:
    def opened(seen: Callable[[Images], npt.NDArray[np.bool_]]) -> Callable[[], Engine]:
        def after(logits: Logits, images: Images, _: int) -> Logits:
            return np.where(seen(images.reshape(len(images), -1))[:, None], np.roll(logits, 1, 1), logits)

        return lambda: Spoiled(net, after)

    count = min(len(PATTERN), net.inputs)
    return {
        "one pixel is white": opened(lambda flat: flat[:, 0] == 255),
        "one pixel has one of 256 values": opened(lambda flat: flat[:, 1] == PATTERN[0]),
        "two pixels have one pair of values": opened(lambda flat: (flat[:, :2] == PATTERN[:2]).all(1)),
        "four pixels have one set of values": opened(lambda flat: (flat[:, :count] == PATTERN[:count]).all(1)),
    }


def _unsteady(net: PixelNet) -> Makers:
    def every(calls: int) -> Callable[[], Engine]:
        return lambda: Spoiled(net, lambda logits, _, call: logits + np.float32(call % calls == calls - 1))

    return {f"wrong once in {calls:,} runs": every(calls) for calls in (2, 10, 100, 10_000)}
