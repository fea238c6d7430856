"""Published figures: what the file says of each, and next to which runs they are printed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fedrsic_data.errors import UsageError
from fedtrain import published
from fedtrain.config import RunConfig
from fedtrain.methods import METHODS
from fedtrain.published import PaperFigure
from fedtrain.report import papers
from fedtrain.runs.results import Group, Spread

FIGURES = published.published().figures
PETS: dict[str, Any] = {
    "base_to_novel": True,
    "partition.clients": 10,
    "clients_per_round": None,
    "clip": "ViT-B-16:openai",
    "rounds": 10,
    "epochs": 2,
    "shots": 16,
    "batch": 8,
    "lr": 1e-3,
    "views": 4,
    "sample": False,
    "sources.oxford-pets.split": "coop",
}
"""A run under FedMGP's protocol of base and novel classes."""


def group(
    label: str = "fedpgp", source: str = "oxford-pets", partition: str = "pathological", **settings: Any
) -> Group:
    metrics = ("local/mean", "base/mean", "novel/mean", "CM")
    figures = {f"test/{name}": Spread(50.0 + i, None, 50.0, 50.0, 1) for i, name in enumerate(metrics)}
    held = {**PETS, **settings}
    return Group(
        label,
        source,
        source,
        held["sample"],
        (source,),
        {source: ""},
        partition,
        "coarse",
        (0,),
        figures,
        settings=held,
    )


def test_every_figure_says_where_it_was_read_and_whose_it_is() -> None:
    papers_ = published.published()
    assert len(FIGURES) == 848
    for one in FIGURES:
        told = papers_.sources[one.source].told_by
        assert one.protocol in papers_.protocols
        assert one.where
        assert 0 <= one.value <= (100 if "thousands" not in one.metric else 10_000)
        assert (one.kind == "summary") == ("summar" in told)
        assert one.unsound != ""
    assert Counter(one.kind for one in FIGURES) == {"re-run": 623, "first-hand": 135, "summary": 90}
    assert {one.method for one in FIGURES if (one.kind, one.source) == ("first-hand", "fedmgp")} == {"FedMGP"}


def test_no_figure_occurs_twice() -> None:
    keys = Counter(
        (one.method, one.dataset, one.protocol, str(one.setting), one.metric, one.source, one.where) for one in FIGURES
    )
    assert keys.most_common(1)[0][1] == 1


@pytest.mark.parametrize("name", published.published().protocols)
def test_facts_of_protocols_are_settings_that_runs_have(name: str) -> None:
    rules = published.protocol(name)
    known = {key for method in METHODS for key in vars(METHODS[method].Settings())} | set(vars(RunConfig("", "", "")))
    known |= {"base_to_novel", "shots", "partition", "partition.alpha", "partition.clients"}
    for facts in (rules.facts, *rules.by_dataset.values()):
        assert facts.keys() <= known
    assert rules.by_dataset.keys() <= published.published().datasets.keys()


def test_a_protocol_that_is_mistyped_is_told_the_nearest() -> None:
    with pytest.raises(UsageError, match="no published protocol 'fedmgp-cifer'; did you mean 'fedmgp-cifar'?"):
        published.protocol("fedmgp-cifer")


def values(protocol: str, metric: str, source: str = "fedmgp") -> dict[tuple[str, str | None], float]:
    return {
        (one.method, one.dataset): one.value
        for one in FIGURES
        if (one.protocol, one.metric, one.source) == (protocol, metric, source)
    }


def test_the_columns_of_fedmgps_table_agree_with_each_other() -> None:
    """CM is (local + HM(base, novel)) / 2, to what rounding leaves."""
    local, base, novel, cm = (values("fedmgp-base-to-novel", name) for name in ("local", "base", "novel", "cm"))
    assert len(cm) == 60
    single = [key for key in cm if key[1] != "mean of 9"]
    for key in single:
        harmonic = 2 * base[key] * novel[key] / (base[key] + novel[key])
        assert (local[key] + harmonic) / 2 == pytest.approx(cm[key], abs=0.06)
    for column in (local, base, novel):
        for method in {method for method, _ in column}:
            mine = [column[key] for key in single if key[0] == method]
            assert sum(mine) / len(mine) == pytest.approx(column[method, "mean of 9"], abs=0.06)


def unsound(one: PaperFigure) -> bool:
    return one.unsound is not None


