# SPDX-License-Identifier: Apache-2.0
from linfdeploy.engines.trt.information import UNNAMED, kernel_words, ways_of

LAYERS = [
    {"Name": "layer0", "LayerType": "PluginV3"},
    {"Name": "fused", "LayerType": "kgen", "Metadata": "[ONNX Layer: layer1]\x1f[ONNX Layer: layer1.add]"},
    {"Name": "other", "LayerType": "loop", "Metadata": "[ONNX Layer: layer1]"},
    {"Name": "layer2"},
    {"Name": "layer10", "LayerType": "PluginV3"},
]


def test_ways() -> None:
    ways = ways_of(["layer0", "layer1", "layer2", "layer3"], LAYERS)
    assert ways == {"layer0": "plugin", "layer1": "kgen, loop", "layer2": UNNAMED, "layer3": UNNAMED}
    assert kernel_words("library", ways) == "plugin (library) in 1 of 4 layers"


def test_a_name_that_begins_like_another() -> None:
    assert ways_of(["layer1"], LAYERS[4:]) == {"layer1": UNNAMED}
