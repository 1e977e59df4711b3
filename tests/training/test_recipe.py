# SPDX-License-Identifier: Apache-2.0
"""Recipes: the ones that ship, overrides, and the text of every error."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from linfdeploy.errors import RecipeError
from linfdeploy.training.recipe import Recipe, load_recipe, recipe_defaults, recipe_names
from linfdeploy.training.recipe_rules import OFF, RULES

COMPLETE = """
dataset = "digits"
eps_test = 0.1
eps_train = 0.2
hidden = [16, 16]
epochs = 10
batch_size = 32
lr = 0.03
p_start = 8
p_end = 1000.0
p_from_epoch = 1
p_until_epoch = 8
lambda_start = 0.1
lambda_end = 0.001
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(COMPLETE)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_loads(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    data, radius, *paper = name.split("-")
    assert recipe.dataset.removeprefix("folder:").startswith(data)
    levels = data in {"cifar10", "tiny", "imagenet64"}
    assert recipe.eps_test == pytest.approx(float(radius) / 255 if levels else float(radius), rel=1e-12)
    assert ("mlp" in paper) == bool(recipe.head)
    assert ("sort" in paper) == (recipe.neuron == "sort_dist")


def test_a_file_is_read_with_its_stem_as_name_and_whole_numbers_as_floats(recipe_file: Path) -> None:
    recipe = load_recipe(str(recipe_file))
    assert (recipe.name, recipe.hidden, recipe.p_start) == ("mine", (16, 16), 8.0)
    assert isinstance(recipe.p_start, float)
    assert recipe.to_json()["hidden"] == [16, 16]


def test_overrides_are_toml_and_the_last_counts(recipe_file: Path) -> None:
    overrides = ["lr=0.5", "lr = 0.25", "hidden=[4, 8]", "dataset=some/{split}-images.npz", "seed=7"]
    recipe = load_recipe(str(recipe_file), overrides)
    assert (recipe.lr, recipe.hidden, recipe.dataset, recipe.seed) == (0.25, (4, 8), "some/{split}-images.npz", 7)
    assert load_recipe(str(recipe_file), ['dataset="a b.npz"']).dataset == "a b.npz"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("speed=3", "unknown field 'speed'; expected among adam_eps, "),
        ("name=other", "unknown field 'name'"),
        ("lr", "the override 'lr' is not of the form key=value; expected for example lr=0.03"),
        ("lr=", "the override 'lr=' is not of the form key=value"),
        ("hidden=[4", "the override 'hidden=[4' has no TOML value; expected for example hidden=[512,512]"),
        ("lr=1\nseed=2", "has no TOML value"),
        ("lr=fast", "lr is 'fast'; expected a number"),
        ("lr=true", "lr is True; expected a number"),
        ("epochs=1.5", "epochs is 1.5; expected a whole number"),
        ("epochs=true", "epochs is True; expected a whole number"),
        ("dataset=3", "dataset is 3; expected a string"),
        ("hidden=8", "hidden is 8; expected a list of whole numbers"),
        ("hidden=[8, 1.5]", "hidden is [8, 1.5]; expected a list of whole numbers"),
        ("hidden=[0]", "hidden is (0,); expected layers of 1 to 1048576 units"),
        ("eps_test=0", "eps_test is 0.0; expected a fraction of the pixel range above 0 and below 0.5"),
        ("eps_test=25.5", "eps_test is 25.5; expected a fraction of the pixel range"),
        ("eps_train=inf", "eps_train is inf; expected a positive number"),
        ("lr=nan", "lr is nan; expected above 0 and at most 1000"),
        ("lr=-1", "lr is -1.0; expected above 0 and at most 1000"),
        ("epochs=0", "epochs is 0; expected at least 1"),
        ("batch_size=1", "batch_size is 1; expected at least 2"),
        ("p_start=1", "p_start is 1.0; expected a norm from 2 to 100000"),
        ("p_end=4", "p_end is 4.0; expected at least p_start, which is 8.0"),
        ("p_end=inf", "p_end is inf; expected a norm from 2 to 100000"),
        (
            "p_until_epoch=11",
            "p_from_epoch is 1, p_until_epoch 11 and epochs 10; expected them in ascending order",
        ),
        ("p_from_epoch=9", "p_from_epoch is 9, p_until_epoch 8 and epochs 10; expected them in ascending order"),
        ("lambda_end=0", "lambda_end is 0.0; expected a positive number"),
        ("lambda_end=-1", "lambda_end is -1.0; expected a positive number"),
        ("loss=soft", "loss is 'soft'; expected one of mixture, hinge, crossentropy, ce_hinge"),
        ("loss=hinge", "lambda_start is 0.1, of which loss 'hinge' makes no use; expected 0.0"),
        ("kappa=0.5", "kappa is 0.5, of which loss 'mixture' makes no use; expected 1.0"),
        ("kappa=1.5", "kappa is 1.5; expected a share from 0 to 1"),
        ("loss_mix=nan", "loss_mix is nan; expected a share from 0 to 1"),
        ("margins=relative", "margins is 'relative', of which loss 'mixture' makes no use; expected 'absolute'"),
        ("margins=0", "margins is 0; expected a string"),
        (
            "head=[8]",
            "loss is 'mixture' with absolute margins and a head, whose logits are no distances; expected loss "
            "'crossentropy', 'ce_hinge' or 'hinge' with absolute margins",
        ),
        ("head=[0]", "head is (0,); expected layers of 1 to 1048576 units"),
        ("conv=[0]", "conv is (0,); expected layers of 1 to 1048576 units"),
        ("conv_strides=[0]", "conv_strides is (0,); expected steps of 1 to 64"),
        (
            "conv_strides=[1,2]",
            "conv_strides is (1, 2) with 0 convolutions; expected a step for each, or none",
        ),
        ("neuron=lp_dist", "neuron is 'lp_dist'; expected one of linf_dist, sort_dist"),
        (
            "keep=0.5",
            "keep is 0.5 and terms 10 with neuron 'linf_dist', which makes no use of them; expected 1.0 and 10, "
            "or neuron 'sort_dist'",
        ),
        (
            "neuron=sort_dist",
            "keep is 1.0 with neuron 'sort_dist', which is then the l_inf distance; expected less than 1, or "
            "neuron 'linf_dist'",
        ),
        ("keep=0", "keep is 0.0; expected a probability above 0 and at most 1"),
        ("terms=33", "terms is 33; expected 1 to 32"),
        ("weight_decay=1", "weight_decay is 1.0; expected a decay from 0 to below 1"),
        ("weight_std=0", "weight_std is 0.0; expected a positive number"),
        (
            "late_batch_size=512",
            "late_batch_size is 512 and late_from_epoch 0; expected both, or neither",
        ),
        ("late_batch_size=1", "late_batch_size is 1; expected 0 (off) or 2 to 1000000"),
        ("lr_from_epoch=10", "lr_from_epoch is 10; expected less than epochs, which is 10"),
        (
            "lr_decay_epochs=[4,4]",
            "lr_decay_epochs is (4, 4); expected epochs from 1 to 1000000 in ascending order",
        ),
        ("eps_smooth=1", "eps_smooth is 1.0; expected 0 (linear) or a share of the warmup below 1"),
        ("eps_smooth=0.4", "eps_smooth is 0.4 without eps_warmup_epochs; expected 0, or both"),
        ("eps_from_epoch=2", "eps_from_epoch is 2 without eps_warmup_epochs; expected 0, or both"),
        ("eps_test=8/0", "the override 'eps_test=8/0' has no TOML value"),
        ('eps_test="8/0"', "eps_test is '8/0'; expected a number"),
        ("beta2=1", "beta2 is 1.0; expected a decay from 0 to below 1"),
        ("crop_padding=-1", "crop_padding is -1; expected 0 (off) to 64 pixels"),
        ("crop_share=1.5", "crop_share is 1.5; expected a share from 0 to 1"),
        ("crop_fill=mirror", "crop_fill is 'mirror'; expected 'edge' or 'zero'"),
        ("crop_size=-1", "crop_size is -1; expected 0 (off) to 4096 pixels"),
        ("flip=1", "flip is 1; expected true or false"),
        ("seed=-1", "seed is -1; expected 0 to 2^63 - 1"),
    ],
)
def test_a_bad_override_is_one_line(recipe_file: Path, override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(recipe_file), [override])
    assert expected in str(caught.value)
    assert str(caught.value).startswith(f"recipe {recipe_file}: ")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["eps_from_epoch=2", "eps_warmup_epochs=2"],
            "eps_from_epoch is 2, until when eps is 0, by which loss 'mixture' divides; expected 0",
        ),
        (
            ["lr_from_epoch=2", "lr_decay_epochs=[4]"],
            "lr_from_epoch is 2 with lr_decay_epochs, which takes the cosine's place; expected one of them",
        ),
        (["loss=ce_hinge", "head=[8]", "margins=relative"], "loss is 'ce_hinge' with relative margins and a head"),
        (
            ["neuron=sort_dist", "keep=0.7", "hidden=[]"],
            "neuron is 'sort_dist' with one layer of distances, which is never a sorted one; expected at least "
            "two: give hidden more layers",
        ),
        (
            ["neuron=sort_dist", "keep=0.7", "loss=ce_hinge", "head=[8]", "hidden=[16]"],
            "neuron is 'sort_dist' with one layer of distances",
        ),
    ],
)
def test_fields_that_contradict_each_other(recipe_file: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(recipe_file), overrides)
    assert expected in str(caught.value)