def test_figures_known_to_be_unsound_are_no_rows() -> None:
    """Domains whose images and labels are mispaired, rows copied from other partitions, a penalty without gradient."""
    bad = [one for one in FIGURES if unsound(one)]
    assert len(bad) == 54
    domains = {"fedmgp-domains", "pfedmoap-domains", "pfedmma-domains"}
    assert all(unsound(one) for one in FIGURES if one.protocol in domains)
    assert {one.protocol for one in bad} == {*domains, "pfedmoap-pathological", "fedlgt"}
    rows = published.rows()
    assert not domains & {row.protocol for row in rows}
    printed = {(row.protocol, row.dataset, row.method, metric) for row in rows for metric in row.figures}
    assert printed
    assert not printed & {(one.protocol, one.dataset, one.method, one.metric) for one in bad}


def test_figures_stand_next_to_a_run_of_the_same_protocol() -> None:
    tables, apart = papers.beside([group(), group("promptfl")], ["fedmgp-base-to-novel"])
    assert not apart
    ((title, rows),) = tables.items()
    assert title == "oxford-pets of oxford-pets, beside FedMGP, NeurIPS 2025 (fedmgp-base-to-novel)"
    names = [name.split(" (")[0] for name in rows]
    assert names == ["fedpgp", "promptfl", "PromptFL", "FedOTP", "FedTPG", "FedPGP", "PromptFolio", "FedMGP"]
    assert rows["fedpgp (1 run, ours)"] == {"local": "50.00", "base": "51.00", "novel": "52.00", "cm": "53.00"}
    (theirs,) = [name for name in rows if name.startswith("FedPGP")]
    assert rows[theirs] == {"local": "96.20", "base": "95.01", "novel": "96.89", "cm": "96.07"}
    assert "FedMGP, NeurIPS 2025, arXiv 2511.00480, Table 1, re-run; not measured here" in theirs
    assert "not known: the seeds" in theirs


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rounds": 25}, "rounds 10"),
        ({"epochs": 1}, "epochs 2"),
        ({"lr": 1e-2}, "lr 0.001"),
        ({"views": 1}, "views several"),
        ({"shots": None}, "shots 16"),
        ({"batch": 32}, "batch 8"),
        ({"clip": "tiny"}, "clip ViT-B-16:openai"),
        ({"sample": True}, "real images"),
        ({"base_to_novel": False}, "base_to_novel true"),
        ({"partition": "dirichlet"}, "pathological clients"),
        ({"partition.clients": 20}, "partition.clients 10"),
        ({"clients_per_round": 5}, "clients_per_round all"),
        ({"sources.oxford-pets.split": "official"}, "sources.oxford-pets.split coop"),
        ({"source": "dtd"}, "sources.dtd.split coop"),
    ],
)
def test_figures_of_another_protocol_are_not_printed_and_the_difference_is(change: dict[str, Any], words: str) -> None:
    tables, apart = papers.beside([group(**change)], ["fedmgp-base-to-novel"])
    assert not tables
    (line,) = apart
    place = change.get("source", "oxford-pets")
    assert line == (
        "figures of FedMGP, NeurIPS 2025 (fedmgp-base-to-novel) are not printed next to fedpgp, "
        f"on {place}: its protocol has {words}"
    )


def test_a_zero_shot_run_is_compared_with_zero_shot_rows_alone_and_without_settings_of_training() -> None:
    held = {
        key: value for key, value in PETS.items() if key not in ("rounds", "epochs", "shots", "batch", "lr", "views")
    }
    one = group("zeroshot")
    one = Group(**{**vars(one), "settings": held | {"base_to_novel": False, "clip": "RN50:openai"}})
    tables, _ = papers.beside([one], ["pfedmoap-pathological"])
    (rows,) = tables.values()
    ours, theirs = rows.items()
    assert ours == ("zeroshot (1 run, ours)", {"local": "50.00"})
    assert theirs[0].startswith("ZS-CLIP (")  # the rows of methods that train are next to runs that train
    assert theirs[1] == {"local": "84.47"}


def test_what_is_never_the_same_is_always_said() -> None:
    """DP-FPL's clients and server exchange gradients after every batch."""
    mine = {"base_to_novel": False, "rounds": 100, "epochs": 1, "shots": None, "batch": 32, "lr": 1e-4, "length": 16}
    tables, lines = papers.beside([group(**mine, **{"dp.epsilon": None})], ["dpfpl-pathological"])
    assert not tables
    plain, private = lines
    words = "clients and server exchange gradients after every batch"
    assert plain.endswith(f"its protocol has {words}")
    assert private.endswith(f"its protocol has dp.epsilon 0.1; {words}")


def test_runs_that_differ_in_the_same_way_share_a_line() -> None:
    groups = [
        group(label, source, rounds=5, **{f"sources.{source}.split": "coop"})
        for source in ("dtd", "food101")
        for label in ("fedpgp", "promptfl")
    ]
    _, (line,) = papers.beside(groups, ["fedmgp-base-to-novel"])
    assert "next to fedpgp; promptfl, on dtd, food101: its protocol has rounds 10" in line
