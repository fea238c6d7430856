"""Words around class names: one template or several, given or recommended by the recipe of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from prompt_federation import bind, plain_words

from fedrsic_data import recipes
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import encode
from fedtrain import run
from fedtrain.config import RunConfig, essence, identity, to_json
from fedtrain.methods import METHODS
from fedtrain.methods.prompts.inputs import TEMPLATE, check_template, recommended

SATELLITE = "a centered satellite photo of {}."
TEMPLATED = [name for name, method in METHODS.items() if "template" in method.Settings.__dataclass_fields__]


def recipe(name: str, **changes: Any) -> Recipe:
    return recipes.from_json({**recipes.load(name), **changes}, name)


@pytest.mark.usefixtures("random_clip")
def test_several_templates_are_averaged(sample_build: Path) -> None:
    several = (TEMPLATE, SATELLITE, "{} texture.")
    method = bind(sample_build, "zeroshot", template=several)
    found = method.text({}, method.base)[0]
    assert torch.allclose(found, plain_words(method, method.base.names, several), atol=1e-6)
    assert not torch.allclose(found, method.base.fixed(TEMPLATE), atol=1e-3)
    assert torch.equal(method.base.fixed((TEMPLATE,)), method.base.fixed(TEMPLATE))


@pytest.mark.parametrize(
    ("name", "subset", "words"),
    [
        *(("fed-rsic", name, SATELLITE) for name in ("fed-optimal", "fed-ucmerced", "fed-nwpu", "fed-domains")),
        ("fed-rsic-multilabel", "fed-mlrsnet", SATELLITE),
        ("eurosat", "eurosat", SATELLITE),
        ("oxford-pets", "oxford-pets", "a photo of a {}, a type of pet."),
        ("dtd", "dtd", "{} texture."),
        ("cifar100", "cifar100", TEMPLATE),
    ],
)
def test_recipes_recommend_a_template(name: str, subset: str, words: str) -> None:
    assert recommended(recipe(name), subset) == words


def test_a_recipe_may_recommend_several_and_its_own_come_first() -> None:
    subsets = {"a": {"sources": ["ucmerced"], "template": ["{} from above.", SATELLITE]}}
    assert recommended(recipe("fed-rsic", subsets=subsets), "a") == ("{} from above.", SATELLITE)
    subsets = {"a": {"sources": ["mine"]}}
    renamed = recipe("fed-rsic", subsets=subsets, sources={"mine": {"kind": "ucmerced-multilabel"}})
    assert recommended(renamed, "a") == SATELLITE


@pytest.mark.parametrize(("name", "sources"), [("voc", ["voc"]), ("fed-rsic", ["ucmerced", "cifar10"])])
def test_where_none_is_recommended_one_has_to_be_given(name: str, sources: list[str]) -> None:
    with pytest.raises(UsageError, match="template=recipe: the recipe of a recommends none; give one, e.g."):
        recommended(recipe(name, subsets={"a": {"sources": sources}}), "a")


def test_a_run_says_the_words_that_its_recipe_recommends(sample_build: Path, tmp_path: Path) -> None:
    def config(*sets: str) -> RunConfig:
        return run.configs("zeroshot", sample_build, Dataset(sample_build).subsets, ["device=cpu", *sets])[0]

    done = run.train(config("template=recipe"), tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["method_settings"]["template"] == SATELLITE
    assert not run.train(config(f"template={SATELLITE}"), tmp_path / "run").trained
    several = run.train(config(f'template=["{TEMPLATE}", "{SATELLITE}"]'), tmp_path / "several")
    assert several.facts["config"]["method_settings"]["template"] == [TEMPLATE, SATELLITE]
    figures = [one.data["figures"]["test/local/mean"] for one in (done, several, run.train(config(), tmp_path / "one"))]
    assert len(set(figures)) > 1


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("photo", "template='photo' should have one {}"),
        (("{}", "a {} {}"), "template='a {} {}' should have one {}"),
        ((), "template=[] should name at least one template"),
        (("{}", "{}"), "each once"),
    ],
)
def test_templates_that_cannot_be_used(template: Any, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_template("template", template)
    assert words in str(refused.value)


def test_a_recipe_refuses_a_template_without_a_place_for_the_name() -> None:
    with pytest.raises(UsageError, match="subsets.a: template='a photo' should have one {}"):
        recipe("fed-rsic", subsets={"a": {"sources": ["ucmerced"], "template": ["a photo"]}})


def test_the_placeholder_anchor_has_its_own_words() -> None:
    with pytest.raises(UsageError, match="anchor=placeholder has its own words"):
        METHODS["fedpgp"].Settings(anchor="placeholder", template=SATELLITE)


def test_what_was_built_and_trained_before_stays_what_it_was() -> None:
    """A recipe without a template has no such key, so its digest stays; FedPGP's runs of 0.1.0 had no template."""
    assert "template" not in json.dumps(encode(recipe("fed-rsic")))
    old = RunConfig("fedpgp", "d", "s", method_settings={"anchor": "template"})
    new = RunConfig("fedpgp", "d", "s", method_settings={"anchor": "template", "template": TEMPLATE})
    assert identity(old, "m", {}) == identity(new, "m", {})
    other = RunConfig("fedpgp", "d", "s", method_settings={"anchor": "template", "template": SATELLITE})
    assert identity(other, "m", {}) != identity(new, "m", {})
    had = RunConfig("kgcoop", "d", "s", method_settings={"template": TEMPLATE})
    assert essence(to_json(had))["method_settings"] == {"template": TEMPLATE}


@pytest.mark.parametrize("name", TEMPLATED)
def test_every_method_with_words_takes_several_and_the_recipe_s(name: str) -> None:
    settings = METHODS[name].Settings
    for template in ((TEMPLATE, SATELLITE), "recipe"):
        assert settings(template=template).template == template
    with pytest.raises(UsageError, match="template='a photo'"):
        settings(template="a photo")
