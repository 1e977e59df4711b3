# SPDX-License-Identifier: Apache-2.0
"""Training: recipes, data, losses, schedules and the loop. `data`, `recipe` and `ranks` need no torch."""

if __name__ == "training":
    raise ImportError("this folder is installed as linfdeploy.training: import it under that name")
