"""The programs of docs/own_models.md: quoted as they are, short, and run as a reader would."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT, environment, sampled

EXAMPLES = ROOT / "docs" / "examples" / "own_models"
ORDER = ("network", "fedavg_by_hand", "flower_app", "lightning_module")
PAGE = (ROOT / "docs" / "own_models.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (command,) = re.findall(r"^fedkit build (.*)$", PAGE, flags=re.MULTILINE)
    words = command.split()
    assert words[: words.index("--set")] == ["fed-rsic", "--sample", "--subset", "fed-ucmerced", "--clients", "4"]
    sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    return sampled(tmp_path_factory.mktemp("own") / "data", "clients=4", *sets).path


def accuracies(program: str, *arguments: object) -> list[float]:
    """The figures that a program prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0", OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(figure) for figure in re.findall(r"accuracy ([\d.]+)", done.stdout)]


def test_the_page_quotes_every_program_whole_and_none_is_long() -> None:
    quoted = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    programs = [(EXAMPLES / f"{name}.py").read_text(encoding="utf-8") for name in ORDER]
    assert quoted == programs
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(ORDER)
    assert all(len(program.splitlines()) <= 40 for program in programs)


def test_fedavg_by_hand_learns(data: Path) -> None:
    by_round = accuracies("fedavg_by_hand.py", data, 16)
    assert len(by_round) == 16
    assert by_round[-1] > max(4 / 21, by_round[0])
    assert by_round == accuracies("fedavg_by_hand.py", data, 16), "the seed settles everything"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.skipif(find_spec("flwr") is None or find_spec("ray") is None, reason="needs fedrsic[distributed]")
def test_the_flower_app_trains_as_the_loop_does(data: Path) -> None:
    start, *by_round = accuracies("flower_app.py", data, 3)
    image = 1 / 84 + 1e-4  # sums in another order may move an image over the border of two classes
    assert by_round == pytest.approx(accuracies("fedavg_by_hand.py", data, 3), abs=image)
    assert start != by_round[-1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pytorch_lightning") is None, reason="needs pytorch-lightning")
def test_the_lightning_module_learns_from_all_clients_and_from_one(data: Path) -> None:
    (pooled,) = accuracies("lightning_module.py", data)
    (alone,) = accuracies("lightning_module.py", data, "client-0000")
    assert pooled > 4 / 21
    assert pooled > alone > 0
