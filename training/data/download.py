# SPDX-License-Identifier: Apache-2.0
"""Downloads of published data sets: streamed beside, held against a published digest, and only then renamed."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linfdeploy import __version__
from linfdeploy.errors import DatasetError
from linfdeploy.files import atomic_write
from linfdeploy.training.data.idx import IDX_FOLDERS

__all__ = ["REMOTES", "Remote", "download"]

SECONDS = 30.0
"""How long a server may be silent."""
MAX_DOWNLOAD = 2**30
CHUNK = 2**20


@dataclass(frozen=True)
class Remote:
    """A published file.

    Attributes:
        places: Paths in the root folder: the first is where it goes; where one of the others is, nothing is
            missing.
        urls: The data set's own address and mirrors, to be tried in turn.
        algorithm: `md5` or `sha256`: the strongest digest that is published.
        digest: In hexadecimal digits.
    """

    places: tuple[str, ...]
    urls: tuple[str, ...]
    algorithm: str
    digest: str


def _idx_remotes(name: str, addresses: Sequence[str], digests: Mapping[str, str]) -> tuple[Remote, ...]:
    folders = (f"{IDX_FOLDERS[name]}/raw/", "raw/", "")
    return tuple(
        Remote(
            tuple(f"{folder}{stem}{suffix}" for folder in folders for suffix in (".gz", "")),
            tuple(f"{address}{stem}.gz" for address in addresses),
            "md5",
            digest,
        )
        for stem, digest in digests.items()
    )


def _cifar_remote(number: str, folders: tuple[str, ...], sha256: str) -> Remote:
    archive = f"cifar-{number}-python.tar.gz"
    addresses = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
    return Remote((archive, *folders), tuple(f"{address}{archive}" for address in addresses), "sha256", sha256)


# Addresses are the data sets' own and torchvision's; so are the MD5 digests. Keras publishes the SHA-256.
REMOTES: Mapping[str, tuple[Remote, ...]] = {
    "mnist": _idx_remotes(
        "mnist",
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
        {
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
    ),
    "fashion-mnist": _idx_remotes(
        "fashion-mnist",
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        {
            "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
    "cifar10": (
        _cifar_remote(
            "10",
            ("cifar-10-batches-py", "cifar-10-batches-bin", "data_batch_1", "data_batch_1.bin"),
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        ),
    ),
    "cifar100": (
        _cifar_remote(
            "100",
            ("cifar-100-python", "cifar-100-binary", "train", "train.bin"),
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        ),
    ),
    "tiny-imagenet": (
        Remote(
            ("tiny-imagenet-200.zip", "tiny-imagenet-200", "wnids.txt"),
            ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
            "md5",
            "90528d7ca1a48142e341f4ef8d21d0de",
        ),
    ),
}


class _NotHadError(Exception):
    """Why an address gave no whole file."""


def download(name: str, root: Path, tell: Callable[[str], None] = lambda _: None) -> None:
    """Fetches what is missing of a data set; what is there already in its published form is checked.

    A failing or interrupted download leaves nothing behind.

    Args:
        name: A data set that `load_dataset` takes, with or without `@` and a number of pixels.
        root: The folder that `load_dataset` is given.
        tell: Called with a line about each file.

    Raises:
        DatasetError: The data set is none of `REMOTES`, no address can be reached, or a digest is another one.
        InputError: The folder cannot be written to, or the disk is full.
    """
    remotes = REMOTES.get(name.partition("@")[0])
    if remotes is None:
        raise DatasetError(
            f"the data set is {name}, which has no address; expected one of {', '.join(REMOTES)}: omit --download"
        )
    for remote in remotes:
        present = next((path for place in remote.places if (path := root / place).exists()), None)
        if present is None:
            _fetch(remote, root / remote.places[0], tell)
        else:
            _check_present(remote, present, tell)


def _check_present(remote: Remote, path: Path, tell: Callable[[str], None]) -> None:
    if path.name != Path(remote.places[0]).name:
        tell(f"{path} is there, unpacked")
        return
    found = hashlib.new(remote.algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() != remote.digest:
        raise DatasetError(
            f"{path} has the {remote.algorithm} {found.hexdigest()}; expected {remote.digest}: remove it to "
            "download it again, or omit --download if it is meant to be another"
        )
    tell(f"{path} is there, and its {remote.algorithm} is the published one")


def _fetch(remote: Remote, path: Path, tell: Callable[[str], None]) -> None:
    failures = []
    for url in remote.urls:
        tell(f"downloading {url}")
        try:
            with atomic_write(path) as file:
                digest = hashlib.new(remote.algorithm, usedforsecurity=False)
                for chunk in _stream(url):
                    digest.update(chunk)
                    file.write(chunk)
                if digest.hexdigest() != remote.digest:
                    raise _NotHadError(f"its {remote.algorithm} is {digest.hexdigest()} and not {remote.digest}")
            return
        except _NotHadError as failure:
            failures.append(f"{url}: {failure}")
    raise DatasetError(
        f"cannot download {path.name} ({'; '.join(failures)}); expected the published file: try again, or "
        f"copy it to {path} by hand"
    )


def _stream(url: str) -> Iterator[bytes]:
    """Yields a file's bytes.

    Raises:
        _NotHadError: The network, the server or the file's size is at fault.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"linfdeploy/{__version__}"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            yield from _chunks(response)
    except urllib.error.HTTPError as error:
        error.close()
        raise _NotHadError(f"the server answers {error.code} {error.reason}") from None
    # What the network raises would else be taken for the disk's, since both are OSErrors; writing happens outside.
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise _NotHadError(str(reason).splitlines()[0] if str(reason) else type(error).__name__) from None


def _chunks(response: Any) -> Iterator[bytes]:
    expected, had = response.length, 0
    if expected is not None and expected > MAX_DOWNLOAD:
        raise _NotHadError(f"it has {expected} bytes, more than {MAX_DOWNLOAD}")
    while chunk := response.read(CHUNK):
        had += len(chunk)
        if had > MAX_DOWNLOAD:
            raise _NotHadError(f"it has more than {MAX_DOWNLOAD} bytes")
        yield chunk
    if expected is not None and had != expected:
        raise _NotHadError(f"the connection ended after {had} of {expected} bytes")
