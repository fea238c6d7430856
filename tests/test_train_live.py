"""The view of a run in the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from fedtrain.report import live


def test_a_sparkline_has_the_shape_of_its_values() -> None:
    assert live.sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert live.sparkline([5, 5]) == "▄▄"
    assert live.sparkline([]) == ""
    assert live.sparkline([1, float("nan"), 2]) == "▁█"
    long = live.sparkline([float(i) for i in range(1000)], width=10)
    assert len(long) == 10
    assert list(long) == sorted(long)


def line(round_: int, **figures: Any) -> dict[str, Any]:
    return {"round": round_, "loss": 2.0 / round_, "figures": figures}


def test_curves_are_of_the_loss_and_the_first_figures() -> None:
    lines = [line(1, a=1.0, b=None, c=3, d=4, e=5), line(2), line(3, a=2.0, b=5.0, c=3, d=4, e=5)]
    assert [(name, len(curve), value) for name, curve, value in live.curves(lines)] == [
        ("loss", 3, "0.667"),
        ("a", 2, "2.000"),
        ("c", 2, "3.000"),
        ("d", 2, "4.000"),
    ]


def shown(*, terminal: bool, quiet: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with live.view(console, quiet=quiet) as rounds:
        for run in range(2):
            for i in (1, 2, 3):
                rounds(line(i, accuracy=10.0 * i + run), 3)
    return file.getvalue()


def test_a_terminal_shows_the_latest_round_of_the_run() -> None:
    text = shown(terminal=True)
    assert "round 3 of 3" in text
    assert "accuracy" in text
    assert "31.000" in text
    assert "▁▅█" in text, "the curve is not of the last run alone"


def test_a_pipe_gets_a_line_per_round() -> None:
    assert shown(terminal=False).splitlines() == [
        "round 1 of 3: loss 2.000, accuracy 10.000",
        "round 2 of 3: loss 1.000, accuracy 20.000",
        "round 3 of 3: loss 0.667, accuracy 30.000",
        "round 1 of 3: loss 2.000, accuracy 11.000",
        "round 2 of 3: loss 1.000, accuracy 21.000",
        "round 3 of 3: loss 0.667, accuracy 31.000",
    ]


def test_quiet_shows_nothing() -> None:
    assert shown(terminal=False, quiet=True) == ""
    assert shown(terminal=True, quiet=True) == ""
