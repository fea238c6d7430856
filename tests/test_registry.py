"""Registries: names are read without imports, and things are imported when asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, answer, fedkit

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import PARTITIONERS
from fedrsic_data.registry import Registry
from fedrsic_data.sources import FORMATS, GENERAL, SOURCES
from fedtrain.methods import METHODS

MISTYPED = {
    "build fed-rsick": "did you mean 'fed-rsic'?",
    "build fed-rsic --sample --partition dirichlett": "did you mean 'dirichlet'?",
    "build fed-rsic --sample --set alpah=2": "did you mean 'alpha'?",
    "build fed-rsic --set subsets.fed-domains.sources=[1,2]": "should be a text",
    "build fed-rsic --source ucmercd=x": "unknown source",
    "new my.json --folder . --set kind=yol": "kinds of folders are",
    "new my.json --folder . --set lables=x": "lables",
    "resplit {data} --out other --partition iidd": "did you mean 'iid'?",
    "resplit {data} --out other --set layout.file=client": "did you mean 'files'?",
    "train fedpgpp --manifest {data}": "did you mean 'fedpgp'?",
    "train fedpgp --manifest {data} --set rnk=4": "did you mean 'rank'?",
    "list partitionrs": "did you mean 'partitioners'?",
}
RUN = """
import contextlib, io, json, sys
import cli
told = []
for line in json.loads(sys.argv[1]):
    sys.argv[1:] = line.split()
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as ended:
            told.append([ended.code, said.getvalue(), sorted(sys.modules)])
print(json.dumps(told))
"""


def loaded(code: str, package: str) -> set[str]:
    """The modules below a package that a fresh interpreter holds after some code."""
    code += f"\nimport sys; print(*(m for m in sys.modules if m.startswith('{package}.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.removeprefix(f"{package}.") for name in done.stdout.splitlines()[-1].split()}


def test_names_import_nothing_and_a_thing_its_own_module() -> None:
    kinds: Registry[object] = Registry("kind", {"one": "no.such.module:Thing", "text": "string:digits"})
    assert list(kinds) == ["one", "text"]
    assert len(kinds) == 2
    assert "one" in kinds
    assert kinds["text"] == "0123456789"
    with pytest.raises(ModuleNotFoundError):
        kinds["one"]


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    kinds: Registry[object] = Registry("kind", {"text": "string:digits"})
    with pytest.raises(UsageError, match="^unknown kind 'txet'; did you mean 'text'\\?$"):
        kinds["txet"]
    with pytest.raises(UsageError, match=r"^recipe: unknown kind \['text'\]; did you mean 'text'\?$"):
        kinds.named(["text"], "recipe")
    assert kinds.get("txet") is None
    assert ["text"] not in kinds


def test_a_thing_that_is_set_serves_this_process() -> None:
    kinds: Registry[object] = Registry("kind", {})
    kinds["mine"] = set
    assert kinds["mine"] is set
    del kinds["mine"]
    assert "mine" not in kinds


def installed(folder: Path, name: str, points: str) -> None:
    """A package as ``importlib.metadata`` finds it."""
    facts = folder / f"{name}-1.5.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    (facts / "entry_points.txt").write_text(f"[fedkit.kinds]\n{points}\n")


def test_other_packages_add_names_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "theirs", "letters = string:ascii_letters")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {"text": "string:digits"}, group="fedkit.kinds")
    assert kinds["text"] == "0123456789"
    assert "letters" in kinds
    assert list(kinds) == ["text", "letters"]
    assert len(kinds) == 2
    assert str(kinds["letters"]).startswith("abc")
    assert kinds.register("letters", kinds["letters"]) is kinds["letters"]
    assert dict(kinds.facts(lambda thing: {"first": thing[0]})) == {  # type: ignore[index]
        "text": {"first": "0"},
        "letters": {"first": "a", "package": "theirs 1.5"},
    }
    with pytest.raises(UsageError, match="unknown kind 'leters'; did you mean 'letters'"):
        kinds["leters"]


@pytest.mark.parametrize(
    ("points", "name", "words"),
    [
        ("text = string:ascii_letters", "text", "kind 'text': is of fedkit and of the package theirs"),
        (
            "lost = nowhere.at_all:thing",
            "lost",
            "of the package theirs: cannot be imported .ModuleNotFoundError: No module",
        ),
        ("lost = string:nothing", "lost", "of the package theirs: cannot be imported .AttributeError"),
    ],
)
def test_a_name_that_is_taken_or_cannot_be_imported_is_refused_and_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: str, name: str, words: str
) -> None:
    installed(tmp_path, "theirs", points)
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {"text": "string:digits", "other": "string:digits"}, "fedkit.kinds")
    with pytest.raises(UsageError, match=words) as caught:
        kinds[name]
    assert "\n" not in str(caught.value)
    assert kinds["other"] == "0123456789"
    assert name in list(kinds)


@pytest.mark.parametrize("raised", ["SystemExit(0)", "BaseException('b')", "RuntimeError('r')"])
def test_a_package_that_ends_the_process_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    (tmp_path / "ends_here.py").write_text(f"raise {raised}\n")
    installed(tmp_path, "theirs", "lost = ends_here:thing")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {}, "fedkit.kinds")
    with pytest.raises(UsageError, match=f"cannot be imported .{raised.partition('(')[0]}"):
        kinds["lost"]


def test_a_thing_that_is_none_of_its_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "theirs", "letters = string:ascii_letters")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {}, "fedkit.kinds", needs=("upper", "assign"))
    with pytest.raises(UsageError, match="string:ascii_letters is no kind, it has no 'assign'"):
        kinds["letters"]


def test_a_method_that_lacks_what_engines_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that does not extend ``Method``."""
    code = "class Loose:\n    Settings = rounds = train = evaluate = aggregate = None\n"
    (tmp_path / "loose_method.py").write_text(code)
    installed(tmp_path, "theirs", "loose = loose_method:Loose")
    monkeypatch.syspath_prepend(tmp_path)
    theirs: Registry[object] = Registry("method", {}, "fedkit.kinds", METHODS.needs)
    with pytest.raises(UsageError, match="loose_method:Loose is no method, it has no 'sent_to'"):
        theirs["loose"]


