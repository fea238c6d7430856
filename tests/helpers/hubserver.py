"""A Hugging Face Hub for tests: enough of its protocol for huggingface_hub 1 and 2, on the standard library alone.

It keeps every commit, so that a test can look at all that a repository ever showed; it counts what it sends; and it can
be told to fail. ``python tests/hubserver.py`` serves an empty one, to try things by hand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITER, READER = "hf_writerwriterwriterwriterwriter", "hf_readerreaderreaderreaderreader"
LFS = (".parquet",)  # what the default .gitattributes of a dataset keeps out of git


@dataclass(frozen=True)
class Blob:
    """A file of a commit: its bytes, or where they are; ``lfs`` its digest where git holds a pointer only."""

    size: int
    oid: str
    lfs: str | None
    data: bytes | Path | None

    def bytes(self, start: int, end: int) -> bytes:
        if isinstance(self.data, bytes):
            return self.data[start:end]
        assert self.data is not None, "its bytes went to Xet storage"
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[str] = field(default_factory=list)

    def at(self, revision: str) -> Commit | None:
        pull = re.fullmatch(r"refs/pr/(\d+)", revision)
        if pull:
            number = int(pull[1])
            return self.commits[self.pulls[number - 1]] if number <= len(self.pulls) else None
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(sha)

    def add(self, branch: str | None, title: str, files: dict[str, Blob], parent: str | None) -> Commit:
        told = json.dumps([len(self.commits), title, parent, sorted((p, b.oid) for p, b in files.items())])
        commit = Commit(hashlib.sha1(told.encode()).hexdigest(), parent, title, files)
        self.commits[commit.sha] = commit
        if branch is not None:
            self.branches[branch] = commit.sha
        return commit


@dataclass
class Fault:
    """What goes wrong: at requests of a method whose path matches, ``times`` times.

    ``status`` is an answer; ``drop`` closes the connection at once, ``drop-after`` when the work is done.
    """

    method: str
    path: str
    status: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    status: int
    sent: int
    received: int


class Hub:
    """The server's state. Every change holds ``lock``."""

    def __init__(self, folder: Path, *, xet: bool = False) -> None:
        self.folder, self.xet = folder, xet
        self.repos: dict[str, Repo] = {}
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.before_commit: Callable[[], None] | None = None
        self.lock = threading.RLock()
        self.endpoint = ""

    def blob(self, path: str, data: bytes | Path) -> Blob:
        """A file as a commit holds it."""
        raw = data if isinstance(data, bytes) else data.read_bytes()
        lfs = hashlib.sha256(raw).hexdigest() if path.endswith(LFS) else None
        held = (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{lfs}\nsize {len(raw)}\n".encode() if lfs else raw
        )
        return Blob(len(raw), hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest(), lfs, data)

    def adopt(self, name: str, folder: Path) -> Repo:
        """A repository of the files of a folder, which are left where they are."""
        repo = self.repos[name] = Repo(private=False)
        files = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        repo.add("main", "adopted", {path: self.blob(path, file) for path, file in files.items()}, None)
        return repo

    def put(self, name: str, branch: str, **files: bytes) -> None:
        """Somebody else's commit."""
        with self.lock:
            repo = self.repos[name]
            head = repo.commits[repo.branches[branch]]
            repo.add(branch, "elsewhere", head.files | {p: self.blob(p, d) for p, d in files.items()}, head.sha)

    def store(self, name: str, oid: str) -> Path:
        """Where a repository's large file is, or would be."""
        folder = self.folder / name.replace("/", "--")
        folder.mkdir(exist_ok=True)
        return folder / (oid or "none")

    def sent(self, pattern: str = "") -> int:
        """Bytes of bodies that went out for paths that match."""
        return sum(one.sent for one in self.seen if re.search(pattern, one.path))

    def changed(self) -> list[Seen]:
        """Requests that change or upload something."""
        harmless = r"validate-yaml|paths-info|preupload"
        return [one for one in self.seen if one.method not in ("GET", "HEAD") and not re.search(harmless, one.path)]


