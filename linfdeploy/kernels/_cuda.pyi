Address = int  # of device memory, 0 for none
Pair = tuple[int, int]
Triple = tuple[int, int, int]
Failure = tuple[int, int] | None  # the code and the entry at which a launcher stopped

NOT_LOADED: int
MAX_ROW_BYTES: int

def entries() -> list[tuple[str, str]]: ...
def aot_kernels() -> list[tuple[str, str, int, int, int, int]]: ...
def lp_dist_kind(p: float) -> int: ...
def lp_dist_backward_scratch(n: Triple) -> int: ...

class Card:
    def __init__(self, launch: Address, multiprocessors: int) -> None: ...
    def load(self, entry: int, kernel: Address) -> None: ...
    def linf_dist(
        self, stream: int, n: Triple, dtype: str, x: Address, w: Address, bias: Address, y: Address
    ) -> Failure: ...
    def linf_dist_argmax(
        self, stream: int, n: Triple, x: Address, w: Address, y: Address, index: Address
    ) -> Failure: ...
    def linf_dist_backward(
        self,
        stream: int,
        n: Triple,
        x: Address,
        w: Address,
        index: Address,
        grad_y: Address,
        grad_x: Address,
        grad_w: Address,
    ) -> Failure: ...
    def linf_dist_bounds(
        self,
        stream: int,
        n: Triple,
        lower: Address,
        upper: Address,
        w: Address,
        y_lower: Address,
        y_upper: Address,
    ) -> Failure: ...
    def linf_dist_conv(
        self,
        stream: int,
        n: Triple,
        image: Pair,
        kernel: Pair,
        stride: Pair,
        dilation: Pair,
        padding: Pair,
        places: Pair,
        x: Address,
        w: Address,
        bias: Address,
        y: Address,
    ) -> Failure: ...
    def lp_dist(
        self,
        stream: int,
        n: Triple,
        x: Address,
        w: Address,
        p: float,
        p_now: Address,
        y: Address,
        scale: Address,
        sum: Address,
    ) -> Failure: ...
    def lp_dist_backward(
        self,
        stream: int,
        n: Triple,
        x: Address,
        w: Address,
        p: float,
        p_now: Address,
        scale: Address,
        sum: Address,
        grad_y: Address,
        grad_x: Address,
        grad_w: Address,
        scratch: Address,
    ) -> Failure: ...
