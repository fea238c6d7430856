"""Default folders of runs: named by what was varied, safe and short, and no two runs in one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from conftest import sampled
from federated_softmax import Softmax
from softmax_runs import config

from fedrsic_data import recipes
from fedrsic_data.errors import OutputError
from fedtrain import methods, run
from fedtrain.config import RunConfig
from fedtrain.runs.names import folder_name
from fedtrain.runs.results import found


@pytest.fixture(autouse=True)
def _softmax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    monkeypatch.setitem(methods.METHODS, "softmax", Softmax)
    monkeypatch.chdir(tmp_path)


def trained(wanted: RunConfig) -> str:
    return run.train(wanted, varied=recipes.varied).folder.as_posix()


def test_what_was_varied_is_in_the_name_and_runs_do_not_collide(tmp_path: Path) -> None:
    """Recipes and settings that differ, in any number of rounds; what changes no result is not in it."""
    one, other = (sampled(tmp_path / name, f"alpha={alpha}").path for name, alpha in (("a", 0.1), ("b", 0.3)))
    sets = ("rounds=1", "cohort=3")
    names = [
        trained(wanted)
        for wanted in (config(one, *sets), config(other, *sets), config(one, *sets, "lr=0.01", "weighting=equal"))
    ]
    plain = "runs/softmax-fed-rsic-sample-fed-ucmerced-"
    assert [re.sub("-[0-9a-f]{8}$", "", name.removeprefix(plain)) for name in names] == [
        "alpha-0.1-per_class-6-size-32-seed0",
        "alpha-0.3-per_class-6-size-32-seed0",
        "alpha-0.1-per_class-6-size-32-lr-0.01-weighting-equal-seed0",
    ]
    assert len({one.facts["run"] for one in found([Path("runs")])}) == 3
    assert trained(config(one, "rounds=2")) == names[0]
    assert len(list(Path("runs").iterdir())) == 3


def test_a_run_in_a_folder_of_an_earlier_version_goes_on_there(sample_build: Path) -> None:
    """Its name did not say what was varied. Another run takes a folder of its own."""
    old = Path("runs/softmax-fed-rsic-sample-fed-ucmerced-seed0")
    run.train(config(sample_build, "rounds=1", "lr=0.1"), old)
    again = run.train(config(sample_build, "rounds=1", "lr=0.1"))
    assert (again.folder, again.trained) == (old, False)
    assert run.train(config(sample_build, "rounds=2", "lr=0.1")).folder == old
    assert run.train(config(sample_build, "rounds=1", "lr=0.2")).folder.name.startswith(
        f"{old.name[:-6]}-lr-0.2-seed0-"
    )
    with pytest.raises(OutputError, match="has trained 2 rounds of this run, more than rounds=1"):
        run.train(config(sample_build, "rounds=1", "lr=0.1"))


def test_names_are_safe_short_and_distinct() -> None:
    parts = ("my.module:Method", "d" * 96, "s" * 96)
    varied = {f"setting_{number}": "x/../y \n" * 20 for number in range(30)}
    name = folder_name(parts, varied, 2**53)
    assert len(name) <= 255
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert name.startswith("my.module_Method-ddd")
    assert "-setting_0-x_.._y_x_.._y" in name
    names = {
        folder_name(*wanted, 0)
        for wanted in (
            (parts, varied),
            (parts, varied | {"setting_29": "z"}),
            ((*parts[:2], "s" * 95 + "t"), varied),
            (("m", "d"), {}),
            (("m", "d"), {"lr": 0.1}),
            (("m", "d"), {"lr": "0.1"}),
            (("m", "d"), {"lr": "0 1"}),
        )
    }
    assert len(names) == 7
    assert folder_name(("zeroshot", "fed", "fed"), {}, 3) == "zeroshot-fed-seed3"
    assert folder_name(("m", "d"), {"partition": "iid", "shots": None, "dp.noise": 0.5}, 0).startswith(
        "m-d-iid-dp.noise-0.5-seed0-"
    )
