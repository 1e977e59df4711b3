# SPDX-License-Identifier: Apache-2.0
"""Training of sorted distances: each layer is the norm over what it keeps, whatever is left out in front of it."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
import torch

from linfdeploy.errors import CheckpointError, KernelError
from linfdeploy.kernels.sort_dist import MOST_TERMS as KERNELS_MOST
from linfdeploy.nets.layer_specs import MOST_TERMS, LinfDistSpec, SortDistConvSpec, SortDistSpec
from linfdeploy.nets.net import LinfNet
from linfdeploy.nets.spec import NetSpec
from linfdeploy.nets.subsets import SUB_BATCH, Subsets, draw_subsets, features_of_subsets, share_of_subsets
from linfdeploy.training.running_means import renew_running_means

BATCH = 2 * SUB_BATCH + 5


def make(keep: float = 0.6) -> LinfNet:
    torch.manual_seed(0)
    return LinfNet(NetSpec.mlp((1, 4, 4), (0.1,), 0.3, (12, 10), 4).sorting(keep, 10))


def test_subsets_have_one_size_and_come_from_the_generator() -> None:
    net = make()
    first, again = (draw_subsets(net.distances, BATCH, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first[0] is None
    for kept, same, layer in zip(first[1:], again[1:], net.distances[1:], strict=True):
        assert kept is not None
        assert same is not None
        assert torch.equal(kept, same)
        assert len(kept) == 3
        assert (kept.diff(dim=1) > 0).all()
        assert int(kept.max()) < layer.weight.shape[1]
    sizes = [draw_subsets(net.distances, 1, torch.Generator().manual_seed(s))[1].shape[1] for s in range(400)]  # type: ignore[union-attr]
    # Binomial(12, 0.6): mean 7.2, of 400 draws within 5 standard errors.
    assert abs(np.mean(sizes) - 7.2) < 5 * math.sqrt(12 * 0.6 * 0.4 / 400)


def test_all_layers_of_distances_but_the_first_are_sorted_and_a_head_stays() -> None:
    spec = NetSpec.mlp((1, 4, 4), (0.1,), 0.3, (12, 10), 4, (7,))
    found = spec.sorting(0.6, 11)
    assert [layer.type for layer in found.layers] == ["linf_dist", "sort_dist", "linear", "linear"]
    assert found.layers[1] == SortDistSpec(12, 10, True, False, 0.6, 11)
    assert (found.layers[0], found.head) == (spec.layers[0], spec.head)


def test_convolutions_of_sorted_distances_are_not_trained() -> None:
    conv = SortDistConvSpec(1, 4, 4, 3, 2, 2, 0, mean_shift=True, bias=False, keep=0.7, terms=4)
    net = LinfNet(NetSpec((1, 4, 4), (0.1,), 0.3, (conv, LinfDistSpec(12, 2, False, True))))
    with pytest.raises(KernelError, match=r"^sort_dist_conv: a convolution of sorted distances in training, for"):
        net(torch.zeros(2, 1, 4, 4))


def test_training_leaves_out_what_kept_bits_say() -> None:
    net, x = make(), torch.randn(BATCH, 16)
    net.set_p(8.5)
    subsets = draw_subsets(net.distances, BATCH, torch.Generator().manual_seed(3))
    every, few = (_with_bits(net, x, subsets, bits) for bits in (0.0, 1.0))
    assert not torch.equal(every, few)
    torch.testing.assert_close(every, _with_bits(net, x, subsets, 37.0), atol=1e-5, rtol=0)


def _with_bits(net: LinfNet, x: torch.Tensor, subsets: Subsets, bits: float) -> torch.Tensor:
    for layer in net.distances[1:]:
        layer.kept_bits = bits
    return features_of_subsets(net.distances, x, subsets)


@pytest.mark.parametrize("p", [8.0, math.inf])
def test_layers_in_training_are_norms_over_what_is_kept(p: float) -> None:
    net, x = make(), torch.randn(BATCH, 16)
    net.set_p(p)
    subsets = draw_subsets(net.distances, BATCH, torch.Generator().manual_seed(3))
    found = features_of_subsets(net.distances, x, subsets)
    y = x.double()
    for layer, inputs, outputs in zip(net.distances, subsets, [*subsets[1:], None], strict=True):
        mask = torch.ones(BATCH, layer.weight.shape[1], dtype=torch.bool)
        shown = torch.ones(BATCH, layer.weight.shape[0], dtype=torch.bool)
        for n in range(BATCH):
            if inputs is not None:
                mask[n] = torch.zeros_like(mask[n]).scatter(0, inputs[n // SUB_BATCH], True)
            if outputs is not None:
                shown[n] = torch.zeros_like(shown[n]).scatter(0, outputs[n // SUB_BATCH], True)
        d = (y[:, None] - layer.weight.double()).abs() * mask[:, None]
        y = d.amax(-1) if math.isinf(p) else (d**p).sum(-1) ** (1 / p)
        if layer.mean_shift is not None:
            counts = shown.sum(0)
            mean = (y * shown).sum(0) / counts.clamp(min=1)
            y = y - mean
            torch.testing.assert_close(layer.mean_shift.running_mean.double(), 0.1 * mean, atol=1e-5, rtol=0)
        y = y if layer.bias is None else y + layer.bias
    torch.testing.assert_close(found.double(), y, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("first", "count"), [(0, BATCH), (0, 23), (23, 23), (46, 23), (30, 2), (31, 38), (64, 5)])
def test_a_share_has_the_subsets_that_its_samples_have_in_the_batch(first: int, count: int) -> None:
    subsets = draw_subsets(make().distances, BATCH, torch.Generator().manual_seed(3))
    share, sizes = share_of_subsets(subsets, first, count)
    assert sum(sizes) == count
    assert share[0] is None
    for mine, whole in zip(share[1:], subsets[1:], strict=True):
        assert mine is not None
        assert whole is not None
        found = mine.repeat_interleave(torch.tensor(sizes), 0)
        expected = whole.repeat_interleave(SUB_BATCH, 0)[first : first + count]
        assert torch.equal(found, expected)


def test_a_net_trains_on_subsets_and_is_evaluated_as_the_sorted_sum() -> None:
    net, images = make(), torch.rand(BATCH, 1, 4, 4)
    net.generator = torch.Generator().manual_seed(4)
    net(images).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    net.eval()
    layer = net.distances[1]
    x = torch.randn(3, 12)
    c = np.array(SortDistSpec(12, 10, True, False, 0.6, 10).weights, np.float32)
    expected = oracles.sort_dist(x.numpy(), layer.weight.detach().numpy(), c)
    np.testing.assert_array_equal(layer.distance(x).detach().numpy(), expected)
    net.set_p(8.0)
    with pytest.raises(KernelError, match=r"^sort_dist: p is 8\.0; expected p = inf outside training"):
        net(images)


def test_running_means_are_those_of_the_net_as_it_is_evaluated() -> None:
    net, batches = make(), [(torch.rand(6, 1, 4, 4), torch.zeros(6)) for _ in range(2)]
    renew_running_means(net, batches)
    first, second = net.distances[0], net.distances[1]
    assert first.mean_shift is not None
    assert second.mean_shift is not None
    before, means = [], []
    for images, _ in batches:
        y = first.distance(net.normalize(images)).detach()
        before.append(y.mean(0))
        means.append(second.distance(y - y.mean(0)).detach().mean(0))
    torch.testing.assert_close(first.mean_shift.running_mean, sum(before) / 2)
    torch.testing.assert_close(second.mean_shift.running_mean, sum(means) / 2)
    assert not net.training


def test_the_weights_are_the_papers() -> None:
    weights = SortDistSpec(20, 3, True, False, 0.75, 10).weights
    expected = [0.75 * 0.25**k / (1 - 0.25**10) for k in range(10)]
    np.testing.assert_allclose(weights, expected, rtol=1e-14)
    assert SortDistSpec(20, 3, True, False, 1.0, 3).weights == (1, 0, 0)
    assert MOST_TERMS == KERNELS_MOST


@pytest.mark.parametrize(
    ("keep", "terms", "message"),
    [
        (0.0, 3, "keep is 0.0; expected a chance above 0 and at most 1"),
        (float("nan"), 3, "keep is nan; expected a chance above 0 and at most 1"),
        (0.5, 7, "terms is 7 for 6 inputs; expected 1 to the number of inputs, and at most 32"),
    ],
)
def test_a_spec_without_weights_is_refused(keep: float, terms: int, message: str) -> None:
    with pytest.raises(CheckpointError) as error:
        SortDistSpec(6, 3, True, False, keep, terms)
    assert str(error.value) == message
