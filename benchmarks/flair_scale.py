"""FLAIR at its real size, with generated images: build beside `tar -xzf` + `cp`, then opening and reading it.

    python benchmarks/flair_scale.py --folder DIR --json out.json          # 51,414 users, 429,078 images, about 25 GB
    python benchmarks/flair_scale.py --folder DIR --users 2571             # a twentieth
    python benchmarks/flair_scale.py --folder DIR --hub                    # the Hub's form: Parquet instead of tar.gz

Images are JPEG files of noise, 256 x 256 pixels and 10 to 18 kB; a comment makes each unique. They lie in Apple's
layout: 43 gzipped tar archives in random order, `labels_and_metadata.json`, `label_relationship.txt`. Users have
FLAIR's own sizes. Both sides read archives that were read just before and write to the same disk. The generated copy
stays in DIR/source and is used again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
ARCHIVES = 43
USERS = {"train": 41_131, "val": 5_141, "test": 5_142}
IMAGES = {"train": 345_879, "val": 39_239, "test": 43_960}
HEAD = np.array([18_500, 6_614, 3_480, 2_126, 1_636, 1_178, 871, 766, 563, 465]) / USERS["train"]
"""The part of FLAIR's training users who have exactly 1, 2, ... 10 images."""
LARGEST = 4_151
COARSE = {
    "structure": 228923, "equipment": 225862, "material": 139733, "outdoor": 131322, "plant": 123363, "food": 110792,
    "animal": 68858, "liquid": 68677, "art": 37230, "interior_room": 32042, "light": 11326, "recreation": 5651,
    "celebration": 3769, "fire": 3011, "music": 2571, "games": 1093, "religion": 866,
}  # fmt: skip
"""Images of each coarse label."""
FINE = 1_628


# The copy


def sizes(users: int, images: int) -> NDArray[np.int64]:
    """Images of each user, ascending: FLAIR's head, and a tail of power law that makes up the total."""
    head = np.repeat(np.arange(1, len(HEAD) + 1), np.rint(HEAD * users).astype(int))
    tail, quantile = users - len(head), (np.arange(users - len(head)) + 0.5) / (users - len(head))
    low, high = 0.05, 8.0
    for _ in range(60):  # the exponent of a power law between the head and the largest user
        exponent = (low + high) / 2
        first, last = (len(HEAD) + 0.5) ** -exponent, (LARGEST + 0.5) ** -exponent
        drawn = np.rint((first - quantile * (first - last)) ** (-1 / exponent)).astype(np.int64)
        low, high = (exponent, high) if drawn.sum() > images - head.sum() else (low, exponent)
    drawn[-1] = LARGEST if users == USERS["train"] else drawn[-1]
    rest = images - int(head.sum() + drawn.sum())
    drawn[: abs(rest) % tail] += np.sign(rest)
    drawn += np.sign(rest) * (abs(rest) // tail)
    return np.concatenate([head, drawn])


def pictures(count: int, rng: np.random.Generator) -> list[bytes]:
    """JPEG files of 10 to 18 kB: noise on top of a smooth picture."""
    from PIL import Image

    made: list[bytes] = []
    while len(made) < count:
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256), 3)
        noise = rng.normal(0, rng.uniform(8, 22), (256, 256, 1))
        pixels = np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(45, 75)))
        if 10_000 <= file.tell() <= 18_000:
            made.append(file.getvalue())
    return made


