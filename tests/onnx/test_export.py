# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from oracles import exact_net
from small_nets import (
    NET,
    SHAPE,
    exported,
    float_bits,
    in_reference,
    in_runtime,
    random_images,
    torch_net,
    traced,
)

import linfdeploy
from linfdeploy.engines.reference import ReferenceEngine, roundings_of
from linfdeploy.errors import ExportError
from linfdeploy.nets.net import LinfNet
from linfdeploy.onnx.export import ExportOptions, model_from_checkpoint_net, pixel_net_from_net
from linfdeploy.onnx.passes.ranges import exactness_gap, rounding_error, value_ranges
from linfdeploy.onnx.pixel_net import PRECISIONS, PixelNet, Precision
from linfdeploy.onnx.read import DeployedGraph, read_graph
from linfdeploy.onnx.write import Form

RUNNABLE: tuple[Form, ...] = ("function", "standard")
CHANNELS = torch_net(5, shape=(3, 2, 2), mean=(0.48, 0.45, 0.4), std=0.225)


@pytest.fixture(autouse=True)
def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfdeploy.onnx.export.chain_from_net", traced)


def read(data: bytes, folder: Path) -> DeployedGraph:
    (folder / "model.onnx").write_bytes(data)
    return read_graph(folder / "model.onnx")


def real_logits(net: LinfNet, image: np.ndarray) -> list[Fraction]:
    """The checkpoint's real-number logits, in pixels."""
    spec, state = net.spec, {name: tensor.tolist() for name, tensor in net.state_dict().items()}
    mean = [Fraction(float(np.float32(value))) for value in spec.mean for _ in range(spec.input_shape[1] ** 2)]
    std = Fraction(float(np.float32(spec.std)))
    x = [(Fraction(int(value), 255) - m) / std for value, m in zip(image.reshape(-1), mean, strict=True)]

    def rationals(name: str) -> list[Fraction] | None:
        return [Fraction(value) for value in state[name]] if name in state else None

    layers = [
        (
            [[Fraction(w) for w in row] for row in state[f"layers.{index}.weight"]],
            rationals(f"layers.{index}.mean_shift.running_mean"),
            rationals(f"layers.{index}.bias"),
        )
        for index in range(len(spec.layers))
    ]
    return [255 * std * value for value in exact_net(x, layers)]


def moved(net: PixelNet) -> Fraction:
    """How far the deployed real net can be from the checkpoint's: half a step a weight and a bias of a layer."""
    if net.grid is not None:
        return len(net.layers) * Fraction(1, 2**net.grid) + Fraction(1, 2**30)
    unit = Fraction(1, 2**11 if net.precision == "fp16" else 2**24) * (1 + Fraction(1, 2**10))
    return sum((unit * (Fraction(r.weight) + Fraction(r.bias)) for r in value_ranges(net)), Fraction(1, 2**20))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("radius", [False, True])
def test_all_forms_give_the_same_bits(precision: Precision, radius: bool, tmp_path: Path) -> None:
    images = random_images(9)
    net = read(exported(precision, "function", radius), tmp_path).net
    allowed = [float_bits(ReferenceEngine(net, rounding).run(images)).tolist() for rounding in roundings_of(net)]
    found = []
    for form in RUNNABLE:
        data = exported(precision, form, radius)
        model = onnx.load_from_string(data)
        onnx.checker.check_model(model, full_check=True)
        assert read(data, tmp_path).departures == ()
        answer = in_runtime(data, images)
        found.append({name: value.tobytes() for name, value in answer.items()})
        assert float_bits(answer["logits"]).tolist() in allowed
        assert float_bits(in_reference(model, images)["logits"]).tolist() == allowed[0]
    assert found[0] == found[1]


def test_op_form_holds_the_same_weights(tmp_path: Path) -> None:
    ours, op = (read(exported("exact", form), tmp_path).net for form in ("function", "op"))
    for a, b in zip(ours.layers, op.layers, strict=True):
        assert a.weight.tobytes() + a.bias.tobytes() == b.weight.tobytes() + b.bias.tobytes()


