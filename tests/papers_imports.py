# SPDX-License-Identifier: Apache-2.0
"""Imports of checkpoints as the papers' repositories write them: how tests ask for them, and what refuses them."""

from __future__ import annotations

from pathlib import Path

import papers_files as papers
import pytest
import torch

from linfdeploy.errors import InputError
from linfdeploy.training.importers.convert import Imported, ImportRequest, import_checkpoint
from linfdeploy.training.importers.inputs import InputOptions

__all__ = ["NET", "OPTIMIZER", "RGB", "V2_DENSE", "bring", "head_v2", "random_heads", "refused", "save_v2"]

RGB = InputOptions(mean=(0.4, 0.5, 0.6), std=0.2, shape=(3, 2, 2))
NET = papers.make((12, 16, 16, 5))
OPTIMIZER = {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}
V2 = papers.v2_state(papers.make((12, 16, 16, 5, 2)), None)
V2_DENSE = {name: value for name, value in V2.items() if ".3." not in name}


def bring(path: Path, **request: object) -> Imported:
    fields = {"input": RGB, **request}
    return import_checkpoint(ImportRequest(path, **fields), path.parent / "ckpt.pt")  # type: ignore[arg-type]


def save_v2(path: Path, state: papers.State, **more: object) -> None:
    torch.save({"state_dict": state, **more}, path)


def refused(path: Path, **request: object) -> str:
    """The one line, without the path before it; nothing is written."""
    with pytest.raises(InputError) as error:
        bring(path, **request)
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(f"{path}: ")
    assert not (path.parent / "ckpt.pt").exists()
    return text.removeprefix(f"{path}: ")


def head_v2(features: int) -> papers.State:
    names = ("fc_linear.0.weight", "fc_linear.0.bias", "fc_final.weight", "fc_final.bias")
    return dict(zip(names, papers.head_v1(features, 9, 3).values(), strict=True))


def random_heads(features: int) -> papers.State:
    """By the first paper's names."""
    generator = torch.Generator().manual_seed(8)
    shapes = {name: value.shape for name, value in papers.head_v1(features, 9, 3).items()}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
