"""Kills what writes, at many moments, and prints what the next call made of it as JSON; see ``test_writes_killed.py``.

Each attempt is a fork that dies just before its n-th change to the file system, or, where it publishes, at the n-th
request that the Hub gets of it. No clock is asked: the moments are the same every time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hubserver
from conftest import contents

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOMENTS = 20


def changes(event: str, args: tuple[Any, ...]) -> bool:
    """Whether an event of Python's audit changes a file system."""
    if event == "open":
        nowhere = str(args[0]).startswith(("/dev/", "/proc/")) or os.path.isdir(args[0])  # a file without a name
        return bool((args[2] or 0) & WRITES) and not nowhere
    return event in CHANGES


def attempt(work: Callable[[], object], kill_at: int | None = None) -> tuple[int, str]:
    """9: killed; 0: done, with the changes it made; 1: failed, with the words."""
    words, pen = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(words)
        count, seen = itertools.count(1), [0]

        def heard(event: str, args: tuple[Any, ...]) -> None:
            if changes(event, args):
                seen[0] = next(count)
                if seen[0] == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(heard)
        code = 0
        try:
            work()
            os.write(pen, str(seen[0]).encode())
        except BaseException as error:
            os.write(pen, f"{type(error).__name__}: {error}".encode())
            code = 1
        os._exit(code)
    os.close(pen)
    return ended(child, words)


def ended(child: int, words: int) -> tuple[int, str]:
    """How a fork came to its end, and what it said."""
    with os.fdopen(words, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(child, 0)[1]
    return 9 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), said


def digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents(folder).items()}


