"""The app that ``fedkit flower app`` writes: what Flower takes, and nothing over a file of somebody else."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import answer, contents, fedkit, sampled

if find_spec("flwr") is None:
    pytest.skip("needs fedrsic[distributed]", allow_module_level=True)

from fedrsic_data.derive import sites
from fedrsic_data.errors import ManifestError, OutputError, UsageError
from fedtrain import methods
from fedtrain.federation import app, launch

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and beside it ``sites`` with a folder a client."""
    top = tmp_path_factory.mktemp("single")
    whole = sampled(top / "fed", "clients=4").path
    sites.split(whole, top / "sites")
    return whole


def test_the_app_is_what_flower_takes(single: Path, tmp_path: Path) -> None:
    import tomllib

    at = single.parent / "sites" / "server"
    wanted = ("flower", "app", tmp_path / "app", "--method", "fedpgp", "--manifest", at, "--set", 'clip=a "b" c')
    told = answer(fedkit(*wanted, "--rounds", 3, "--json"))
    written = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert written["config"] == {key: value for key, value in told.items() if key != "app"}
    assert app.shlex.split(written["config"]["sets"]) == ["rounds=3", 'clip=a "b" c']
    assert set(written["components"].values()) == {"fedkit_federation.server:app", "fedkit_federation.site:app"}
    assert sorted(p.name for p in (tmp_path / "app").rglob("*.py")) == ["__init__.py", "server.py", "site.py"]
    answer(fedkit(*wanted, "--rounds", 3, "--json"))  # the same again
    with pytest.raises(OutputError, match="holds another app"):
        app.write_app(tmp_path / "app", "fedpgp", str(at), None, ["rounds=2"], None)
    app.write_app(tmp_path / "app", "fedpgp", str(at), None, ["rounds=2"], None, overwrite=True)
    app.write_app(tmp_path / "srv😀", "fedpgp", str(at), None, [], tmp_path / "runs😀")
    plain = tomllib.loads((tmp_path / "srv😀" / "pyproject.toml").read_text())
    assert plain["tool"]["flwr"]["app"]["config"]["out"] == str(tmp_path / "runs😀")
    assert "rounds=2" in (tmp_path / "app" / "pyproject.toml").read_text()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "pyproject.toml").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "pyproject.toml").symlink_to(tmp_path / "app" / "pyproject.toml")
    for folder in (tmp_path / "foreign", tmp_path / "linked"):
        with pytest.raises(OutputError, match="holds no fedkit app"):
            app.write_app(folder, "fedpgp", str(at), None, [], None)
    assert (tmp_path / "foreign" / "pyproject.toml").read_text() == "mine"
    with pytest.raises(OutputError, match="cannot be written"):
        app.write_app(tmp_path / ("x" * 300), "fedpgp", str(at), None, [], None)
    with pytest.raises(UsageError, match="no method 'fedppg'"):
        app.write_app(tmp_path / "x", "fedppg", str(at), None, [], None)
    with pytest.raises(ManifestError, match="does not exist"):
        app.write_app(tmp_path / "x", "fedpgp", str(tmp_path / "no"), None, [], None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="is not empty and holds no fedkit app"):
        app.write_app(tmp_path / "mine", "fedpgp", str(at), None, [], None)
    for name in ("thesis.tex", "fedkit_federation/mine.py", "pyproject.toml.tmp"):
        (tmp_path / "app" / name).write_text("precious")
        with pytest.raises(OutputError, match=f"holds no fedkit app .{name.rpartition('/')[2]}"):
            app.write_app(tmp_path / "app", "fedpgp", str(at), None, [], None, overwrite=True)
        assert (tmp_path / "app" / name).read_text() == "precious"
        (tmp_path / "app" / name).unlink()
    (tmp_path / "app/fedkit_federation/__pycache__").mkdir()
    (tmp_path / "app/fedkit_federation/__pycache__/site.cpython-311.pyc").write_bytes(b"compiled")
    app.write_app(tmp_path / "app", "fedpgp", str(at), None, ["rounds=2"], None)
    for words in ("", "[tool.flwr.app]\npublisher = 1", "# A federation, for: flwr run\n[project]\nname = 'mine'"):
        (tmp_path / "app" / "pyproject.toml").write_text(words)  # its first line alone says nothing
        with pytest.raises(OutputError, match="holds no fedkit app"):
            app.write_app(tmp_path / "app", "fedpgp", str(at), None, [], None, overwrite=True)
        assert (tmp_path / "app" / "pyproject.toml").read_text() == words


def test_an_app_that_was_cut_short_is_written_again(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.write_app(tmp_path / "whole" / "app", "fedpgp", str(single), None, [], tmp_path / "runs")
    replace, at = os.replace, tmp_path / "cut" / "app"

    def killed(source: Path, target: Path) -> None:
        if Path(target) == at / "fedkit_federation" / "site.py":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            app.write_app(at, "fedpgp", str(single), None, [], tmp_path / "runs")
    (at / ".fedkit-0123456789abcdef.tmp").touch()  # as a kill leaves it
    app.write_app(at, "fedpgp", str(single), None, [], tmp_path / "runs")
    (at / ".fedkit-0123456789abcdef.tmp").unlink()
    assert contents(at) == contents(tmp_path / "whole" / "app")


def test_an_app_that_could_not_run_is_not_written(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods.METHODS["fedlgt"], "kinds", ("multi-label",))
    for method, subset, words in (("fedpgp", "nope", "no subset 'nope'"), ("fedlgt", None, "is for multi-label data")):
        with pytest.raises(UsageError, match=words):
            app.write_app(tmp_path / "x", method, str(single), subset, [], None)
    assert not (tmp_path / "x").exists()


def test_changes_that_flower_would_pass_over_are_refused(tmp_path: Path) -> None:
    for text in ("not toml ' x", "mehtod='fedpgp'", "method=fedpgp", "sets='rounds=1' x"):
        with pytest.raises(UsageError, match="--run-config"):
            launch.run(tmp_path, None, [text], print)
    with pytest.raises(UsageError, match="not the name of a SuperLink"):
        launch.run(tmp_path, "--help", [], print)


def test_workers_open_datasets_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.anywhere("data/fed") == str(tmp_path.resolve() / "data/fed")
    assert app.anywhere("hf://me/fed@0123") == "hf://me/fed@0123"
