"""JSON that somebody edited, with digests that agree: used, or refused in one line, and never called a bug."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from federated_softmax import Softmax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from softmax_runs import config

from fedrsic_data import partition, recipes
from fedrsic_data.answer import Shown, as_json
from fedrsic_data.build import pipeline
from fedrsic_data.build.verify import verify
from fedrsic_data.cli import tables
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.derive import resplit
from fedrsic_data.errors import FedkitError
from fedrsic_data.publish.contents import contents
from fedrsic_data.sources.locate import Places
from fedtrain import methods, run
from fedtrain.report import answers
from fedtrain.resolve import prepared
from fedtrain.runs import results, seal

ODD = (
    *(None, True, False, 0, -1, 1, 2, 2**53, 10**40, 0.5, -0.0, 1e308, 1e-320, float("inf")),
    *("", "a", "./a//b", "../x", "\x1b[2J", "\ud800", "a\nb", "x" * 500, "train", "test", "fed-ucmerced"),
    *([], {}, [[]], [None], [1], ["a"], ["a", "a"], {"a": 1}, {"": {}}, {"name": "iid"}),
)
Path_ = tuple[str | int, ...]


def places(data: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Every place in JSON data, the first few of long lists."""
    if at:
        yield at
    inner = data.items() if isinstance(data, dict) else enumerate(data[:3]) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*at, key))