def broken(repo: Repo) -> list[str]:
    """What is wrong with any commit that a repository ever showed: a manifest, or a card, without what it tells of."""
    found = []
    for commit in repo.commits.values():
        if "manifest.json" not in commit.files:
            if any(path.endswith(".parquet") for path in commit.files):
                found.append(f"{commit.title}: shards without a manifest")
            continue
        blob = commit.files["manifest.json"]
        told = json.loads(blob.bytes(0, blob.size))
        shards = [shard for subset in told["subsets"].values() for shard in subset["shards"]]
        reference = told.get("reference", False)
        for file in (told["plan"], told["clients"], told["card"], *([] if reference else shards)):
            held = commit.files.get(file["path"])
            if held is None:
                found.append(f"{commit.title}: {file['path']} is missing")
            elif file["path"].endswith(LFS) and held.lfs != file["sha256"]:
                found.append(f"{commit.title}: {file['path']} is another")
        known = {told["plan"]["path"], told["clients"]["path"], *(() if reference else (s["path"] for s in shards))}
        found += [f"{commit.title}: {p} is stale" for p in commit.files if p.endswith(LFS) and p not in known]
    return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - as http.server calls them

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self._fault()
        try:
            if fault is None:
                self._route()
            elif fault.status == "drop":
                self._seen(0, 0)
                self._hang_up()
            elif fault.status == "drop-after":
                self.wfile, out = _Nowhere(), self.wfile  # type: ignore[assignment]
                self._route()
                self.wfile = out
                self._hang_up()
            else:
                assert isinstance(fault.status, int)
                self._json(fault.status, {"error": f"told to fail with {fault.status}"}, fault.headers)
        except (KeyError, ValueError, AttributeError, TypeError) as error:  # a request it does not understand
            self._json(418, {"error": f"{type(error).__name__}: {error}"})

    def _seen(self, status: int, sent: int) -> None:
        """Counts a request before it is answered: whoever has the answer finds it counted."""
        with self.hub.lock:
            self.hub.seen.append(Seen(self.command, self.route, status, sent, len(self.body)))

    def _fault(self) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, self.route):
                    fault.times -= 1
                    return fault
        return None

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self) -> None:
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, self.route)
            if match and self.command in method.split():
                with self.hub.lock:
                    answer(self, **match.groupdict())
                return
        self._json(404, {"error": f"no route {self.command} {self.route}"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        sent = b"" if self.command == "HEAD" else body
        self._seen(status, len(sent))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def _json(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _missing(self, code: str) -> None:
        self._json(404, {"error": code}, {"X-Error-Code": code, "X-Error-Message": code})

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _may(self, need: str) -> bool:
        token = self._token()
        if token not in ((WRITER, READER) if need == "read" else (WRITER,)):
            status = 403 if token == READER else 401
            self._json(status, {"error": "Invalid credentials"}, {"X-Error-Message": "Invalid credentials"})
            return False
        return True

    def _repo(self, name: str, need: str = "read") -> Repo | None:
        repo = self.hub.repos.get(name)
        token = self._token()
        if token is not None and token not in (WRITER, READER):
            self._may("read")
        elif repo is None or (repo.private and token is None):
            self._missing("RepoNotFound")
        elif need == "read" or self._may(need):
            return repo
        return None

    def _commit_at(self, name: str, revision: str) -> tuple[Repo, Commit] | None:
        repo = self._repo(name)
        if repo is None:
            return None
        commit = repo.at(revision)
        if commit is None:
            self._missing("RevisionNotFound")
            return None
        return repo, commit

    def create(self) -> None:
        data = json.loads(self.body)
        name = f"{data['organization']}/{data['name']}"
        if not self._may("write"):
            return
        if name in self.hub.repos:
            self._json(409, {"error": "exists", "url": f"{self.hub.endpoint}/datasets/{name}"})
            return
        repo = self.hub.repos[name] = Repo(private=bool(data.get("private")) or data.get("visibility") == "private")
        repo.add("main", "initial commit", {".gitattributes": self.hub.blob(".gitattributes", b"*.parquet\n")}, None)
        self._json(200, {"url": f"{self.hub.endpoint}/datasets/{name}", "name": name, "id": name})

    def validate(self) -> None:
        self._json(200, {"errors": [], "warnings": []})

    def whoami(self) -> None:
        if self._may("read"):
            self._json(200, {"name": "me", "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def info(self, name: str, revision: str = "main") -> None:
        if found := self._commit_at(name, revision):
            repo, commit = found
            siblings = [{"rfilename": path} for path in commit.files]
            fields = {"id": name, "sha": commit.sha, "private": repo.private, "siblings": siblings, "tags": []}
            self._json(200, {**fields, "downloads": 0, "likes": 0})

    def preupload(self, name: str, revision: str) -> None:
        repo = self._repo(name, "read" if self.query.get("create_pr") else "write")
        if repo is None:
            return
        head = repo.at(revision)
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["path"].endswith(LFS) else "regular"
            oid = head.files[file["path"]].oid if head and file["path"] in head.files else None
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json(200, {"files": files})

    def batch(self, name: str) -> None:
        if self._repo(name, "read") is None:
            return
        data = json.loads(self.body)
        objects: list[dict[str, Any]] = []
        for one in data["objects"]:
            there = self.hub.store(name, one["oid"]).exists()
            action = {"upload": {"href": f"{self.hub.endpoint}/lfs/{name}/{one['oid']}", "header": {}}}
            objects.append({**one, **({} if there else {"actions": action})})
        transfer = "xet" if self.hub.xet and "xet" in data["transfers"] else "basic"
        self._json(200, {"transfer": transfer, "objects": objects})

    def upload(self, name: str, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._json(400, {"error": "digest differs"})
            return
        self.hub.store(name, oid).write_bytes(self.body)
        self._json(200, {})

    def xet_token(self, name: str, revision: str) -> None:
        if not self.hub.xet:
            self._json(404, {"error": "no Xet here"})
        elif self._repo(name) is not None:
            cas = self.hub.folder / "cas"
            cas.mkdir(exist_ok=True)
            given = {"casUrl": f"local://{cas}", "accessToken": "xet", "exp": 4102444800}
            headers = {
                "X-Xet-Cas-Url": given["casUrl"],
                "X-Xet-Access-Token": "xet",
                "X-Xet-Token-Expiration": "4102444800",
            }
            self._json(200, given, headers)  # type: ignore[arg-type]

    def commit(self, name: str, revision: str) -> None:
        pull = bool(self.query.get("create_pr"))
        repo = self._repo(name, "read" if pull else "write")
        if repo is None or (self._token() is None and not self._may("read")):
            return
        if self.hub.before_commit is not None:
            self.hub.before_commit, act = None, self.hub.before_commit
            act()
        head = repo.at(revision)
        if head is None:
            self._missing("RevisionNotFound")
            return
        lines = [json.loads(line) for line in self.body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent is not None and parent != head.sha and not pull:
            self._json(412, {"error": "A commit has happened since. Please refresh and try again."})
            return
        files = self._applied(name, head.files, lines[1:])
        if files is None:
            return
        done = repo.add(
            None if pull or revision.startswith("refs/pr/") else revision, lines[0]["value"]["summary"], files, head.sha
        )
        if pull:
            repo.pulls.append(done.sha)
        elif revision.startswith("refs/pr/"):
            repo.pulls[int(revision[8:]) - 1] = done.sha
        url = f"{self.hub.endpoint}/datasets/{name}"
        self._json(200, {
            "success": True,
            "commitOid": done.sha,
            "commitUrl": f"{url}/commit/{done.sha}",
            "pullRequestUrl": f"{url}/discussions/{len(repo.pulls)}" if pull else None,
        })  # fmt: skip

    def _applied(self, name: str, files: dict[str, Blob], lines: list[dict[str, Any]]) -> dict[str, Blob] | None:
        """The files after a commit's operations; None where it is refused."""
        files = dict(files)
        for line in lines:
            value = line["value"]
            path, place = value["path"], self.hub.store(name, value.get("oid", ""))
            if line["key"] == "deletedFile" and path in files:
                del files[path]
            elif line["key"] == "file":
                files[path] = self.hub.blob(path, base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile" and place.is_file():
                files[path] = self.hub.blob(path, place)
            elif line["key"] == "lfsFile" and self.hub.xet:
                files[path] = Blob(value["size"], value["oid"][:40], value["oid"], None)
            else:
                self._json(400, {"error": f"{line['key']} {path}: cannot be done"})
                return None
        return files

    def _entry(self, path: str, blob: Blob) -> dict[str, Any]:
        lfs = {"lfs": {"oid": blob.lfs, "size": blob.size, "pointerSize": 130}} if blob.lfs else {}
        return {"type": "file", "path": path, "size": blob.size, "oid": blob.oid, **lfs}

    def tree(self, name: str, revision: str, path: str | None) -> None:
        found = self._commit_at(name, revision)
        if found is None:
            return
        below = f"{path.strip('/')}/" if path else ""
        entries: dict[str, dict[str, Any]] = {}
        for file, blob in found[1].files.items():
            if not file.startswith(below):
                continue
            steps = file[len(below) :].split("/")
            for depth in range(1, len(steps)):
                folder = below + "/".join(steps[:depth])
                if depth == 1 or "recursive" in self.query:
                    entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            if len(steps) == 1 or self.query.get("recursive", ["false"])[0].lower() == "true":
                entries[file] = self._entry(file, blob)
        if not entries:
            self._missing("EntryNotFound")
            return
        self._json(200, list(entries.values()))

    def paths_info(self, name: str, revision: str) -> None:
        if found := self._commit_at(name, revision):
            asked = self.body.decode()
            paths = json.loads(asked)["paths"] if asked.startswith("{") else parse_qs(asked).get("paths", [])
            files = found[1].files
            shown = [self._entry(path, files[path]) for path in paths if path in files]
            folders = [p for p in paths if p not in files and any(f.startswith(f"{p.strip('/')}/") for f in files)]
            self._json(200, shown + [{"type": "directory", "path": p, "size": 0, "oid": "0" * 40} for p in folders])

    def resolve(self, name: str, revision: str, path: str) -> None:
        found = self._commit_at(name, revision)
        if found is None:
            return
        commit = found[1]
        if path not in commit.files:
            self._missing("EntryNotFound")
            return
        blob = commit.files[path]
        headers = {"ETag": f'"{blob.lfs or blob.oid}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else blob.size) if wanted else (0, blob.size)
        if self.command == "HEAD":
            self._answer(200, b"", {**headers, "Content-Length": str(blob.size)})
        elif wanted:
            ranged = {**headers, "Content-Range": f"bytes {start}-{min(end, blob.size) - 1}/{blob.size}"}
            self._answer(206, blob.bytes(start, end), ranged)
        else:
            self._answer(200, blob.bytes(0, blob.size), headers)

    def refs(self, name: str) -> None:
        if repo := self._repo(name):
            shown = {
                kind: [{"name": n, "ref": f"refs/{path}/{n}", "targetCommit": sha} for n, sha in held.items()]
                for kind, path, held in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
            }
            self._json(200, {**shown, "converts": []})

    def history(self, name: str, revision: str) -> None:
        if found := self._commit_at(name, revision):
            repo, commit = found
            shown: list[dict[str, Any]] = []
            at: Commit | None = commit
            while at is not None:
                shown.append(
                    {"id": at.sha, "title": at.title, "message": "", "authors": [], "date": "2026-01-01T00:00:00Z"}
                )
                at = repo.commits.get(at.parent or "")
            self._json(200, shown, {"X-Total-Count": str(len(shown))})

    def branch(self, name: str, branch: str) -> None:
        repo = self._repo(name, "write")
        if repo is None:
            return
        if branch in repo.branches:
            self._json(409, {"error": "exists"})
            return
        start = json.loads(self.body or b"{}").get("startingPoint") or "main"
        repo.branches[branch] = repo.branches.get(start, start)
        self._json(200, {})

    def tag(self, name: str, revision: str) -> None:
        repo = self._repo(name, "write")
        if repo is None:
            return
        tag, commit = json.loads(self.body)["tag"], repo.at(revision)
        if tag in repo.tags:
            self._json(409, {"error": "exists"})
        elif commit is None:
            self._missing("RevisionNotFound")
        else:
            repo.tags[tag] = commit.sha
            self._json(200, {})

    def untag(self, name: str, revision: str) -> None:
        repo = self._repo(name, "write")
        if repo is not None and repo.tags.pop(revision, None) is None:
            self._missing("RevisionNotFound")
        elif repo is not None:
            self._json(200, {})


class _Nowhere:
    def write(self, data: bytes) -> int:
        return len(data)

    def flush(self) -> None: ...


_ID, _REV = r"(?P<name>[^/]+/[^/]+)", r"(?P<revision>refs/pr/\d+|[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("GET", rf"/api/datasets/{_ID}", _Handler.info),
    ("GET", rf"/api/datasets/{_ID}/revision/{_REV}", _Handler.info),
    ("POST", rf"/api/datasets/{_ID}/preupload/{_REV}", _Handler.preupload),
    ("POST", rf"/datasets/{_ID}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", rf"/lfs/{_ID}/(?P<oid>[0-9a-f]{{64}})", _Handler.upload),
    ("GET", rf"/api/datasets/{_ID}/xet-write-token/{_REV}", _Handler.xet_token),
    ("POST", rf"/api/datasets/{_ID}/commit/{_REV}", _Handler.commit),
    ("GET", rf"/api/datasets/{_ID}/tree/{_REV}(?P<path>/.*)?", _Handler.tree),
    ("POST", rf"/api/datasets/{_ID}/paths-info/{_REV}", _Handler.paths_info),
    ("GET HEAD", rf"/datasets/{_ID}/resolve/{_REV}/(?P<path>.+)", _Handler.resolve),
    ("GET", rf"/api/datasets/{_ID}/refs", _Handler.refs),
    ("GET", rf"/api/datasets/{_ID}/commits/{_REV}", _Handler.history),
    ("POST", rf"/api/datasets/{_ID}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("POST", rf"/api/datasets/{_ID}/tag/{_REV}", _Handler.tag),
    ("DELETE", rf"/api/datasets/{_ID}/tag/{_REV}", _Handler.untag),
]


@contextmanager
def serving(folder: Path, *, xet: bool = False) -> Iterator[Hub]:
    """A Hub on a free port of this machine, stopped at the end."""
    hub = Hub(folder, xet=xet)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch)) as served:
        print(f"HF_ENDPOINT={served.endpoint} HF_TOKEN={WRITER} HF_HUB_DISABLE_XET=1")
        threading.Event().wait()
