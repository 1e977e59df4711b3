# SPDX-License-Identifier: Apache-2.0
"""Who speaks when a command runs in several processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from linfdeploy.errors import PeerError

if TYPE_CHECKING:
    from linfdeploy.ranks import Ranks

__all__ = ["one_voice"]


@contextmanager
def one_voice(ranks: Ranks) -> Iterator[None]:
    """Ends this process without a word when another one of the run tells what happened."""
    try:
        yield
    except PeerError as error:
        if error.said or not ranks.is_first:
            sys.exit(error.exit_code)
        raise
    except KeyboardInterrupt:
        if not ranks.is_first:
            sys.exit(130)
        raise
