"""Downloads over a real loopback server that can misbehave in every way we handle."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request

import pytest

from fedrsic_data.errors import DownloadError, OutputError, UsageError
from fedrsic_data.raw import download
from fedrsic_data.raw.download import fetch
from fedrsic_data.raw.remote import RemoteFile

BODY = bytes(range(251)) * 8000  # 2 MB, no period of a block's length
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


# What the server does; ``script`` holds one behaviour per request, then it behaves.
SITE = {"body": BODY, "etag": '"one"', "modified": None, "kind": "application/zip", "length": True}
SITE |= {"ranges": True, "if_range": True, "total": True}


class Handler(BaseHTTPRequestHandler):
    log_message = lambda *_: None  # noqa: E731

    def do_GET(self) -> None:
        site = self.server.site
        site.seen.append((self.path, dict(self.headers)))
        act = site.script.pop(0) if site.script else {}
        if "call" in act:
            act["call"](site)
        if "status" in act:
            return self.head(act["status"], act.get("headers", {}))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        known = self.headers.get("If-Range") in {None, site.etag, site.modified} or not site.if_range
        start, status, total, headers = 0, 200, len(site.body), {"Content-Type": site.kind}
        if wanted and site.ranges and known:
            start, status = int(wanted[1]), 206
            if start >= total:
                return self.head(416, {"Content-Range": f"bytes */{total}"})
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total if site.total else '*'}"
        if site.length:
            headers["Content-Length"] = str(total - start)
        self.head(status, headers | {"ETag": site.etag, "Last-Modified": site.modified})
        self.wfile.write(site.body[start:][: act.get("drop")])
        if "hang" in act:
            act["hang"].wait(5)
        return None

    def head(self, status: int, headers: dict[str, str | None]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No proxies, no tokens, no waiting: the seconds asked for are collected instead."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(download, "_sleep", asked.append)
    return asked


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    with ExitStack() as servers:

        def start(**how: Any) -> Any:
            server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            server.handle_error = lambda *_: None  # a client that hangs up is part of the game
            url = f"http://127.0.0.1:{server.server_port}/data.zip"
            server.site = SimpleNamespace(**{**SITE, "script": [], "seen": [], "url": url, **how})
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()
            servers.callback(server.server_close)
            servers.callback(server.shutdown)
            return server.site

        yield start


def remote(site: Callable[..., Any], **facts: Any) -> RemoteFile:
    return RemoteFile(site.url, "data.zip", **facts)


def say(status: int, **headers: Any) -> dict[str, Any]:
    """One answer of nothing but a status, with headers spelt with underscores."""
    return {"status": status, "headers": {name.replace("_", "-"): value for name, value in headers.items()}}


def fails(
    remotes: Sequence[RemoteFile], folder: Path, match: str, kind: type[Exception] = DownloadError, **how: Any
) -> str:
    with pytest.raises(kind, match=match) as caught:
        fetch(remotes, folder, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def ranges(site: Callable[..., Any]) -> list[Any]:
    return [headers.get("Range") for _, headers in site.seen]


def test_downloads_verifies_records_and_reports(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, calls, hashed, entry = serve(), [], [], download._entry
    monkeypatch.setattr(download, "_entry", lambda *a: hashed.append(a) or entry(*a))
    facts = {"size": len(BODY), "sha256": SHA256.upper()}
    path = fetch([remote(site, **facts)], tmp_path / "a" / "b", progress=lambda *c: calls.append(c))
    assert (path, path.read_bytes()) == (tmp_path / "a" / "b" / "data.zip", BODY)
    assert leftovers(path.parent) == ["checksums.json", "data.zip"]
    assert (len(hashed), calls[-1]) == (1, (len(BODY), len(BODY)))
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})
    entry = json.loads((path.parent / "checksums.json").read_text())["data.zip"]
    assert (entry["sha256"], entry["bytes"], entry["url"]) == (SHA256, len(BODY), site.url)
    assert re.fullmatch(r"fedkit/[\w.+]+", site.seen[0][1]["User-Agent"])


def test_a_present_file_needs_no_network_and_is_hashed_once(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = serve()
    (tmp_path / "data.zip").write_bytes(BODY)
    with monkeypatch.context() as patch:  # as in a read-only folder
        patch.setattr(download, "_record", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
        fetch([remote(site, sha256=SHA256)], tmp_path)
    fetch([remote(site, sha256=SHA256)], tmp_path)
    monkeypatch.setattr(download, "_entry", lambda *_: pytest.fail("hashed again"))
    fetch([remote(site, sha256=SHA256)], tmp_path)
    assert site.seen == []


def test_a_changed_file_is_noticed_in_spite_of_its_stamp(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = fetch([remote(serve(), sha256=SHA256)], tmp_path)
    path.write_bytes(BODY[:-1] + b"!")
    fails([remote(serve(), sha256=SHA256)], tmp_path, rf"data\.zip: has sha256 \w+ where {SHA256} is pub.*; delete")
    path.write_bytes(b"abc")
    fails([remote(serve(), size=7)], tmp_path, "has 3 bytes where 7 are published")
    path.write_bytes(BODY)
    fetch([remote(serve(), sha256=SHA256)], tmp_path)
    fails([remote(serve(), sha256="0" * 64)], tmp_path, "0" * 64)  # a new one counts at once


DATED = {"etag": 'W/"weak"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}


@pytest.mark.parametrize("how", [{}, DATED, {"total": False}], ids=["etag", "date", "total not told"])
def test_a_dropped_connection_is_resumed(
    serve: Callable[..., Any], tmp_path: Path, waits: list[float], how: Any
) -> None:
    site, calls = serve(script=[{"drop": 700_000}, {"drop": 300_000}], **how), []
    path = fetch([remote(site, sha256=SHA256)], tmp_path, progress=lambda *c: calls.append(c))
    assert path.read_bytes() == BODY
    assert ranges(site) == [None, "bytes=700000-", "bytes=1000000-"]
    assert site.seen[1][1]["If-Range"] == how.get("modified", '"one"')
    assert (calls[-1], waits) == ((len(BODY), len(BODY)), [1.0, 2.0])


def test_an_interrupted_process_is_resumed_by_the_next(serve: Callable[..., Any], tmp_path: Path) -> None:
    site, stop = serve(), iter([None, None])
    with pytest.raises(StopIteration):
        fetch([remote(site)], tmp_path, progress=lambda *_: next(stop))
    have = (tmp_path / "data.zip.part").stat().st_size
    assert not (tmp_path / "data.zip").exists()
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert ranges(site) == [None, f"bytes={have}-"]


@pytest.mark.parametrize(("how", "asked"), [({"etag": None}, None), ({"ranges": False}, "bytes=1000-")])
def test_no_validator_or_no_ranges_starts_over(
    serve: Callable[..., Any], tmp_path: Path, how: dict[str, Any], asked: str | None
) -> None:
    site = serve(script=[{"drop": 1000}], **how)
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert ranges(site) == [None, asked]


@pytest.mark.parametrize("if_range", [True, False], ids=["honest", "ignores If-Range"])
def test_a_file_that_changes_midway_is_never_spliced(serve: Callable[..., Any], tmp_path: Path, if_range: bool) -> None:
    new = {"body": BODY[::-1], "etag": '"two"'}
    change = {"call": lambda site: vars(site).update(new)}
    site = serve(if_range=if_range, script=[{"drop": 900_000}, change])
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY[::-1]


def test_a_part_of_one_mirror_is_not_spliced_into_another(serve: Callable[..., Any], tmp_path: Path) -> None:
    first, second = serve(script=[{"drop": 1000}, say(404)]), serve(body=BODY[::-1])
    assert fetch([remote(first), remote(second)], tmp_path).read_bytes() == BODY[::-1]
    assert ranges(second) == [None]


OURS = '{"url": "URL", "validator": "\\"one\\""}'
ALIEN = '{"url": "http://elsewhere/", "validator": "x"}'


@pytest.mark.parametrize(
    ("part", "side", "requests"),
    [
        (BODY, OURS, 1),
        (BODY + b"more", OURS, 2),
        *((b"junk", side, 1) for side in ("", "{", "[]", '{"url": 1}', ALIEN)),
    ],
)
def test_a_part_found_whole_too_long_or_of_unknown_origin(
    serve: Callable[..., Any], tmp_path: Path, part: Any, side: Any, requests: Any
) -> None:
    site = serve()
    (tmp_path / "data.zip.part").write_bytes(part)
    (tmp_path / "data.zip.part.json").write_text(side.replace("URL", site.url))
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert len(site.seen) == requests
    assert (ranges(site)[0] is None) == (side != OURS)


def test_passing_errors_are_retried_and_bounded(serve: Callable[..., Any], tmp_path: Path, waits: list[float]) -> None:
    site = serve(script=[say(503), say(429, Retry_After="7"), say(500), say(502)])
    assert fetch([remote(site)], tmp_path / "a").read_bytes() == BODY
    assert waits == [1.0, 7, 4.0, 8.0]
    waits.clear()
    site = serve(script=[say(429, Retry_After="9" * 9)] * 50)
    fails([remote(site)], tmp_path / "b", "HTTP 429, given up after 3 attempts", attempts=3)
    assert (len(site.seen), waits) == (3, [120.0, 120.0])


def test_attempts_count_anew_after_progress(serve: Callable[..., Any], tmp_path: Path) -> None:
    body = BODY * 3
    site = serve(body=body, script=[{"drop": 1_500_000}] * 3)
    assert fetch([remote(site)], tmp_path, attempts=2).read_bytes() == body
    stuck = serve(body=body, ranges=False, script=[{"drop": 1_500_000}] * 50)
    other = replace(remote(stuck), filename="other.zip")
    fails([other], tmp_path, "closed after 1,500,000 of 6,024,000 bytes, given up after 2", attempts=2)


@pytest.mark.parametrize("sent", [0, 600_000])
def test_a_silent_server_times_out(serve: Callable[..., Any], tmp_path: Path, sent: int) -> None:
    hang = threading.Event()
    site = serve(script=[{"drop": sent, "hang": hang} if sent else {"call": lambda _: hang.wait(5)}])
    assert fetch([remote(site)], tmp_path, timeout=0.2).read_bytes() == BODY
    hang.set()
    assert ranges(site) == [None, "bytes=524288-" if sent else None]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_goes_straight_to_the_next_mirror(
    serve: Callable[..., Any], tmp_path: Path, waits: list[float], status: int
) -> None:
    first, second = serve(script=[say(status)] * 9), serve()
    assert fetch([remote(first), remote(second)], tmp_path).read_bytes() == BODY
    assert (len(first.seen), len(second.seen), waits) == (1, 1, [])


def test_when_all_fail_one_line_says_what_was_tried(serve: Callable[..., Any], tmp_path: Path) -> None:
    gone, closed = serve(script=[say(404)]), "http://127.0.0.1:9/data.zip?secret=1"
    remotes = [remote(gone), RemoteFile(closed, "data.zip")]
    message = fails(remotes, tmp_path, "; check the network, or fetch the file yourself", attempts=2)
    assert "secret" not in message
    for piece in (f"{gone.url}: HTTP 404", "127.0.0.1:9/data.zip: no connection", "--source NAME=PATH"):
        assert piece in message


@pytest.mark.parametrize(
    ("how", "facts", "reason"),
    [
        ({}, {"size": len(BODY) - 1}, r"offers 2,008,000 bytes where 2,007,999 are expected"),
        ({}, {"size": len(BODY) + 1}, r"offers 2,008,000 bytes where 2,008,001 are expected"),
        ({"length": False}, {"size": len(BODY) - 1}, r"has 2008000 bytes where 2007999 are published"),
        ({"length": False}, {"size": len(BODY) + 1}, r"closed after 2,008,000 of 2,008,001 bytes"),
        ({"kind": "text/html; charset=utf-8"}, {}, "HTML page"),
        ({}, {"sha256": "0" * 64}, f"{SHA256} where 0{{64}} is published; the partial file was removed"),
        ({}, {"md5": "0" * 32}, f"has md5 {MD5} where 0{{32}} is published"),
        ({"script": [say(304)]}, {}, "HTTP 304"),
        ({"script": [say(204)]}, {}, "HTTP 204"),
    ],
)
def test_what_is_not_the_file_is_refused(
    serve: Callable[..., Any], tmp_path: Path, how: dict[str, Any], facts: dict[str, Any], reason: str
) -> None:
    site, calls = serve(**how), []
    fails([remote(site, **facts)], tmp_path, reason, attempts=1, progress=lambda done, _: calls.append(done))
    assert bool(calls) != reason.startswith(("offers", "HTML", "HTTP"))  # refused before its body
    assert not (tmp_path / "data.zip").exists()
    assert (leftovers(tmp_path) == []) != ("closed after" in reason)
    assert len(site.seen) == 1


def test_an_endless_body_is_cut_off(serve: Callable[..., Any], tmp_path: Path) -> None:
    site, calls = serve(length=False), []
    fails([remote(site, size=9)], tmp_path, "where 9 are", progress=lambda done, _: calls.append(done))
    assert len(calls) == 1


def test_md5_is_checked_where_it_is_all_there_is(serve: Callable[..., Any], tmp_path: Path) -> None:
    fetch([remote(serve(), md5=MD5)], tmp_path)
    entry = json.loads((tmp_path / "checksums.json").read_text())["data.zip"]
    assert (entry["md5"], entry["sha256"]) == (MD5, SHA256)


def test_without_a_published_checksum_the_first_use_is_binding(serve: Callable[..., Any], tmp_path: Path) -> None:
    path = fetch([remote(serve())], tmp_path)
    path.write_bytes(b"other")
    fails([remote(serve())], tmp_path, rf"data\.zip: has sha256 \w+ where {SHA256} is in checksums\.json")
    path.unlink()
    fetch([RemoteFile(serve().url, "another.zip")], tmp_path)  # its record leaves the first one be
    fails([remote(serve(body=b"other"))], tmp_path, rf"where {SHA256} is in checksums\.json")
    assert fetch([remote(serve())], tmp_path).read_bytes() == BODY


def test_damaged_records_are_named(serve: Callable[..., Any], tmp_path: Path) -> None:
    for text in ("{", "[]", '{"data.zip": 3}'):
        (tmp_path / "checksums.json").write_text(text)
        fails([remote(serve())], tmp_path, r"checksums\.json: .*; fix it or delete it")


def test_redirects_are_followed_only_over_http(serve: Callable[..., Any], tmp_path: Path) -> None:
    end = serve()
    site = serve(script=[say(302, Location=end.url)])
    assert fetch([remote(site)], tmp_path / "a").read_bytes() == BODY
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    for there in (secret.as_uri(), "ftp://127.0.0.1/data.zip", "data:,x", "http://[", site.url):
        loop = serve(script=[say(301, Location=there)] * 20)
        if there == site.url:  # back and forth
            site.script = [say(302, Location=loop.url)] * 20
        fails([remote(loop)], tmp_path / "b", r"redirects|HTTP 30", attempts=1)
        assert leftovers(tmp_path / "b") == []


def test_https_is_never_left() -> None:
    ask = download._Redirects().redirect_request
    with pytest.raises(download._MirrorError, match="from https to http, which is refused"):
        ask(Request("https://a/x"), None, 302, "Found", {}, "http://a/x")
    for old in ("https://a/x", "http://a/x"):
        assert ask(Request(old), None, 302, "Found", {}, "https://b/x").full_url == "https://b/x"


def test_the_token_goes_to_its_host_alone(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = serve()
    home = serve(script=[say(302, Location="/moved.zip"), say(302, Location=store.url)])
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    monkeypatch.setenv("HF_ENDPOINT", home.url.removesuffix("/data.zip"))
    fetch([remote(home)], tmp_path)
    assert [path for path, _ in home.seen] == ["/data.zip", "/moved.zip"]
    assert [headers.get("Authorization") for _, headers in home.seen] == ["Bearer hf_secret"] * 2
    assert "Authorization" not in store.seen[0][1]
    assert download._request("https://huggingface.co/x", 0, "").has_header("Authorization")
    for url in ("http://hf.co/x", "https://hf.co.evil.example/x", "https://zenodo.org/x"):
        assert not download._request(url, 0, "").has_header("Authorization")
    asked = download._request("https://hf.co/x", 0, "")
    places = {"https://cdn/x": False, "https://huggingface.co/x": False, "https://hf.co/y": True}
    for there, kept in places.items():
        moved = download._Redirects().redirect_request(asked, None, 302, "", {}, there)
        assert moved.has_header("Authorization") is kept
    monkeypatch.setenv("HF_TOKEN", "hf_se cret")
    with pytest.raises(UsageError, match="HF_TOKEN") as caught:
        download._request("https://hf.co/x", 0, "")
    assert "cret" not in str(caught.value)


def test_a_folder_without_room_is_named(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        fails([remote(serve())], tmp_path, f"{tmp_path}: has no room for 2,008,000 more bytes", OutputError)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # the system refuses to write on
    try:
        fails([remote(serve())], tmp_path, rf"{tmp_path}: cannot be written \(File too large\)", OutputError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "data.zip").exists()
    (tmp_path / "file").touch()
    fails([remote(serve())], tmp_path / "file", "file: cannot be written", OutputError)


def test_many_at_once_share_one_download(serve: Callable[..., Any], tmp_path: Path) -> None:
    site, children = serve(), []
    for _ in range(3):
        if not (child := os.fork()):
            try:
                os._exit(fetch([remote(site)], tmp_path).read_bytes() != BODY)
            finally:
                os._exit(2)
        children.append(child)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch([remote(site)], tmp_path), range(4)))
    assert [path.read_bytes() == BODY for path in paths] == [True] * 4
    assert ([os.waitpid(child, 0)[1] for child in children], len(site.seen)) == ([0, 0, 0], 1)


def test_remotes_are_sound_and_share_what_any_of_them_publishes(tmp_path: Path) -> None:
    fails([], tmp_path, "give at least one", UsageError)
    for url in ("ftp://a/x", "file:///x", "https:///x", "http://a/a b", "http://u@a/x", "http://a/\r\nX: y"):
        fails([RemoteFile(url, "x")], tmp_path, "is not an http or https address", UsageError)
    for name in ("../x", "..", "", "a\\b", "a\0"):
        fails([RemoteFile("https://a/x", name)], tmp_path, "is not a plain file name", UsageError)
    for other in (RemoteFile("https://b/x", "y"), RemoteFile("https://b/x", "x", size=2)):
        fails([RemoteFile("https://a/x", "x", size=1), other], tmp_path, "make them agree", UsageError)
    mirrors = download._mirrors([RemoteFile("http://a/x", "x", sha256="AB"), RemoteFile("https://b/x", "x", size=3)])
    assert mirrors == [RemoteFile("https://b/x", "x", 3, "ab"), RemoteFile("http://a/x", "x", 3, "ab")]