def picture(made: list[bytes], image_id: int) -> bytes:
    """One of them, with a comment that no other image has."""
    data = made[image_id % len(made)]
    comment = f"{image_id:020d}".encode()
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def archive(path: Path, ids: list[int], made: list[bytes]) -> None:
    with tarfile.open(path, "w:gz", compresslevel=6) as tar:
        for image_id in ids:
            data = picture(made, image_id)
            info = tarfile.TarInfo(f"small_images/{image_id}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def metadata(folder: Path, scale: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Writes the two label files; gives the ids of all images."""
    counts, partitions = [], []
    for name, users in USERS.items():
        whole = sizes(users, IMAGES[name])
        some = whole[((np.arange(max(1, round(users * scale))) + 0.5) / scale).astype(int).clip(max=users - 1)]
        counts.append(rng.permutation(whole if scale == 1 else some))
        partitions += [name] * len(counts[-1])
    per_user = np.concatenate(counts)
    total = int(per_user.sum())
    ids = rng.permutation(np.unique(rng.integers(10**5, 4 * 10**10, total * 2)))[:total]
    nsids = rng.permutation(np.unique(rng.integers(10**6, 2 * 10**8, len(per_user) * 2)))[: len(per_user)]
    coarse = sorted(COARSE)
    share = np.array([COARSE[name] for name in coarse]) / sum(COARSE.values())
    parent = np.concatenate([np.arange(17), rng.choice(17, FINE - 17, p=share)])
    fine = [*coarse, *(f"{coarse[p]}_{i:04d}" for i, p in enumerate(parent[17:]))]
    (folder / "label_relationship.txt").write_text(
        "".join(f"{name} -> {coarse[p]}\n" for name, p in zip(fine[17:], parent[17:], strict=True))
    )
    weight = share[parent] * rng.pareto(1.0, FINE)
    weight /= weight.sum()
    with (folder / "labels_and_metadata.json").open("w") as file:
        file.write("[\n")
        at = 0
        for user, partition, count in zip(nsids.tolist(), partitions, per_user.tolist(), strict=True):
            habits = rng.choice(FINE, 40, p=weight)  # what this user photographs
            for image_id in ids[at : at + count].tolist():
                some = set(rng.choice(habits, 1 + min(int(rng.poisson(3.9)), 35)).tolist())
                entry = {
                    "user_id": f"{user}@N{user % 9:02d}",
                    "image_id": str(image_id),
                    "labels": sorted({coarse[parent[i]] for i in some}),
                    "partition": partition,
                    "fine_grained_labels": sorted(fine[i] for i in some),
                }
                file.write((",\n" if at or image_id != ids[0] else "") + json.dumps(entry, indent=4))
            at += count
        file.write("\n]\n")
    return ids


def generate(folder: Path, scale: float, *, hub: bool) -> None:
    """A copy of FLAIR below ``folder``; the Hub's form has the same images and labels in 14 Parquet files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    made = pictures(200, rng)
    ids = metadata(folder, scale, rng)
    if hub:
        mirror(folder, made)
        return
    parts = np.array_split(rng.permutation(ids), ARCHIVES)
    with ProcessPoolExecutor() as pool:
        paths = [folder / f"small_images-{i:02d}.tar.gz" for i in range(ARCHIVES)]
        list(pool.map(archive, paths, [part.tolist() for part in parts], [made] * ARCHIVES))


def mirror(folder: Path, made: list[bytes]) -> None:
    """The metadata and images as Parquet files with row groups of about 100 MB, as the Hub has them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    entries = json.loads((folder / "labels_and_metadata.json").read_text())
    (folder / "labels_and_metadata.json").unlink()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema(
        [
            ("user_id", pa.string()),
            ("image_id", pa.int64()),
            ("labels", texts),
            ("partition", pa.string()),
            ("fine_grained_labels", texts),
            ("image", image),
        ]
    )
    for split, count in (("train", 10), ("val", 2), ("test", 2)):
        mine = [{**entry, "image_id": int(entry["image_id"])} for entry in entries if entry["partition"] == split]
        for number, part in enumerate(np.array_split(np.arange(len(mine)), count)):
            path = folder / f"{split}-{number:05d}-of-{count:05d}.parquet"
            with pq.ParquetWriter(path, schema, compression="snappy") as writer:
                for rows in np.array_split(part, max(1, len(part) // 7500)):
                    some = [mine[i] for i in rows]
                    images = [{"bytes": picture(made, e["image_id"]), "path": f"{e['image_id']}.jpg"} for e in some]
                    writer.write_table(
                        pa.Table.from_pylist([{**e, "image": i} for e, i in zip(some, images, strict=True)], schema)
                    )


# What is measured


def run(*command: object) -> dict[str, Any]:
    """A command's output, its seconds and peak memory, and when it said what."""
    start = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[tuple[float, str]] = []
    listener = threading.Thread(
        target=lambda: said.extend((time.perf_counter() - start, line.strip()) for line in process.stderr or ())
    )
    listener.start()
    out = process.stdout.read()
    listener.join()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("\n".join(line for _, line in said))
    return {
        "out": out.strip().splitlines(),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_MB": usage.ru_maxrss // 1024,
        "steps": [f"{seconds:.1f} s: {line}" for seconds, line in said],
    }


def unpack_and_copy(source: Path, folder: Path) -> dict[str, float]:
    """`tar -xzf` of every archive, then `cp -r` of what came out."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "unpacked").mkdir(parents=True)
    start = time.perf_counter()
    for path in sorted(source.glob("*.tar.gz")):
        subprocess.run(["tar", "-xzf", str(path), "-C", str(folder / "unpacked")], check=True)
    unpacked = time.perf_counter()
    subprocess.run(["cp", "-r", str(folder / "unpacked"), str(folder / "copy")], check=True)
    done = time.perf_counter()
    shutil.rmtree(folder)
    return {"tar": unpacked - start, "cp": done - unpacked, "seconds": done - start}


def warm(source: Path) -> None:
    """Reads the copy, so that both sides find in the page cache what fits there."""
    for path in sorted(source.iterdir()):
        subprocess.run(["cat", str(path)], check=True, stdout=subprocess.DEVNULL)


READ = """
import json, random, sys, time
import fedrsic_data
start = time.perf_counter()
subset = fedrsic_data.open(sys.argv[1]).subset("flair")
clients = subset.clients
opened = time.perf_counter() - start
chosen = random.Random(0).sample(clients, min(200, len(clients)))
def read(client):
    start = time.perf_counter()
    rows = sum(subset.client(client).read(split).num_rows for split in subset.splits)
    assert rows
    return 1000 * (time.perf_counter() - start)
first, again = [read(c) for c in chosen], [read(c) for c in chosen]
def words(ms):
    ms = sorted(ms)
    return {"p50": ms[len(ms) // 2], "p99": ms[int(len(ms) * 0.99)], "max": ms[-1]}
print(json.dumps({"open_s": opened, "clients": len(clients), "first_client_ms": first[0], "first": words(first),
                  "again": words(again)}))
"""


def measure(folder: Path, *, hub: bool) -> dict[str, Any]:
    source, out = folder / ("hub" if hub else "source"), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    result: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    if not hub:
        warm(source)
        result["tar+cp"] = unpack_and_copy(source, folder / "plain")
    warm(source)
    cli = [sys.executable, ROOT / "cli.py"]
    result["build"] = run(*cli, "build", "flair", "--source", f"flair={source}", "--out", out)
    rows = json.loads((out / "manifest.json").read_text())["subsets"]["flair"]["rows"]
    files = [path for path in out.rglob("*") if path.is_file()]
    result |= {
        "images": sum(rows.values()),
        "source_MB": round(sum(path.stat().st_size for path in source.iterdir()) / 1e6),
        "written_MB": round(sum(path.stat().st_size for path in files) / 1e6),
        "files": len(files),
        "read": json.loads(run(sys.executable, "-c", READ, out)["out"][-1]),
        "verify": run(*cli, "verify", out),
    }
    return result


def iter_gates(result: dict[str, Any]) -> Iterator[tuple[str, bool, str]]:
    build, read = result["build"], result["read"]
    yield "peak memory at most 1 GB", build["peak_MB"] <= 1000, f"{build['peak_MB']} MB"
    if "tar+cp" in result:
        part = result["tar+cp"]["seconds"] / build["seconds"]
        yield "at least a third of the rate of tar + cp", part >= 1 / 3, f"{part:.2f}"
    yield "opened within 1 s", read["open_s"] <= 1, f"{read['open_s']:.2f} s"
    slowest = max(read["first"]["max"], read["again"]["max"])
    yield "any client read within 20 ms", slowest <= 20, f"slowest of 200: {slowest:.1f} ms"
    yield "fewer than 100 files", result["files"] < 100, f"{result['files']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where to work")
    parser.add_argument("--users", type=int, default=sum(USERS.values()), help="about how many")
    parser.add_argument("--hub", action="store_true", help="the Hub's form instead of Apple's")
    parser.add_argument("--json", type=Path, help="write the result there too")
    parser.add_argument("--generate", action="store_true", help="only make the copy")
    arguments = parser.parse_args()
    source = arguments.folder / ("hub" if arguments.hub else "source")
    scale = arguments.users / sum(USERS.values())
    if arguments.generate:
        generate(source, scale, hub=arguments.hub)
        return
    if not source.exists():  # in a separate process: the memory of this one is inherited by those that are measured
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--generate"], check=True)
    result = measure(arguments.folder, hub=arguments.hub)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    for gate, passed, words in iter_gates(result):
        print(f"{'PASS' if passed else 'FAIL'}  {gate}: {words}")


if __name__ == "__main__":
    main()
