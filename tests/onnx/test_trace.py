# SPDX-License-Identifier: Apache-2.0
import numpy as np
import numpy.typing as npt
import pytest
from small_nets import torch_net

from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import LinfDistConvSpec, LinfDistSpec, SortDistConvSpec
from linfdeploy.onnx.chain import Chain, Distance, Normalize, Shift
from linfdeploy.onnx.trace import chain_from_net

BARE = LinfDistSpec(12, 4, mean_shift=False, bias=False)
BOTH = LinfDistSpec(4, 3, mean_shift=True, bias=True)
NETS = {
    "papers": torch_net(1),
    "channels, no shift, both shifts": torch_net(
        2, shape=(3, 2, 2), mean=(0.1, 0.2, 0.3), std=0.25, layers=(BARE, BOTH)
    ),
    "nothing to normalise": torch_net(3, mean=(0.0,), std=1.0),
    "only a mean": torch_net(3, std=1.0),
    "only a std": torch_net(3, mean=(0.0,)),
}


def gathered(chain: Chain) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    layers: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    for step in chain.steps[1:]:
        if isinstance(step, Distance):
            layers.append((step.weight, np.zeros(len(step.weight))))
        else:
            assert isinstance(step, Shift)
            layers[-1][1][:] += step.offset
    return layers


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_chain_is_the_state_dict(net: LinfNet) -> None:
    chain = chain_from_net(net)
    assert chain.input_shape == net.spec.input_shape
    normalize = chain.steps[0]
    assert isinstance(normalize, Normalize)
    pixels = net.spec.input_shape[1] * net.spec.input_shape[2]
    assert np.array_equal(
        normalize.mean, np.repeat(np.array(net.spec.mean, np.float32), pixels).astype(np.float64)
    )
    assert normalize.std == float(np.float32(net.spec.std))
    state = net.state_dict()
    found = gathered(chain)
    assert len(found) == len(net.spec.layers)
    for index, (weight, shift) in enumerate(found):
        assert np.array_equal(weight, state[f"layers.{index}.weight"].numpy().astype(np.float64))
        expected = np.zeros(len(weight))
        for name, sign in (("mean_shift.running_mean", -1), ("bias", 1)):
            if (tensor := state.get(f"layers.{index}.{name}")) is not None:
                expected += sign * tensor.numpy().astype(np.float64)
        assert np.array_equal(shift, expected)


def test_filters_too_large_for_the_exporter_to_reshape() -> None:
    layers = (
        LinfDistConvSpec(3, 20, 20, 24, 18, 2, 0, mean_shift=True, bias=False),
        SortDistConvSpec(24, 2, 2, 70, 1, 1, 0, mean_shift=False, bias=True, keep=0.7, terms=10),
        LinfDistSpec(280, 3, mean_shift=False, bias=True),
    )
    net = torch_net(4, shape=(3, 20, 20), mean=(0.1, 0.2, 0.3), std=0.25, layers=layers)
    found = [step for step in chain_from_net(net).steps if isinstance(step, Distance)]
    for step, layer, spec in zip(found, net.distances, layers, strict=True):
        assert np.array_equal(step.weight, layer.weight.detach().numpy().astype(np.float64))
        assert step.window == getattr(spec, "window", None)
    assert found[1].sort is not None
