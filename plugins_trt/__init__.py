# SPDX-License-Identifier: Apache-2.0
"""The identity of the TensorRT plugins, which every exported node carries.

TensorRT finds a plugin by operator name, namespace and version, all three to the letter; releases before 10.10 do
not look at the ONNX domain, so the exporter writes namespace and version as attributes of each node.
"""

if __name__ == "plugins_trt":
    raise ImportError("this folder is installed as linfdeploy.plugins_trt: import it under that name")

PLUGIN_NAMESPACE = "linfdeploy"
PLUGIN_VERSION = "1"

__all__ = ["PLUGIN_NAMESPACE", "PLUGIN_VERSION"]
