# SPDX-License-Identifier: Apache-2.0
"""The audit: threat models, certificates, conformance, Lipschitz search, attacks. Knows no backend by name."""

if __name__ == "verify":
    raise ImportError("this folder is installed as linfdeploy.verify: import it under that name")
