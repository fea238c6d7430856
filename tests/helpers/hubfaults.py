"""Publishes while a Hub fails in every way it can, and prints what came of it as JSON; see ``test_publish_faults.py``.

It runs in a process of its own, because the Hub's address is read when huggingface_hub is imported.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hubserver import READER, WRITER, Fault, Hub, broken, serving

COMMIT, LFS, TAG = r"/commit/", r"^/lfs/", r"/tag/"
FAULTS: dict[str, Fault] = {
    "500": Fault("POST", COMMIT, 500),
    "503 twice": Fault("POST", COMMIT, 503, times=2),
    "dropped": Fault("POST", COMMIT, "drop"),
    "dropped when done": Fault("POST", COMMIT, "drop-after"),
    "409": Fault("POST", COMMIT, 409),
    "429": Fault("POST", COMMIT, 429, headers={"Retry-After": "37"}),
    "upload 503": Fault("PUT", LFS, 503, times=3),
    "upload dropped": Fault("PUT", LFS, "drop"),
    "preupload 500": Fault("POST", "/preupload/", 500),
    "batch 503": Fault("POST", "/objects/batch", 503),
    "tree dropped": Fault("GET", "/tree/", "drop"),
    "question 502": Fault("GET", r"/api/datasets/me/[^/]+$", 502),
    "tag 503": Fault("POST", TAG, 503),
    "for ever": Fault("POST", COMMIT, 500, times=1000),
    "429 for a day": Fault("POST", COMMIT, 429, times=1000, headers={"Retry-After": "86400"}),
    "401": Fault("POST", COMMIT, 401, times=1000),
    "403": Fault("POST", COMMIT, 403, times=1000),
    "tag for ever": Fault("POST", TAG, 503, times=1000),
    "upload for ever": Fault("PUT", LFS, 500, times=1000),
}


def main(first: Path, second: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as hub:
        home = Path(folder) / "home"
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
        from fedrsic_data.dataset.reader import Dataset
        from fedrsic_data.publish.contents import contents

        waited: list[float] = []
        time.sleep = waited.append  # type: ignore[assignment]
        import fedrsic_data.dataset.hub

        fedrsic_data.dataset.hub._sleep = waited.append
        old, new = (contents(Dataset(p), "me/any", reference_only=False, redistribute=False) for p in (first, second))
        found = {
            name: case(hub, name, old, new, waited, lambda f=f: hub.faults.append(f)) for name, f in FAULTS.items()
        }
        found["branch moved"] = case(hub, "branch moved", old, new, waited, lambda: moved(hub))
        found["wrong token"] = case(hub, "wrong token", old, new, waited, lambda: login("hf_nobodynobodynobody"))
        found["reader's token"] = case(hub, "reader's token", old, new, waited, lambda: login(READER))
        found["pull request lost"] = pull_request(hub, old, new)
        print(json.dumps(found))


def login(token: str) -> None:
    os.environ["HF_TOKEN"] = token


def moved(hub: Hub) -> None:
    """Somebody else commits while the bytes are sent."""
    hub.before_commit = lambda: hub.put("me/branch-moved", "main", **{"NOTES.md": b"mine"})


def pull_request(hub: Hub, old: Any, new: Any) -> dict[str, Any]:
    """The connection breaks when a pull request was just opened: whether it was, nobody knows."""
    from fedrsic_data.errors import HubError
    from fedrsic_data.publish.upload import Target, send

    send(Target("me/asked"), old.items, old.tag, "the first")
    hub.faults.append(Fault("POST", COMMIT, "drop-after"))
    try:
        send(Target("me/asked", create_pr=True), new.items, new.tag, "the second")
    except HubError as caught:
        return {"error": str(caught), "pulls": len(hub.repos["me/asked"].pulls)}
    return {"error": "", "pulls": len(hub.repos["me/asked"].pulls)}


def case(hub: Hub, name: str, old: Any, new: Any, waited: list[float], fail: Callable[[], None]) -> dict[str, Any]:
    """Publishes one dataset, then another in its place while something fails, then that one twice more."""
    from fedrsic_data.errors import FedkitError
    from fedrsic_data.publish.upload import Target, send

    repo = "me/" + "".join(c if c.isalnum() else "-" for c in name)
    target = Target(repo)
    send(target, old.items, old.tag, "the first")
    waited.clear()
    hub.seen.clear()
    fail()
    error = ""
    try:
        send(target, new.items, new.tag, "the second")
    except FedkitError as caught:
        error = f"{type(caught).__name__}: {caught}"
    commits = sum(one.method == "POST" and "/commit/" in one.path for one in hub.seen)
    uploads = sum(one.method == "PUT" and one.status == 200 for one in hub.seen)
    hub.faults.clear()
    login(WRITER)
    shown = {"error": error, "waited": waited[:], "commits": commits, "uploads": uploads}
    hub.seen.clear()
    send(target, new.items, new.tag, "the third")
    shown["sent again"] = sum(one.method == "PUT" for one in hub.seen)
    hub.seen.clear()
    last = send(target, new.items, new.tag, "the fourth")
    held = hub.repos[repo]
    files = held.commits[held.branches["main"]].files
    return {
        **shown,
        "changed": [f"{one.method} {one.path}" for one in hub.changed()],
        "broken": broken(held),
        "titles": [commit.title for commit in held.commits.values()],
        "whole": all(item.path in files and files[item.path].size == item.bytes for item in new.items),
        "tagged": held.tags.get(new.tag) == last.commit,
        "kept": "NOTES.md" in files,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