def test_a_package_with_damaged_metadata_spoils_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "theirs", "letters = string:ascii_letters")
    installed(tmp_path, "broken", "")
    (tmp_path / "broken-1.5.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {}, "fedkit.kinds")
    assert list(kinds) == ["letters"]


def test_a_name_of_two_packages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "one", "letters = string:ascii_letters")
    installed(tmp_path, "two", "letters = string:digits")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {}, "fedkit.kinds")
    with pytest.raises(UsageError, match="string:ascii_letters and string:digits both add it"):
        kinds["letters"]


def test_a_name_that_fedkit_has_elsewhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(tmp_path, "theirs", "folder = string:ascii_letters")
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {}, "fedkit.kinds", taken=("folder", "hub"))
    with pytest.raises(UsageError, match="kind 'folder': is of fedkit and of the package theirs"):
        kinds["folder"]
    with pytest.raises(UsageError, match="kind 'hub': is taken"):
        kinds.register("hub", set)
    assert set(SOURCES.taken) == set(GENERAL)


LISTED = {"partitioners": "partitioner", "sources": "source", "methods": "method"}
PLUGINS = """
from fedrsic_data.partition.iid import Iid
from fedrsic_data.sources.ucmerced import SOURCE
from fedtrain.methods.zeroshot import ZeroShot

class Bare(Iid):
    def __init__(self, clients):
        pass

class Undescribed(Iid):
    cites = Iid

class Odd(ZeroShot):
    rounds = {1}
"""


@pytest.mark.parametrize("what", LISTED)
def test_a_list_names_the_package_of_a_plug_in_and_what_is_wrong_with_it(what: str, tmp_path: Path) -> None:
    points = {
        "partitioners": "fine = plugs_in:Iid\nbare = plugs_in:Bare\nundescribed = plugs_in:Undescribed",
        "sources": "fine = plugs_in:SOURCE\nbare = plugs_in:Iid\nfolder = plugs_in:SOURCE",
        "methods": "fine = plugs_in:ZeroShot\nbare = plugs_in:Odd\nfedpgp = plugs_in:ZeroShot",
    }
    (tmp_path / "plugs_in.py").write_text(PLUGINS)
    facts = tmp_path / "theirs-1.5.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.5\n")
    (facts / "entry_points.txt").write_text(f"[fedkit.{what}]\n{points[what]}\nlost = nowhere.at_all:thing\n")
    before = answer(fedkit("list", what, "--json"))[what]
    env = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    rows = answer(fedkit("list", what, "--json", **env))[what]
    mine = {row[LISTED[what]]: row for row in rows if "package" in row}
    assert [row for row in rows if "package" not in row] == [row for row in before if row[LISTED[what]] != "fedpgp"]
    assert {row["package"] for row in mine.values()} == {"theirs 1.5"}
    fine = mine.pop("fine")
    assert "problem" not in fine
    assert fine.keys() - {"package"} == before[0].keys()
    assert "No module named 'nowhere'" in mine["lost"]["problem"]
    assert len(mine) == 3
    assert all(row.keys() == {LISTED[what], "package", "problem"} and row["problem"] for row in mine.values())
    text = fedkit("list", what, **env)
    assert text.returncode == 0, text.stderr
    assert "theirs 1.5" in text.stdout
    lines = text.stdout.splitlines()
    assert all(f"{name} (theirs 1.5): {row['problem']}" in lines for name, row in mine.items())


