"""Recipes: built-in, from files, and changed by pairs; every mistake is named with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hetero.models.elastic import ElasticConfig
from hetero.recipes.builtin import BUILTIN
from hetero.recipes.resolve import overridden, resolve, validated
from hetero_devices.errors import RecipeError


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_recipes_survive_the_way_through_json(name: str) -> None:
    recipe = resolve(name)
    assert recipe.name == name
    assert validated(recipe.model_dump(mode="json")) == recipe


def test_pairs_reach_every_depth() -> None:
    recipe = resolve("demo", ["seed=7", "student.network.stages.1.kernel=5", "data.augment.flip=true"])
    assert isinstance(recipe.student.network, ElasticConfig)
    assert (recipe.seed, recipe.student.network.stages[1].kernel, recipe.data.augment.flip) == (7, 5, True)


def test_a_preset_can_be_changed_further() -> None:
    recipe = resolve("demo", ["student.network=elastic-l", "student.network.width=0.5"])
    assert isinstance(recipe.student.network, ElasticConfig)
    assert (recipe.student.network.activation, recipe.student.network.width) == ("hswish", 0.5)


def test_a_list_of_terms_is_one_pair() -> None:
    recipe = resolve("demo", ["student.objective=[{term: regression}, {term: frozen_head, weight: 0.1}]"])
    assert [(t.term, t.weight) for t in recipe.student.objective] == [
        ("regression", 1.0),
        ("frozen_head", 0.1),
    ]


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("student.fit.stepz=3", "no key 'student.fit.stepz'; the nearest is 'student.fit.steps'"),
        ("studnet.views=3", "no key 'studnet'; the nearest is 'student'"),
        ("student.views=many", "'student.views'"),
        ("student.fit.ema=1.5", "'student.fit.ema': Input should be less than 1"),
        ("student.network=elastic-q", "no network 'elastic-q'; the nearest is 'elastic-"),
        ("student.network.stages.9.kernel=5", "a list of 3: use an index from 0"),
        ("seed.x=1", "'seed' is a value"),
        ("seed", "not of the form key=value"),
        ("seed=[", "the value is not YAML"),
        ("student.alone=false", "gates.criterion compares with the student trained alone"),
        ("export.formats=[coreml]", "export.formats"),
        ("export.precisions=[fp32,int4]", "export.precisions"),
        (
            "export.precisions=[int8_io]",
            "there is no precision 'int8_io' of onnx to export: known are fp32, fp16",
        ),
        ("export.precisions=[int8,int8]", "name each wanted one once"),
        ("export.calibration=true", "export.calibration"),
        ("export.calibration.method=kl", "export.calibration.method"),
        ("export.calibration.percentile=101", "export.calibration.percentile"),
        ("export.mixed.target=0", "'export.mixed.target'"),
        ("student.network.width=0", "'student.network.width'"),
        ("student.objective=[{term: regression, weight: x}]", "'student.objective.0.weight'"),
    ],
)
def test_mistakes_name_the_key(pair: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve("demo", [pair])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no recipe 'omniglo'; the nearest is 'omniglot'"):
        resolve("omniglo")


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: omniglot\ndata:\n  size: 28\nstudent:\n  network: elastic-s\n")
    recipe = resolve(str(path), ["seed=3"])
    assert (recipe.name, recipe.data.source, recipe.data.size, recipe.seed) == ("mine", "omniglot", 28, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data:\n  sizes: 28\n", "no key 'data.sizes'; the nearest is 'data.size'"),
        ("- a\n", "not a mapping"),
        ("data: [", "cannot read recipe"),
        ("extends: nothing\n", "no recipe 'nothing'"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        resolve(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        resolve(str(tmp_path / "none.yaml"))


def test_a_network_of_another_family_replaces_the_whole_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("student:\n  network: {kind: residual, widths: [8, 16], depths: [1, 1]}\n")
    network = resolve(str(path)).student.network
    assert network.kind == "residual"
    assert network.widths == (8, 16)


def test_calibration_may_be_a_bare_number_of_images() -> None:
    short = resolve("demo", ["export.calibration=64"]).export.calibration
    assert (short.images, short.method) == (64, "minmax")
    full = resolve("demo", ["export.calibration.method=percentile", "export.calibration.percentile=99.9"])
    assert (full.export.calibration.images, full.export.calibration.percentile) == (256, 99.9)


def test_the_default_export_is_what_it_was() -> None:
    export = resolve("demo").export
    assert export.precisions == ("fp32", "int8")
    assert (export.calibration.method, export.calibration.images) == ("minmax", 256)


def test_only_one_section_is_overridden() -> None:
    recipe = resolve("demo")
    assert overridden(recipe, ["export.precisions=[mixed]"], "export").export.precisions == ("mixed",)
    assert overridden(recipe, [], "export") == recipe
    with pytest.raises(RecipeError, match=r"'seed=3' is not of export: here only export.KEY=VALUE"):
        overridden(recipe, ["seed=3"], "export")
