"""The speed at which `build` writes shards, next to `cp -r` of the same files, in one run.

    python benchmarks/build.py                        # synthetic files: 31,500 of about 13 KB, as NWPU-RESISC45
    python benchmarks/build.py --source PATH          # a real folder of UC Merced
    python benchmarks/build.py --memory               # peak memory at 2,100 to 200,000 sample images

Both sides read files that are in the page cache and write to the same folder. fedkit checks every image,
digests every byte and writes Parquet; `cp -r` copies. `build` is timed twice: the pipeline inside a warm
process, and the whole command with its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from fedrsic_data import recipes
from fedrsic_data.build import pipeline
from fedrsic_data.sources import vocabulary
from fedrsic_data.sources.locate import Places

ROOT = Path(__file__).parent.parent


def synthetic(root: Path, per_class: int = 700, size: int = 13_000) -> Path:
    """NWPU-RESISC45 in its layout: JPEG headers around incompressible bytes, as large as the real files."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (256, 256)).save(file, "JPEG")
    head, tail = file.getvalue()[:-2], b"\xff\xd9"
    rng = np.random.default_rng(0)
    for name in vocabulary.native("resisc45"):
        folder = root / "NWPU-RESISC45" / name
        folder.mkdir(parents=True)
        for i in range(1, per_class + 1):
            body = rng.integers(0, 255, int(rng.integers(size // 2, size * 3 // 2)), np.uint8).tobytes()
            (folder / f"{name}_{i:03d}.jpg").write_bytes(head + body + tail)
    return root


def timed(function: object, *arguments: object) -> float:
    start = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start


def compare(source: Path, subset: str, repeats: int) -> dict[str, object]:
    """Best of several alternating runs of each side."""
    files = [p for p in source.rglob("*") if p.suffix in (".jpg", ".tif")]
    size = sum(p.stat().st_size for p in files)
    wanted = recipes.from_json(recipes.override(recipes.load("fed-rsic"), subsets=[subset]), "benchmark")
    places = Places(folder=source, offline=True)
    best = {"cp -r": 1e9, "build": 1e9, "fedkit build": 1e9}
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        out = Path(folder)

        def copy() -> None:
            subprocess.run(["cp", "-r", str(source), str(out / "copy")], check=True)

        def build() -> None:
            pipeline.build(pipeline.prepare(wanted, places), out / "built")

        def command() -> None:
            arguments = [sys.executable, str(ROOT / "cli.py"), "build", "fed-rsic", "--subset", subset]
            arguments += ["--sources", str(source), "--out", str(out / "built"), "--json"]
            subprocess.run(arguments, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

        for _ in range(repeats):
            for name, function in (("cp -r", copy), ("build", build), ("fedkit build", command)):
                best[name] = min(best[name], timed(function))
                for made in ("copy", "built"):
                    shutil.rmtree(out / made, ignore_errors=True)
    rows = {
        name: {"seconds": round(t, 3), "images_per_s": round(len(files) / t), "MB_per_s": round(size / t / 1e6, 1)}
        for name, t in best.items()
    }
    return {"images": len(files), "MB": round(size / 1e6, 1), "runs": repeats, **rows}


def memory(per_class: int) -> dict[str, object]:
    """Peak resident memory of one build of sample images, in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        code = (
            "import sys, resource; sys.argv = ['fedkit', *sys.argv[1:]]\n"
            "import cli\n"
            "try: cli.main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
        )
        arguments = ["build", "fed-rsic", "--subset", "fed-ucmerced", "--sample", "--json", "--out", f"{folder}/out"]
        arguments += ["--set", f"sample.per_class={per_class}", "--set", "sample.size=32"]
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        seconds = time.perf_counter() - start
        rows = json.loads(done.stdout)["subsets"]["fed-ucmerced"]["rows"]
        size = sum(p.stat().st_size for p in Path(folder).rglob("*.parquet"))
    return {
        "images": sum(rows.values()), "peak_MB": int(done.stderr.split()[-1]), "output_MB": round(size / 1e6, 1),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, help="a folder of UC Merced; default: synthetic NWPU-RESISC45")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of speed")
    arguments = parser.parse_args()
    if arguments.memory:
        for per_class in (100, 1000, 3500, 9524):
            print(json.dumps(memory(per_class)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "sources"
        if arguments.source:
            shutil.copytree(arguments.source, root / arguments.source.name)
        else:
            synthetic(root)
        result = compare(root, "fed-ucmerced" if arguments.source else "fed-nwpu", arguments.repeats)
    for name, value in result.items():
        print(f"{name:14} {value}")
    print(f"{'cores':14} {os.cpu_count()}")
    ratio = result["cp -r"]["seconds"] / result["build"]["seconds"]  # type: ignore[index]
    print(f"{'build / cp -r':14} {ratio:.2f} of its rate")


if __name__ == "__main__":
    main()