def test_a_thing_is_registered_once() -> None:
    kinds: Registry[object] = Registry("kind", {"text": "string:digits"})
    assert kinds.register("mine", set) is set
    assert kinds.register("mine", set) is set
    assert kinds["mine"] is set
    with pytest.raises(UsageError, match="kind 'mine': is taken"):
        kinds.register("mine", dict)
    with pytest.raises(UsageError, match="kind 'text': is taken"):
        kinds.register("text", set)


def test_the_tables_name_sources_as_sources_name_themselves() -> None:
    assert {name: source.name for name, source in SOURCES.items()} == {name: name for name in SOURCES}
    assert {name: source.kind for name, source in GENERAL.items()} == {name: name for name in GENERAL}
    assert {name: source.kind for name, source in FORMATS.items()} == {name: name for name in FORMATS}
    assert set(FORMATS) < set(GENERAL)
    assert not set(SOURCES) & set(GENERAL)


def test_the_table_names_partitioners_once_each() -> None:
    assert len(set(PARTITIONERS.values())) == len(PARTITIONERS)


def test_a_partitioner_is_loaded_when_a_recipe_names_it() -> None:
    modules = {name.replace("-", "_") for name in PARTITIONERS}
    code = "from fedrsic_data import partition\nassert 'iid' in partition.PARTITIONERS"
    assert not loaded(code, "fedrsic_data.partition") & modules
    code += "\npartition.from_json({'name': 'iid'})"
    assert loaded(code, "fedrsic_data.partition") & modules == {"iid"}


def test_a_source_is_loaded_when_a_recipe_names_it() -> None:
    modules = {*SOURCES, *FORMATS, "folder", "parquet"}
    code = "from fedrsic_data import sources\nassert 'coco' in sources.SOURCES"
    assert not loaded(code, "fedrsic_data.sources") & modules
    code += "\nsources.configured('coco', {}, 'sources.coco')"
    assert loaded(code, "fedrsic_data.sources") & modules == {"coco"}


def ran(folder: Path, *lines: str) -> list[tuple[int, str, set[str]]]:
    """Exit code, words on the standard error and loaded modules of commands run one after another in one process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDKIT_DEBUG": "0"}
    command = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [(code, said, set(names)) for code, said, names in json.loads(done.stdout)]


def test_a_mistyped_name_is_refused_before_torch_is_loaded(sample_build: Path, tmp_path: Path) -> None:
    lines = [line.format(data=sample_build) for line in MISTYPED]
    for line, words, (code, said, modules) in zip(lines, MISTYPED.values(), ran(tmp_path, *lines), strict=True):
        assert code == 2, (line, said)
        assert words in said, (line, said)
        assert "torch" not in modules, line


def test_commands_that_look_load_neither_trainers_nor_drawing(sample_build: Path, tmp_path: Path) -> None:
    for code, said, modules in ran(tmp_path, f"inspect {sample_build}", "list", f"verify {sample_build}"):
        assert code == 0, said
        assert not modules & {"torch", "pandas", "matplotlib", "jinja2", "yaml", "datasets", "huggingface_hub"}
        assert not modules & {"fedtrain.run", "fedtrain.methods", "fedrsic_data.publish.card"}


def test_a_thing_of_fedkit_that_is_put_back_is_no_plug_in() -> None:
    """As a test that replaces one does at its end; a build then recorded it as a plug-in."""
    own = SOURCES["ucmerced"]
    SOURCES["ucmerced"] = own
    assert SOURCES.versions("ucmerced") == {}


@pytest.mark.parametrize("listed", [("top_level.txt", "theirs_module\n"), ("RECORD", "theirs_module/a.py,,\n")])
def test_a_thing_that_a_script_registers_has_the_version_of_its_package(
    listed: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "theirs", "")
    (tmp_path / "theirs-1.5.dist-info" / listed[0]).write_text(listed[1])
    monkeypatch.syspath_prepend(tmp_path)
    kinds: Registry[object] = Registry("kind", {})
    kinds["mine"] = type("Mine", (), {"__module__": "theirs_module.a"})
    kinds["other"] = type("Other", (), {"__module__": "module.a"})
    assert kinds.versions("mine") == {"theirs": "1.5"}
    assert kinds.versions("other") == {"module.a:Other": "unknown"}