@st.composite
def edited(draw: st.DrawFn, whole: Any) -> Any:
    """A copy in which one or two things are replaced, removed, renamed, doubled or one more."""
    data = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        tops = list(dict.fromkeys(place[:2] for place in places(data)))
        if not tops:
            break
        top = draw(st.sampled_from(tops))  # a long list is not most of what is edited
        place = draw(st.sampled_from([one for one in places(data) if one[: len(top)] == top]))
        here, key = data, place[-1]
        for step in place[:-1]:
            here = here[step]
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "double", "more"]))
        if how == "replace":
            here[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif how == "remove":
            del here[key]
        elif isinstance(here, dict) and how in ("rename", "double"):
            here[f"{key}2"] = here.pop(key) if how == "rename" else copy.deepcopy(here[key])
        elif isinstance(here, list):
            here.append(copy.deepcopy(here[key]))
        elif type(here[key]) is int:
            here[key] += 1
    return data


def written(path: Path, data: Any) -> bool:
    """Whether it can be a file at all."""
    try:
        path.write_text(json.dumps(data))
    except UnicodeEncodeError:
        return False
    return True


def calm(work: Callable[[], Shown | object]) -> None:
    """Works, and what it gives can be shown; or says that it cannot, which the command makes a line of."""
    try:
        shown = work()
    except FedkitError:
        return
    if isinstance(shown, Shown):
        as_json(shown.data)
        Console(file=io.StringIO(), width=120).print(shown.text)


often = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_edited_manifest_is_used_or_refused_in_a_line(dataset: Path) -> None:
    whole = json.loads((dataset / "manifest.json").read_text())

    @often
    @given(edited(whole))
    def check(data: Any) -> None:
        body = {key: value for key, value in data.items() if key != "digest"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
        assert written(dataset / "manifest.json", {**body, "digest": digest})
        calm(lambda: tables.verified(dataset, *verify(dataset)))
        calm(lambda: tables.inspected(Dataset(dataset), [], 5))
        calm(lambda: resplit.prepare(dataset, lambda old: old))
        calm(lambda: [prepared(one) for one in run.configs("promptfl", dataset, [], [])])

    check()


@pytest.mark.parametrize(
    "change",
    [
        {"subsets": {}},
        {"subsets": {"other": "fed-ucmerced"}},
        {"subsets": {"fed-ucmerced": "fed-ucmerced", "other": "fed-ucmerced"}},
        {"path": "./fed-ucmerced//x"},
    ],
    ids=["none", "renamed", "extra", "path"],
)
def test_subsets_and_paths_that_no_build_writes_are_refused(dataset: Path, change: dict[str, Any]) -> None:
    data = json.loads((dataset / "manifest.json").read_text())
    if "path" in change:
        shard = data["subsets"]["fed-ucmerced"]["shards"][0]
        shard["path"] = shard["path"].replace("fed-ucmerced/", "./fed-ucmerced//")
    else:
        data["subsets"] = {name: data["subsets"][old] for name, old in change["subsets"].items()}
    written(dataset / "manifest.json", data)
    for work in (
        lambda: tables.inspected(Dataset(dataset), [], 5),
        lambda: contents(Dataset(dataset), "me/fed", reference_only=False, redistribute=True),
    ):
        with pytest.raises(FedkitError, match="it was edited"):
            work()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_edited_recipe_is_planned_or_refused_in_a_line(tmp_path: Path) -> None:
    whole = {
        "fedkit": 1,
        "name": "mine",
        "title": "t",
        "seed": 0,
        "subsets": {
            "one": {"sources": ["ucmerced"], "classes": "all", "class_names": "unified", "splits": None},
            "two": {"sources": ["ucmerced", "optimal31"], "classes": "shared", "partition": {"name": "iid"}},
        },
        "sample": {"per_class": 2, "size": 32, "seed": 0},
        "splits": {"test": 0.2, "val": 0.1},
        "split_by": "sample",
        "shots": 2,
        "layout": {"files": "auto", "row_group_bytes": 1000},
    }
    kinds = [{"name": name, **partition.defaults(name)} for name in partition.PARTITIONERS]
    few = [{**kind, "clients": 2} if "clients" in kind else kind for kind in kinds]

    @often
    @given(st.sampled_from(few).flatmap(lambda kind: edited({**whole, "partition": kind})))
    def check(data: Any) -> None:
        path = tmp_path / "r.json"
        assert written(path, data)

        def plan() -> Shown:
            wanted = recipes.from_json(recipes.override(recipes.load(str(path))), "recipe")
            return tables.planned(pipeline.prepare(wanted, Places(offline=True)))

        calm(plan)
        calm(lambda: recipes.override(recipes.load(str(path)), subsets=["one"], partitioner="iid", sets=["alpha=1"]))

    check()


@pytest.fixture(scope="module")
def trained(sample_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods.METHODS, "softmax", Softmax)
        run.train(config(sample_build, "rounds=2"), out)
    return out


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("resealed", [False, True])
def test_an_edited_run_is_compared_or_refused_in_a_line(trained: Path, tmp_path: Path, resealed: bool) -> None:
    out = tmp_path / "runs" / "a"
    shutil.copytree(trained, out)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    whole = {name: json.loads((out / name).read_text()) for name in ("config.json", "result.json")}

    @often
    @given(edited({**whole, "metrics": lines}))
    def check(data: Any) -> None:
        for name in whole:
            assert written(out / name, data.get(name))
        rounds = data.get("metrics")
        some = rounds if isinstance(rounds, list) else [rounds]
        (out / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in some))
        held = data.get("result.json")
        if resealed and isinstance(held, dict):
            bare = {key: value for key, value in held.items() if key not in (seal.SEAL, seal.FILES)}
            try:
                written(out / "result.json", seal.sealed(out, bare))
            except (ValueError, TypeError):  # nobody could seal that
                return
        for form in ("text", "markdown", "csv"):
            calm(lambda form=form: answers.compared(results.grouped(results.found([out.parent])), form))

    check()


@pytest.mark.parametrize("change", [{}, {"seed": ["a"]}, {"seed": -1}, {"seed": True}])
def test_a_run_whose_dataset_has_no_seed_is_called_damaged(
    trained: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "a"
    shutil.copytree(trained, out)
    facts = json.loads((out / "config.json").read_text())
    del facts["dataset"]["seed"]
    facts["dataset"] |= change
    written(out / "config.json", facts)
    with pytest.raises(FedkitError, match=r"damaged \(dataset.seed\)"):
        results.found([out])