def moments(total: int) -> list[int]:
    """Twenty, spread over all, with the last six among them: there, things are put in place."""
    last = range(max(1, total - 5), total + 1)
    before = total - len(last)
    count = min(MOMENTS - len(last), before)
    return [*(1 + i * before // count for i in range(count)), *last]


def killed(top: Path, work: Callable[[Path], object], told: Callable[[Path], object], left: Path) -> dict[str, Any]:
    """Kills ``work`` at its moments; the next one has to complete it as if nothing had been."""
    (top / "reference").mkdir()
    code, said = attempt(lambda: work(top / "reference" / "out"))
    assert code == 0, said
    reference, untouched = told(top / "reference" / "out"), digests(left)
    kills, problems = 0, []
    for n in moments(int(said)):
        place = top / f"at-{n}"
        place.mkdir()
        for name in ("thesis.tex", "out.tmp", "out.notes"):
            (place / name).write_text("precious")
        beside = digests(place)
        code, said = attempt(lambda place=place: work(place / "out"), kill_at=n)
        kills += code == 9
        if code == 1:
            problems.append([n, f"was not killed: {said}"])
        code, said = attempt(lambda place=place: work(place / "out"))
        if code:
            problems.append([n, f"the next one fails: {said}"])
        elif told(place / "out") != reference:
            problems.append([n, "the next one gives something else"])
        if {name: digest for name, digest in digests(place).items() if not name.startswith("out/")} != beside:
            problems.append([n, f"beside it: {sorted(os.listdir(place))}"])
        shutil.rmtree(place)
    if digests(left) != untouched:
        problems.append([0, "the dataset was touched"])
    return {"kills": kills, "problems": problems}


def split_sites(top: Path, dataset: Path) -> dict[str, Any]:
    from fedrsic_data.derive import sites

    return killed(top, lambda out: sites.split(dataset, out), digests, dataset)


def fedlgt(top: Path, dataset: Path) -> dict[str, Any]:
    import torch
    from small_backbone import small_backbone

    torch.set_num_threads(1)
    from fedtrain import run
    from fedtrain.models import label_transformer

    label_transformer.backbone = small_backbone  # it is killed forty times
    sets = ["rounds=2", "clients_per_round=2", "epochs=1", "image_size=64", "max_images=1", "layers=1", "hidden=32"]
    sets += ["device=cpu", "clip=tiny", 'splits=["val"]']
    (config,) = run.configs("fedlgt", dataset, ["flair"], sets)
    run.train(config, top / "warm", cache=top / "cache")  # here, so that the forks need not

    def told(out: Path) -> object:
        found = contents(out)
        result = json.loads(found["result.json"])
        kept = {name: hashlib.sha256(found[name]).hexdigest() for name in found if name.startswith(("ch", "m", "co"))}
        return sorted(found), kept, {key: value for key, value in result.items() if key not in ("seconds", "seal")}

    return killed(top, lambda out: run.train(config, out, cache=top / "cache"), told, dataset)


class Deadly:
    """A Hub that kills who asks it for the n-th time: before it does what is asked, or when it has done it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._serve = folder, hubserver._Handler._serve
        self._at, self._before, self._child, self.asked = 0, False, 0, 0
        hubserver._Handler._serve = lambda handler: self._answer(handler)  # type: ignore[method-assign]

    def _answer(self, handler: Any) -> None:
        self.asked += 1
        now = self.asked == self._at
        if not (now and self._before):
            self._serve(handler)
        if now:
            os.kill(self._child, signal.SIGKILL)
            handler.close_connection = True

    def attempt(self, work: Callable[[], object], at: int = 0, *, before: bool = False) -> tuple[int, str]:
        """As ``attempt``; ``asked`` says how often the Hub was asked."""
        self._at, self._before, self.asked = at, before, 0
        words, pen = os.pipe()
        gate, opens = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.read(gate, 1)
            code = 0
            try:
                work()
            except BaseException as error:
                os.write(pen, f"{type(error).__name__}: {error}".encode())
                code = 1
            os._exit(code)
        os.write(opens, b".")
        for end in (pen, gate, opens):
            os.close(end)
        return ended(self._child, words)


def published(top: Path, dataset: Path) -> dict[str, Any]:
    with hubserver.serving(top) as hub:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(top / "home"), "HF_HUB_DISABLE_XET": "1"}
        os.environ |= {"HF_TOKEN": hubserver.WRITER, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        from fedrsic_data.dataset.reader import Dataset
        from fedrsic_data.publish import run
        from fedrsic_data.publish.upload import Target

        what = run.contents(Dataset(dataset), "me/fed", reference_only=False, redistribute=False)
        run.contents = lambda *_, **__: what  # its pictures take longest, and are the same every time
        deadly, untouched = Deadly(top), digests(dataset)

        def publish(at: int = 0, *, before: bool = False) -> tuple[int, str]:
            return deadly.attempt(lambda: run.publish(dataset, Target("me/fed")), at, before=before)

        assert publish() == (0, "")
        total, reference = deadly.asked, shown(hub.repos["me/fed"])
        kills, problems = 0, list[Any]()
        for n, before in zip(moments(total), itertools.cycle((True, False)), strict=False):
            hub.repos.clear()
            shutil.rmtree(top / "me--fed")
            kills += publish(n, before=before)[0] == 9
            for repo in hub.repos.values():
                problems += [[n, before, found] for found in hubserver.broken(repo)]
            code, said = publish()
            if code or shown(hub.repos["me/fed"]) != reference:
                problems.append([n, before, said or "the next one gives something else"])
        if digests(dataset) != untouched:
            problems.append([0, "the dataset was touched"])
        return {"kills": kills, "problems": problems}


def shown(repo: hubserver.Repo) -> object:
    """What a repository shows: its files, and those of its tags."""

    def files(sha: str) -> dict[str, str]:
        return {path: blob.oid for path, blob in repo.commits[sha].files.items()}

    return files(repo.branches["main"]), {tag: files(sha) for tag, sha in repo.tags.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        kinds = {"split_sites": split_sites, "fedlgt": fedlgt, "published": published}
        print(json.dumps(kinds[sys.argv[1]](Path(scratch), Path(sys.argv[2]))))
