"""Builds of a few tiny images, which take no time, and what tests of bad input ask of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from conftest import ROOT, Command, Done, environment, tiny_image, write_ucmerced

from fedrsic_data.sources import vocabulary

SAMPLE = ["build", "fed-rsic", "--sample", "--subset", "fed-ucmerced"]
SAMPLE += ["--set", "sample.per_class=2", "--set", "sample.size=32", "--clients", "2"]
CLASSES = vocabulary.native("ucmerced")


def nothing(out: Path) -> None:
    """Neither the dataset nor a half of it."""
    assert not os.path.lexists(out)
    assert not [p.name for p in out.parent.glob(f"{out.name}.*")]  # none too where there is no such folder


def small_source(root: Path, suffix: str = ".tif") -> Path:
    """Two images of each class of UC Merced."""
    return write_ucmerced(root, suffix, per_class=2)


def from_source(source: Path, out: Path, *more: object) -> list[object]:
    """The build of ``small_source``."""
    given = ["--source", f"ucmerced={source}", "--subset", "fed-ucmerced", "--offline"]
    return ["build", "fed-rsic", *given, "--clients", 2, "--out", out, *more]


def zipped(path: Path, *more: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for c, name in enumerate(CLASSES):
            for i in range(2):
                archive.writestr(f"UCMerced_LandUse/Images/{name}/{name}{i:02d}.tif", tiny_image(c * 9 + i, ".tif"))
        for member, data in more:
            archive.writestr(member, data)
    return path


def in_process(*arguments: object, **how: Any) -> Done[str]:
    """As ``conftest.fedkit``, with a say in how the process is made."""
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | how
    env = environment(**how.pop("env", {}))
    words = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    return subprocess.run(words, text=True, env=env, timeout=120, check=False, **how)


def output(command: Command, out: object) -> Done[str]:
    return command(*SAMPLE, "--out", out)


def written(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path
