"""Runs the fast tests with the oldest release of every dependency that ``pyproject.toml`` admits.

    python benchmarks/floors.py [--folder DIR] [pytest options]

The environment is made once in the folder, with the interpreter that runs this script, and used again. It has exactly
the floors: ``torch>=2.5.1`` becomes ``torch==2.5.1``. What only the tests need comes in its newest release that fits.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
FAST = ["-q", "-p", "no:cacheprovider", "-m", "not slow and not distributed and not gpu and not network"]
TOOLS = {
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "scikit-learn",
    "iterative-stratification",
    "pycocotools",
    "duckdb",
    "polars",
}


def floors(project: dict) -> list[str]:
    """``name==version`` for every dependency ``name>=version``, in the order of the file.

    Raises:
        ValueError: A dependency has no floor, so that nobody could say what the oldest release is.
    """
    found = []
    for text in project["dependencies"]:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9][0-9.]*)(\s*,.*)?", text)
        if match is None:
            raise ValueError(f"dependency {text!r} has no floor; write it as name>=version")
        found.append(f"{match[1]}=={match[2]}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fedkit-floors")
    arguments, options = parser.parse_known_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = floors(project)
    tools = [tool for tool in project["optional-dependencies"]["test"] if re.split(r"[\[><=]", tool)[0] in TOOLS]
    python = arguments.folder / "bin" / "python"
    if not python.exists():
        venv.create(arguments.folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    subprocess.run([*pip, *wanted, *tools], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(ROOT)], check=True)
    print("floors:", *wanted, flush=True)
    sys.exit(subprocess.run([str(python), "-m", "pytest", *FAST, *options], cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
