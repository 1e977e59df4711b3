# SPDX-License-Identifier: Apache-2.0
"""Distance kernels: numpy or torch in, the same kind out.

numpy arrays never import torch, so that the deploy side runs without it. torch tensors go through torch custom
ops with autograd and fake kernels (`linfdeploy.kernels.torch`).
"""

from linfdeploy.kernels.linf_dist import linf_dist, linf_dist_argmax, linf_dist_bounds
from linfdeploy.kernels.linf_dist_conv import linf_dist_conv
from linfdeploy.kernels.lp_dist import lp_dist
from linfdeploy.kernels.sort_dist import sort_dist, sort_dist_argtop, sort_dist_bounds

__all__ = [
    "linf_dist",
    "linf_dist_argmax",
    "linf_dist_bounds",
    "linf_dist_conv",
    "lp_dist",
    "sort_dist",
    "sort_dist_argtop",
    "sort_dist_bounds",
]
