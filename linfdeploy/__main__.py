# SPDX-License-Identifier: Apache-2.0
"""`python -m linfdeploy`, which torchrun needs."""

from linfdeploy.cli import main

if __name__ == "__main__":
    main()
