from typing import Any

Array = Any  # a C-contiguous array on the CPU: numpy.ndarray or torch.Tensor

def available() -> list[str]: ...
def use(isa: str) -> None: ...
def active() -> str: ...
def linf_dist(x: Array, w: Array, y: Array, threads: int) -> None: ...
def linf_dist_argmax(x: Array, w: Array, y: Array, index: Array, threads: int) -> None: ...
def linf_dist_backward(
    x: Array, w: Array, index: Array, grad_y: Array, grad_x: Array, grad_w: Array, threads: int
) -> None: ...
def linf_dist_bounds(
    lower: Array, upper: Array, w: Array, y_lower: Array, y_upper: Array, threads: int
) -> None: ...
def lp_dist(
    x: Array, w: Array, p: float, y: Array, largest: Array, sum: Array, threads: int, skip: bool = True
) -> None: ...
def lp_dist_backward(
    x: Array,
    w: Array,
    p: float,
    largest: Array,
    sum: Array,
    grad_y: Array,
    grad_x: Array | None,
    grad_w: Array | None,
    threads: int,
    skip: bool = True,
) -> None: ...
