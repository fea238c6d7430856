"""Tables on disk, and the memory of a build, which does not grow with its images."""

from __future__ import annotations

import errno
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest
from conftest import environment

from fedrsic_data.build import disk_table, memory
from fedrsic_data.build.disk_table import Spilled
from fedrsic_data.errors import OutputError


def a_table(rows: int) -> pa.Table:
    rng = np.random.default_rng(rows)
    texts = [None if i % 7 == 3 else f"größe-{i}" for i in range(rows)]
    lists = [rng.integers(0, 9, rng.integers(0, 4)).tolist() for _ in range(rows)]
    table = pa.table(
        {
            "text": pa.array(texts, pa.string()),
            "labels": pa.array(lists, pa.list_(pa.int32())),
            "domain": pa.array([f"d{i % 3}" for i in range(rows)], pa.string()).dictionary_encode(),
            "nothing": pa.nulls(rows, pa.string()),
            "origin": pa.array(np.arange(rows, dtype=np.int32)),
        }
    )
    return pa.concat_tables([table.slice(0, rows // 3), table.slice(rows // 3)])


def same(spilled: pa.Table, wanted: pa.Table) -> bool:
    spilled.validate(full=True)
    return spilled.schema == wanted.schema and spilled.to_pylist() == wanted.to_pylist()


@pytest.mark.parametrize("rows", [0, 1, 9, 10, 11, 95])
@pytest.mark.parametrize("batch", [10, 1000], ids=["on disk", "in memory"])
def test_a_spilled_table_reads_as_it_was(rows: int, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_table, "_BATCH", batch)
    table = a_table(rows)
    spilled = Spilled.of(table)
    assert (spilled.num_rows, spilled.column_names) == (rows, table.column_names)
    for name in table.column_names:
        assert spilled.column(name).to_pylist() == table.column(name).to_pylist()
    for start in (0, 1, 9, 10, 19, rows):
        for length in (0, 1, 10, 11, 1000):
            assert same(spilled.slice(start, length), table.slice(start, length))
    assert same(spilled.select(["origin", "text"]).slice(0, rows), table.select(["origin", "text"]))
    order = np.random.default_rng(1).permutation(rows)[: rows // 2]
    more = pa.array(np.arange(rows // 2))
    taken = spilled.take(order).append_column("more", more)
    assert same(taken.slice(0, rows), table.take(pa.array(order)).append_column("more", more))
    assert same(spilled.slice(0, rows), table)  # which is not changed


def test_threads_may_read_a_spilled_table_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_table, "_BATCH", 16)
    table = a_table(1000)
    spilled = Spilled.of(table)
    with ThreadPoolExecutor(8) as pool:
        slices = list(pool.map(lambda start: spilled.slice(start, 40), range(0, 1000, 10)))
    assert all(same(part, table.slice(10 * i, 40)) for i, part in enumerate(slices))


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed otherwise elsewhere")
def test_its_files_go_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(disk_table, "_BATCH", 10)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    spilled = Spilled.of(a_table(100))
    assert list(tmp_path.iterdir()) == []  # they have no names: nothing stays behind, however the process ends
    assert len(os.listdir("/proc/self/fd")) > before
    del spilled
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_no_room_for_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert Spilled.of(a_table(100)).num_rows == 100  # which is small enough for memory
    monkeypatch.setattr(disk_table, "_BATCH", 10)
    with pytest.raises(OutputError, match=r"gone: cannot hold temporary files \(No such file.*set TMPDIR"):
        Spilled.of(a_table(11))


def test_too_many_open_files_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(disk_table, "_BATCH", 10)
    monkeypatch.setattr(disk_table, "_newest", [])
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(OutputError, match=r"cannot hold temporary files \(Too many open files\); raise ulimit -n"):
        Spilled.of(a_table(11))


@pytest.mark.skipif(sys.platform != "linux", reason="open files are listed otherwise elsewhere")
def test_many_tables_need_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_table, "_BATCH", 10)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    table = a_table(100)
    tables = [Spilled.of(table).append_column("more", pa.array(range(100))) for _ in range(30)]
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert all(same(one.select(table.column_names).slice(0, 100), table) for one in tables)
    monkeypatch.setattr(disk_table, "_FULL", 1000)  # each file is full at once
    more = [Spilled.of(table) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) > before + 3
    del more
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_leaves_the_tables_of_the_first_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_table, "_BATCH", 10)
    table = a_table(100)
    spilled = Spilled.of(table)
    child = os.fork()
    if not child:
        os._exit(0 if same(Spilled.of(a_table(300)).slice(0, 300), a_table(300)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    more = Spilled.of(table)
    assert same(spilled.slice(0, 100), table)
    assert same(more.slice(0, 100), table)


@pytest.mark.parametrize(
    ("limit", "most", "words"), [("RLIMIT_FSIZE", 20_000, r"File too large\); free space there, or set TMPDIR")]
)
def test_limits_of_the_system_are_said(tmp_path: Path, limit: str, most: int, words: str) -> None:
    code = (
        "import resource, signal, sys\n"
        "import cli\n"
        "from fedrsic_data.build import disk_table\n"
        "disk_table._BATCH = 10\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.{limit}, ({most}, {most}))\n"
        "cli.main()"
    )
    options = ["build", "fed-rsic", "--sample", "--dry-run", "--set", "sample.per_class=99"]
    env = environment()
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert re.fullmatch(rf"error: /\S+: cannot hold temporary files \({words}", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr


def test_the_allocator_is_as_before_whatever_happens() -> None:
    before = pa.default_memory_pool().backend_name
    with memory.returned():
        assert pa.default_memory_pool().backend_name == "system"
    assert pa.default_memory_pool().backend_name == before
    with pytest.raises(KeyError), memory.returned():
        raise KeyError
    assert pa.default_memory_pool().backend_name == before


BUILD = """
import resource, sys
import cli
from fedrsic_data import sample
from fedrsic_data.sources.sample import SceneContainer
one = sample.encode(sample.render("beach", "ucmerced", seed=0, index=0, size=32))
SceneContainer.read = lambda self, keys: [bytes(bytearray(one)) for _ in keys]  # one picture, which costs no time
sys.argv = ["fedkit", "build", "fed-rsic", "--subset", "fed-ucmerced", "--sample", "--json", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what is free is kept elsewhere")
def test_the_memory_of_a_build_does_not_grow_with_its_images(tmp_path: Path) -> None:
    def peak(per_class: int) -> int:
        settings = ["--set", f"sample.per_class={per_class}", "--set", "sample.size=32"]
        out = tmp_path / str(per_class)
        shutil.rmtree(out, ignore_errors=True)
        command = [sys.executable, "-c", BUILD, *settings, "--out", str(out)]
        # the command says so itself, but here pyarrow is imported before it
        env = environment(ARROW_DEFAULT_MEMORY_POOL="system")
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=True)
        return int(done.stderr.split()[-1])

    # both fill the windows in which images are read, and the row groups of the plan; what else the machine does can
    # only add to a peak, so that the least of several counts
    few, many = [peak(3500)], [peak(9524)]
    while min(many) - min(few) >= 10 and len(many) < 3:
        few.append(peak(3500))
        many.append(peak(9524))
    assert min(many) - min(few) < 10, (few, many)  # it was 14
