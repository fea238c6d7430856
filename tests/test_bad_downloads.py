"""Downloads that break, differ or never come: resumed by the next build, or one line."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Command, refused
from small_builds import nothing, zipped

from fedrsic_data.files.cache import cache_folder
from fedrsic_data.raw.remote import RemoteFile
from fedrsic_data.sources import SOURCES, mirror
from fedrsic_data.sources.base import Facts


class Site(BaseHTTPRequestHandler):
    """Serves one file; breaks off the first answers as often as the server says."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        body: bytes = self.server.body  # type: ignore[attr-defined]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append(start)  # type: ignore[attr-defined]
        self.send_response(206 if start else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        breaks = self.server.breaks  # type: ignore[attr-defined]
        self.wfile.write(body[start:][: breaks.pop(0) if breaks else None])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Puts a server on this machine in the place of UC Merced's."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    servers = []

    def start(**facts: Any) -> Any:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
        body = zipped(tmp_path / "served.zip").read_bytes()
        server.body, server.breaks, server.asked = body, [], []  # type: ignore[attr-defined]
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        remote = RemoteFile(f"http://127.0.0.1:{server.server_port}/ucmerced.zip", "UCMerced_LandUse.zip", **facts)
        known: Facts = SOURCES["ucmerced"].facts
        mine = replace(SOURCES["ucmerced"], facts=replace(known, downloads=(remote,)))  # type: ignore[type-var]
        monkeypatch.setitem(SOURCES, "ucmerced", mine)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def downloading(out: Path) -> list[object]:
    return ["build", "fed-rsic", "--subset", "fed-ucmerced", "--allow-partial", "--clients", 2, "--out", out]


def test_a_download_that_breaks_midway_is_resumed(command: Command, site: Callable[..., Any], tmp_path: Path) -> None:
    server = site()
    server.breaks = [len(server.body) // 3]
    assert command(*downloading(tmp_path / "out")).returncode == 0
    assert server.asked[0] == 0
    assert len(server.asked) == 2
    assert server.asked[1] > 0
    cached = cache_folder() / "sources/ucmerced"
    assert (cached / "UCMerced_LandUse.zip").read_bytes() == server.body
    assert not list(cached.glob("*.part*"))


def test_a_download_that_never_comes_is_one_line_and_resumed_by_the_next(
    command: Command, site: Callable[..., Any], tmp_path: Path
) -> None:
    server, out = site(), tmp_path / "out"
    server.breaks = [len(server.body) // 3] + [0] * 20
    refused(command(*downloading(out)), "ucmerced", "--source NAME=PATH", codes=(1,))
    nothing(out)
    server.breaks, server.asked = [], []
    assert command(*downloading(out)).returncode == 0
    assert server.asked[0] > 0


@pytest.mark.parametrize("facts", [{"sha256": "0" * 64}, {"size": 5}, {"md5": "0" * 32}], ids=["sha256", "size", "md5"])
def test_a_download_that_is_not_what_was_published(
    command: Command, site: Callable[..., Any], tmp_path: Path, facts: dict[str, Any]
) -> None:
    site(**facts)
    out = tmp_path / "out"
    refused(command(*downloading(out)), "UCMerced_LandUse.zip", codes=(1,))
    nothing(out)
    assert not list((cache_folder() / "sources/ucmerced").glob("*.zip"))


def test_a_cached_archive_that_has_changed_since(command: Command, site: Callable[..., Any], tmp_path: Path) -> None:
    site()
    assert command(*downloading(tmp_path / "one")).returncode == 0
    cached = cache_folder() / "sources/ucmerced/UCMerced_LandUse.zip"
    cached.write_bytes(zipped(tmp_path / "other.zip", ("beach/new.tif", b"x")).read_bytes())
    refused(command(*downloading(tmp_path / "two")), cached, codes=(1,))
    nothing(tmp_path / "two")


def test_no_network(command: Command, site: Callable[..., Any], tmp_path: Path) -> None:
    server, out = site(), tmp_path / "out"
    server.shutdown()
    server.server_close()
    refused(command(*downloading(out)), "check the network", codes=(1,))
    nothing(out)


def test_no_hub(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    out = tmp_path / "out"
    refused(command("build", "fed-rsic", "--subset", "fed-optimal", "--out", out), "optimal31", "--source", codes=(1,))
    nothing(out)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 5}'])
def test_damaged_records_of_the_hub(command: Command, tmp_path: Path, text: str) -> None:
    record = cache_folder() / "sources/optimal31/revisions.json"
    record.parent.mkdir(parents=True)
    record.write_text(text)
    done = command("build", "fed-rsic", "--subset", "fed-optimal", "--offline", "--out", tmp_path / "out")
    refused(done, codes=(1,))


def test_a_cache_that_cannot_be_written(
    command: Command, site: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEDKIT_CACHE", str(tmp_path / "file"))
    refused(command(*downloading(tmp_path / "out")), tmp_path / "file", codes=(1,))
    monkeypatch.setattr(mirror, "_resolve", lambda *_: "0" * 40)
    monkeypatch.setattr(mirror, "_download", lambda _repo, _commit, folder: folder.mkdir(parents=True))
    done = command("build", "fed-rsic", "--subset", "fed-optimal", "--out", tmp_path / "out")
    refused(done, tmp_path / "file", codes=(1,))
    nothing(tmp_path / "out")