@pytest.mark.parametrize("override", ["eps_test=8/255", 'eps_test="8/255"', 'eps_test = "8.0/255"'])
def test_a_number_may_be_a_fraction(recipe_file: Path, override: str) -> None:
    assert load_recipe(str(recipe_file), [override]).eps_test == 8 / 255


def test_what_no_loss_uses_is_what_a_recipe_has_without_it() -> None:
    defaults = recipe_defaults()
    assert {name: defaults[name] for name in OFF} == OFF
    assert (defaults["keep"], defaults["terms"]) == (1.0, 10)
    assert defaults["head"] == []
    assert set(RULES) == {field.name for field in fields(Recipe)} - {"name"}


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"there is no recipe 'mnist-9'; expected one of cifar10-16, .*\.toml"):
        load_recipe("mnist-9")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: no such file; expected a training recipe"):
        load_recipe(str(tmp_path / "absent.toml"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"lr = ", "the file is not TOML: "),
        (b"\xff\xfe", "the file is not TOML: "),
        (b"", "the field 'batch_size' is missing; expected all of batch_size, dataset, "),
        (COMPLETE.replace("lr = 0.03", "").encode(), "the field 'lr' is missing"),
        (COMPLETE.encode() + b"[extra]\nlr = 1\n", "unknown field 'extra'"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
