"""Runs the tests that use a Hub with each supported pair of ``huggingface_hub`` and ``datasets``.

    python benchmarks/hub_versions.py [--folder DIR] [pytest options]

Each pair gets a separate environment on top of the present one, into which only the differences are installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
_HTTP = ["httpx<1", "httpcore<2", "h11", "anyio<5"]  # what huggingface_hub 1 speaks through
PAIRS = {
    "oldest": ["huggingface_hub==1.0.1", "datasets==4.4.1", "typer-slim<0.20.1", "shellingham", *_HTTP],
    "hub-1-datasets-4": ["huggingface_hub<2", "datasets<5", *_HTTP],
    "hub-2-datasets-5": ["huggingface_hub>=2,<3", "datasets>=5,<6"],
}
TESTS = ["tests/test_publish.py", "tests/test_publish_faults.py"]
SHOW = "import huggingface_hub as h, datasets as d; print('huggingface_hub', h.__version__, 'datasets', d.__version__)"


def environment(folder: Path, packages: list[str]) -> Path:
    """The interpreter of an environment that has these packages before those of the present one."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        inner = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        here = [path for path in sys.path if path.endswith("site-packages")]
        (inner / "below.pth").write_text("\n".join(here) + "\n")
    command = [python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", *packages]
    subprocess.run(list(map(str, command)), check=True)
    return python


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "fedkit-hub-versions")
    arguments, options = parser.parse_known_args()
    failed = []
    for name, packages in PAIRS.items():
        python = str(environment(arguments.folder / name, packages))
        subprocess.run([python, "-c", SHOW], check=True)
        if subprocess.run([python, "-m", "pytest", "-q", *TESTS, *options], cwd=ROOT, check=False).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
