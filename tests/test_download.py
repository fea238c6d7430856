"""Downloads over a real loopback server that can misbehave in every way we handle."""

import hashlib
import json
import os
import re
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.request import Request

import pytest

from fedrsic_data import download
from fedrsic_data.download import Remote, fetch
from fedrsic_data.errors import DownloadError, OutputError, UsageError

BODY = bytes(range(251)) * 8000  # 2 MB, no period of a block's length
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()


@dataclass
class Site:
    """What the server does; ``script`` holds one behaviour per request, then it behaves."""

    body: bytes = BODY
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    kind: str = "application/zip"
    length: bool = True
    script: list = field(default_factory=list)
    seen: list = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site
        site.seen.append((self.path, dict(self.headers)))
        act = site.script.pop(0) if site.script else {}
        if "call" in act:
            act["call"](site)
        if "status" in act:
            self.send_response(act["status"])
            for name, value in act.get("headers", {}).items():
                self.send_header(name, value)
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        known = self.headers.get("If-Range") in {None, site.etag, site.modified} or not site.if_range
        start, body = 0, site.body
        if wanted and site.ranges and known:
            start = int(wanted[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", site.kind)
        if site.length:
            self.send_header("Content-Length", str(len(body) - start))
        for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if "drop" in act:
            self.wfile.write(body[start : start + act["drop"]])
            self.close_connection = True
        else:
            self.wfile.write(body[start:])


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No proxies, no tokens, no waiting: the seconds asked for are collected instead."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(download, "_sleep", asked.append)
    return asked


@pytest.fixture
def serve():
    servers = []

    def start(**how):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # a client that hangs up is part of the game
        server.site = Site(**how)
        server.site.url = f"http://127.0.0.1:{server.server_port}/data.zip"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server.site

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join(5)


def remote(site, **facts):
    return Remote(site.url, "data.zip", **facts)


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def ranges(site):
    return [headers.get("Range") for _, headers in site.seen]


def test_downloads_verifies_records_and_reports(serve, tmp_path):
    site, calls = serve(), []
    path = fetch(
        [remote(site, size=len(BODY), sha256=SHA256.upper())],
        tmp_path / "a" / "b",
        progress=lambda *c: calls.append(c),
    )
    assert path == tmp_path / "a" / "b" / "data.zip"
    assert path.read_bytes() == BODY
    assert leftovers(path.parent) == ["checksums.json", "data.zip"]
    assert calls[-1] == (len(BODY), len(BODY))
    assert [c[0] for c in calls] == sorted({c[0] for c in calls})
    entry = json.loads((path.parent / "checksums.json").read_text())["data.zip"]
    assert (entry["sha256"], entry["bytes"], entry["url"]) == (SHA256, len(BODY), site.url)
    assert re.fullmatch(r"fedkit/[\w.+]+", site.seen[0][1]["User-Agent"])


def test_a_present_file_needs_no_network_and_is_hashed_once(serve, tmp_path, monkeypatch):
    site = serve()
    (tmp_path / "data.zip").write_bytes(BODY)
    fetch([remote(site, sha256=SHA256)], tmp_path)
    monkeypatch.setattr(download, "_entry", lambda *_: pytest.fail("hashed again"))
    fetch([remote(site, sha256=SHA256)], tmp_path)
    assert site.seen == []


def test_a_changed_file_is_noticed_in_spite_of_its_stamp(serve, tmp_path):
    path = fetch([remote(serve(), sha256=SHA256)], tmp_path)
    path.write_bytes(BODY[:-1] + b"!")
    with pytest.raises(DownloadError, match=rf"data\.zip: has sha256 \w+ where {SHA256} is published; delete"):
        fetch([remote(serve(), sha256=SHA256)], tmp_path)
    path.write_bytes(b"abc")
    with pytest.raises(DownloadError, match="has 3 bytes where 7 are published"):
        fetch([remote(serve(), size=7)], tmp_path)


def test_a_new_published_checksum_counts_at_once(serve, tmp_path):
    fetch([remote(serve(), sha256=SHA256)], tmp_path)
    with pytest.raises(DownloadError, match="0" * 64):
        fetch([remote(serve(), sha256="0" * 64)], tmp_path)


@pytest.mark.parametrize("validator", [{}, {"etag": 'W/"weak"', "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}])
def test_a_dropped_connection_is_resumed(serve, tmp_path, waits, validator):
    site = serve(script=[{"drop": 700_000}, {"drop": 300_000}], **validator)
    assert fetch([remote(site, sha256=SHA256)], tmp_path).read_bytes() == BODY
    assert ranges(site) == [None, "bytes=700000-", "bytes=1000000-"]
    assert site.seen[1][1]["If-Range"] == validator.get("modified", '"one"')
    assert waits == [1.0, 2.0]


def test_an_interrupted_process_is_resumed_by_the_next(serve, tmp_path):
    site = serve()

    def interrupt(done, total):
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([remote(site)], tmp_path, progress=interrupt)
    have = (tmp_path / "data.zip.part").stat().st_size
    assert not (tmp_path / "data.zip").exists()
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert ranges(site) == [None, f"bytes={have}-"]


def test_no_validator_or_no_ranges_starts_over(serve, tmp_path):
    bare = serve(etag=None, script=[{"drop": 1000}])
    assert fetch([remote(bare)], tmp_path / "a").read_bytes() == BODY
    assert ranges(bare) == [None, None]
    fixed = serve(ranges=False, script=[{"drop": 1000}])
    assert fetch([remote(fixed)], tmp_path / "b").read_bytes() == BODY
    assert ranges(fixed) == [None, "bytes=1000-"]


@pytest.mark.parametrize("if_range", [True, False], ids=["honest", "ignores If-Range"])
def test_a_file_that_changes_midway_is_never_spliced(serve, tmp_path, if_range):
    new = BODY[::-1]

    def change(site):
        site.body, site.etag = new, '"two"'

    site = serve(if_range=if_range, script=[{"drop": 900_000}, {"call": change}])
    assert fetch([remote(site)], tmp_path).read_bytes() == new


def test_a_part_of_one_mirror_is_not_spliced_into_another(serve, tmp_path):
    first, second = serve(script=[{"drop": 1000}, {"status": 404}]), serve(body=BODY[::-1])
    assert fetch([remote(first), remote(second)], tmp_path).read_bytes() == BODY[::-1]
    assert ranges(second) == [None]


@pytest.mark.parametrize("keep", [len(BODY), len(BODY) + 5], ids=["whole", "too long"])
def test_a_part_that_leaves_nothing_to_ask_for(serve, tmp_path, keep):
    site = serve()
    (tmp_path / "data.zip.part").write_bytes((BODY + b"extra")[:keep])
    (tmp_path / "data.zip.part.json").write_text(json.dumps({"url": site.url, "validator": '"one"'}))
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert len(site.seen) == (1 if keep == len(BODY) else 2)


@pytest.mark.parametrize("side", [None, "{", "[]", '{"url": 1}', '{"url": "http://elsewhere/", "validator": "x"}'])
def test_a_part_of_unknown_origin_is_dropped(serve, tmp_path, side):
    site = serve()
    (tmp_path / "data.zip.part").write_bytes(b"junk")
    if side:
        (tmp_path / "data.zip.part.json").write_text(side)
    assert fetch([remote(site)], tmp_path).read_bytes() == BODY
    assert ranges(site) == [None]


def test_passing_errors_are_retried_and_bounded(serve, tmp_path, waits):
    script = [
        {"status": 503},
        {"status": 429, "headers": {"Retry-After": "7"}},
        {"status": 500},
        {"status": 502},
    ]
    site = serve(script=script)
    assert fetch([remote(site)], tmp_path / "a").read_bytes() == BODY
    assert waits == [1.0, 7, 4.0, 8.0]
    waits.clear()
    site = serve(script=[{"status": 429, "headers": {"Retry-After": "9" * 9}}] * 50)
    with pytest.raises(DownloadError, match="HTTP 429, given up after 3 attempts"):
        fetch([remote(site)], tmp_path / "b", attempts=3)
    assert len(site.seen) == 3
    assert waits == [120.0, 120.0]


def test_attempts_count_anew_after_progress(serve, tmp_path):
    body = BODY * 3
    site = serve(body=body, script=[{"drop": 1_500_000}] * 3)
    assert fetch([remote(site)], tmp_path, attempts=2).read_bytes() == body
    stuck = serve(body=body, ranges=False, script=[{"drop": 1_500_000}] * 50)
    with pytest.raises(DownloadError, match="closed after 1,500,000 of 6,024,000 bytes, given up after 2"):
        fetch([replace(remote(stuck), filename="other.zip")], tmp_path, attempts=2)


def test_a_silent_server_times_out(serve, tmp_path):
    free = threading.Event()
    site = serve(script=[{"call": lambda _: free.wait(5)}])
    try:
        assert fetch([remote(site)], tmp_path, timeout=0.2).read_bytes() == BODY
    finally:
        free.set()
    assert len(site.seen) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_goes_straight_to_the_next_mirror(serve, tmp_path, waits, status):
    first, second = serve(script=[{"status": status}] * 9), serve()
    assert fetch([remote(first), remote(second)], tmp_path).read_bytes() == BODY
    assert (len(first.seen), len(second.seen), waits) == (1, 1, [])


def test_when_all_fail_one_line_says_what_was_tried(serve, tmp_path):
    gone, closed = serve(script=[{"status": 404}]), "http://127.0.0.1:9/data.zip?secret=1"
    with pytest.raises(DownloadError) as caught:
        fetch([remote(gone), Remote(closed, "data.zip")], tmp_path, attempts=2)
    message = str(caught.value)
    assert "\n" not in message
    assert "secret" not in message
    for piece in (
        f"{gone.url}: HTTP 404",
        "http://127.0.0.1:9/data.zip: no connection",
        "--source NAME=PATH",
    ):
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
        ({"script": [{"status": 304}]}, {}, "HTTP 304"),
        ({"script": [{"status": 204}]}, {}, "HTTP 204"),
    ],
)  # fmt: skip
def test_what_is_not_the_file_is_refused(serve, tmp_path, how, facts, reason):
    site = serve(**how)
    with pytest.raises(DownloadError, match=reason):
        fetch([remote(site, **facts)], tmp_path, attempts=1)
    assert not (tmp_path / "data.zip").exists()
    if "closed after" not in reason:
        assert leftovers(tmp_path) == []
    assert len(site.seen) == 1


def test_a_wrong_size_is_refused_before_the_body(serve, tmp_path):
    calls = []
    with pytest.raises(DownloadError):
        fetch([remote(serve(), size=5)], tmp_path, progress=lambda *c: calls.append(c))
    assert calls == []


def test_md5_is_checked_where_it_is_all_there_is(serve, tmp_path):
    path = fetch([remote(serve(), md5=MD5)], tmp_path)
    entry = json.loads((tmp_path / "checksums.json").read_text())["data.zip"]
    assert (entry["md5"], entry["sha256"]) == (MD5, SHA256)
    assert fetch([remote(serve(), md5=MD5)], tmp_path) == path


def test_without_a_published_checksum_the_first_use_is_binding(serve, tmp_path):
    path = fetch([remote(serve())], tmp_path)
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match=rf"data\.zip: has sha256 \w+ where {SHA256} is in checksums\.json"):
        fetch([remote(serve())], tmp_path)
    path.unlink()
    with pytest.raises(DownloadError, match=rf"where {SHA256} is in checksums\.json"):
        fetch([remote(serve(body=b"other"))], tmp_path)
    assert fetch([remote(serve())], tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("text", ["{", "[]", '{"data.zip": 3}'])
def test_damaged_records_are_named(serve, tmp_path, text):
    (tmp_path / "checksums.json").write_text(text)
    with pytest.raises(DownloadError, match=r"checksums\.json: .*; mend it or delete it"):
        fetch([remote(serve())], tmp_path)


def test_redirects_are_followed_only_over_http(serve, tmp_path):
    end = serve()
    site = serve(script=[{"status": 302, "headers": {"Location": end.url}}])
    assert fetch([remote(site)], tmp_path / "a").read_bytes() == BODY
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    for there in (secret.as_uri(), "ftp://127.0.0.1/data.zip", "data:,x", "http://[", site.url):
        loop = serve(script=[{"status": 301, "headers": {"Location": there}}] * 20)
        if there == site.url:  # back and forth
            site.script = [{"status": 302, "headers": {"Location": loop.url}}] * 20
        with pytest.raises(DownloadError, match=r"redirects|HTTP 30"):
            fetch([remote(loop)], tmp_path / "b", attempts=1)
        assert leftovers(tmp_path / "b") == []


def test_https_is_never_left():
    asked = Request("https://a.example/x")
    ask = download._Redirects().redirect_request
    with pytest.raises(download._MirrorError, match="from https to http, which is refused"):
        ask(asked, None, 302, "Found", {}, "http://a.example/x")
    assert ask(asked, None, 302, "Found", {}, "https://b.example/x").full_url == "https://b.example/x"
    plain = Request("http://a.example/x")
    assert ask(plain, None, 302, "Found", {}, "https://a.example/x").full_url == "https://a.example/x"


def test_the_token_goes_to_its_host_alone(serve, tmp_path, monkeypatch):
    store = serve()
    home = serve(script=[{"status": 302, "headers": {"Location": "/moved.zip"}},
                         {"status": 302, "headers": {"Location": store.url}}])  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    monkeypatch.setenv("HF_ENDPOINT", home.url.removesuffix("/data.zip"))
    fetch([remote(home)], tmp_path)
    assert [(path, h.get("Authorization")) for path, h in home.seen] == [
        ("/data.zip", "Bearer hf_secret"),
        ("/moved.zip", "Bearer hf_secret"),
    ]
    assert "Authorization" not in store.seen[0][1]
    for url in ("https://huggingface.co/x", "https://hf.co/x"):
        assert download._request(url, 0, "").has_header("Authorization")
    for url in ("http://hf.co/x", "https://hf.co.evil.example/x", "https://zenodo.org/x"):
        assert not download._request(url, 0, "").has_header("Authorization")
    moved = download._Redirects().redirect_request(
        download._request("https://huggingface.co/x", 0, ""), None, 302, "", {}, "https://cdn.example/x"
    )
    assert not moved.has_header("Authorization")
    monkeypatch.setenv("HF_TOKEN", "hf_se cret")
    with pytest.raises(UsageError, match="HF_TOKEN") as caught:
        download._request("https://hf.co/x", 0, "")
    assert "cret" not in str(caught.value)


def test_a_full_disk_names_the_folder(serve, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
        with pytest.raises(OutputError, match=f"{tmp_path}: has no room for 2,008,000 more bytes"):
            fetch([remote(serve())], tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))  # the system refuses to write on
    try:
        with pytest.raises(OutputError, match=rf"{tmp_path}: cannot be written \(File too large\)"):
            fetch([remote(serve())], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "data.zip").exists()


def test_a_folder_that_is_a_file_is_an_output_error(serve, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file: cannot be written"):
        fetch([remote(serve())], tmp_path / "file")


def test_many_at_once_share_one_download(serve, tmp_path):
    site = serve()
    with ThreadPoolExecutor(6) as pool:
        paths = list(pool.map(lambda _: fetch([remote(site, sha256=SHA256)], tmp_path), range(6)))
    assert {p.read_bytes() == BODY for p in paths} == {True}
    assert len(site.seen) == 1


def test_processes_do_not_corrupt_each_other(serve, tmp_path):
    site = serve()
    children = []
    for _ in range(3):
        if not (child := os.fork()):
            try:
                os._exit(0 if fetch([remote(site)], tmp_path).read_bytes() == BODY else 1)
            finally:
                os._exit(2)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    "remotes",
    [
        [],
        [Remote("ftp://a.example/x", "x")],
        [Remote("file:///etc/passwd", "x")],
        [Remote("https:///x", "x")],
        [Remote("https://a.example/a b", "x")],
        [Remote("https://a.example/x\r\nHost: b", "x")],
        [Remote("https://a.example/x", "../x")],
        [Remote("https://a.example/x", "..")],
        [Remote("https://a.example/x", "x"), Remote("https://b.example/x", "y")],
        [Remote("https://a.example/x", "x", size=1), Remote("https://b.example/x", "x", size=2)],
    ],
)
def test_malformed_remotes_are_refused(tmp_path, remotes):
    with pytest.raises(UsageError, match="; "):
        fetch(remotes, tmp_path)


def test_mirrors_share_what_any_of_them_publishes_https_first():
    mirrors = download._mirrors([Remote("http://a/x", "x", sha256="AB"), Remote("https://b/x", "x", size=3)])
    assert mirrors == [Remote("https://b/x", "x", 3, "ab"), Remote("http://a/x", "x", 3, "ab")]