def test_metadata(tmp_path: Path) -> None:
    graph = read(exported(), tmp_path)
    metadata = graph.metadata
    assert set(metadata) == {
        *("format", "linfdeploy", "spec", "precision", "ranges", "checkpoint_sha256", "grid"),
    }
    assert metadata["format"] == "linfdeploy.onnx/1"
    assert metadata["linfdeploy"] == linfdeploy.__version__
    assert (metadata["precision"], metadata["grid"], metadata["checkpoint_sha256"]) == ("exact", "12", "0" * 64)
    assert json.loads(metadata["spec"]) == json.loads(json.dumps(NET.spec.to_json()))
    assert json.loads(metadata["ranges"]) == [asdict(reach) for reach in value_ranges(graph.net)]
    assert "grid" not in read(exported("fp32"), tmp_path).metadata


def test_same_bytes_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    again = model_from_checkpoint_net(torch_net(0), ExportOptions(), "0" * 64).SerializeToString(
        deterministic=True
    )
    assert again == exported()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("net", [NET, CHANNELS], ids=["grey", "channels"])
def test_close_to_the_checkpoint_within_the_proven_bound(precision: Precision, net: LinfNet) -> None:
    deployed = pixel_net_from_net(net, precision, 12)
    ranges = value_ranges(deployed)
    bound = moved(deployed) + (0 if precision == "exact" else rounding_error(deployed, ranges))
    images = random_images(6, net.spec.input_shape)
    found = ReferenceEngine(deployed).run(images)
    with torch.no_grad():
        torch_logits = net(torch.from_numpy(images).float() / 255).double().numpy() * 255 * net.spec.std
    for image, ours, theirs in zip(images, found, torch_logits, strict=True):
        for real, deployed_logit, torch_logit in zip(real_logits(net, image), ours, theirs, strict=True):
            assert abs(Fraction(float(deployed_logit)) - real) <= bound
            assert abs(torch_logit - float(real)) < 1e-3
    assert bound < (10 if precision == "fp16" else 0.01)


@pytest.mark.parametrize("std", [0.01, 1.0, 3.7])
def test_other_stds(std: float) -> None:
    net = torch_net(6, std=std)
    deployed = pixel_net_from_net(net, "fp32", 12)
    (image,) = random_images(1)
    bound = moved(deployed) + rounding_error(deployed, value_ranges(deployed))
    found = ReferenceEngine(deployed).run(image[None])[0]
    for a, b in zip(real_logits(net, image), found, strict=True):
        assert abs(Fraction(float(b)) - a) <= bound


def test_mean_of_each_channel_is_folded_into_its_own_columns() -> None:
    first = pixel_net_from_net(CHANNELS, "fp32", 12).layers[0].weight
    weight = CHANNELS.state_dict()["layers.0.weight"].double().numpy()
    for channel, mean in enumerate(CHANNELS.spec.mean):
        columns = slice(4 * channel, 4 * channel + 4)
        expected = 255 * (mean + CHANNELS.spec.std * weight[:, columns])
        assert np.allclose(first[:, columns], expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("grid", [0, 4, 13])
def test_grids(grid: int) -> None:
    net = pixel_net_from_net(NET, "exact", grid)
    assert net.grid == grid
    for layer in net.layers:
        for values in (layer.weight, layer.bias):
            scaled = values.astype(np.float64) * 2**grid
            assert np.array_equal(scaled, np.round(scaled))


def larger(factor: float) -> LinfNet:
    """A net whose weights, and so whose values, are larger."""
    net = torch_net(3)
    with torch.no_grad():
        for layer in net.distances:
            layer.weight.mul_(factor)
    return net


@pytest.mark.parametrize("factor", [8.0, 64.0, 128.0])
def test_large_values_get_the_finest_grid_that_holds_them(factor: float) -> None:
    net = larger(factor)
    found = pixel_net_from_net(net, "exact", None)
    assert found.grid is not None
    assert 6 <= found.grid < 12
    assert exactness_gap(found, found.grid) is None
    with pytest.raises(ExportError, match=f"use --grid {found.grid} or --precision fp32"):
        pixel_net_from_net(net, "exact", found.grid + 1)


def test_values_too_large_for_any_grid_are_refused() -> None:
    with pytest.raises(ExportError, match=r"where the grid of 2\^-12 allows 4096: use --precision fp32"):
        pixel_net_from_net(larger(2.0**14), "exact", None)


def test_too_fine_a_grid_is_refused_with_one_that_fits() -> None:
    with pytest.raises(ExportError, match=r"the net is not exact: values reach .* use --grid 1\d or --precision"):
        pixel_net_from_net(NET, "exact", 20)


def test_input_shape_is_the_images() -> None:
    model = onnx.load_from_string(exported())
    assert tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]) == SHAPE
