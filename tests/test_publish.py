"""From a built dataset to the Hub and back: what is published, and what others read of it."""

from __future__ import annotations

import html
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT, answer, contents, fedkit, make, refused, tiny_image
from hub_users import around, at, commands, python
from hubserver import READER, WRITER, Fault, Hub, Repo, broken, serving

import fedrsic_data
from fedrsic_data import recipes
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.flower import ClientPartitioner
from fedrsic_data.dataset.hub import Address, Ranges, address, patiently, pinned, speaking
from fedrsic_data.dataset.local import is_address
from fedrsic_data.dataset.manifest import Shard
from fedrsic_data.errors import HubError, ManifestError, OutputError, UsageError, VerificationError, discreet
from fedrsic_data.publish import rebuild
from fedrsic_data.publish.contents import contents as published
from fedrsic_data.publish.run import publish
from fedrsic_data.publish.upload import Target
from fedrsic_data.sources.locate import Places


@pytest.fixture(scope="module")
def barred(tmp_path_factory: pytest.TempPathFactory, optimal31: Path) -> Path:
    """A dataset whose images must not be published."""
    places = Places(given={"optimal31": str(optimal31)}, offline=True)
    return make(tmp_path_factory.mktemp("barred") / "fed", places, subset="fed-optimal").path


TRAIN = """
import sys
import torch
from datasets import load_dataset
import fedrsic_data
from fedtrain.data import ImageDataset

rows = load_dataset("me/fed", "fed-ucmerced")
assert sorted(rows) == ["test", "train"] and len(rows["train"]) == 101, rows
assert rows["train"].features["label"].names[0] == "agricultural"
client = fedrsic_data.open("hf://me/fed").subset("fed-ucmerced").client("client-0003")
mine = rows["train"].filter(lambda row: row["client_id"] == client.id)
assert mine["sample_id"] == client.read("train", ["sample_id"]).column(0).to_pylist()
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 21))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
losses = []
for _ in range(8):
    for images, labels in torch.utils.data.DataLoader(ImageDataset(client, "train"), batch_size=8):
        loss = torch.nn.functional.cross_entropy(model(images / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
assert losses[-1] < losses[0], losses
print("trained on", len(mine))

from huggingface_hub import snapshot_download

snapshot_download("me/fed", repo_type="dataset", local_dir=sys.argv[1])
"""


def test_publish_load_and_train_on_one_client(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    env = around(hub, tmp_path)
    done = fedkit("publish", sample_build, "--repo", "me/fed", **env)
    assert done.returncode == 0, done.stderr
    assert "load_dataset('me/fed', 'fed-ucmerced')" in done.stdout
    repo = hub.repos["me/fed"]
    assert broken(repo) == []
    assert not repo.private
    built = manifest.load(sample_build)
    assert repo.tags == {f"plan-{built.plan.digest[:12]}": repo.branches["main"]}
    for shard in manifest.shards(built):
        assert at(hub)[shard.path] == (sample_build / shard.path).read_bytes()
    assert python(TRAIN, env, tmp_path / "copy").startswith("trained on ")
    assert fedkit("verify", tmp_path / "copy").returncode == 0, "what was downloaded is proved"

    hub.seen.clear()
    again = answer(fedkit("publish", sample_build, "--repo", "me/fed", "--json", **env))
    assert (again["sent"], again["deleted"]) == ([], [])
    assert hub.changed() == []

    run = fedkit("train", "zeroshot", "--manifest", "hf://me/fed", "--out", tmp_path / "run", "--json", **env)
    assert run.returncode == 0, run.stderr
    config = json.loads((tmp_path / "run/config.json").read_text())["config"]
    assert config["manifest"] == f"hf://me/fed@{repo.branches['main']}", "the run says at which commit"
    everything = [done.stdout, done.stderr, run.stderr, run.stdout]
    everything += [p.read_text("utf-8", "replace") for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(WRITER in text for text in everything), "the token is nowhere"


def test_the_default_upload_path(sample_build: Path, tmp_path: Path) -> None:
    """Xet: shards go to its own storage, here a folder; the commit names them by their digests."""
    pytest.importorskip("hf_xet")
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", xet=True) as hub:
        env = around(hub, tmp_path, HF_HUB_DISABLE_XET="0")
        done = fedkit("publish", sample_build, "--repo", "me/fed", **env)
        assert done.returncode == 0, done.stderr
        assert not any(one.path.startswith("/lfs/") for one in hub.seen)
        stored = sum(p.stat().st_size for p in (tmp_path / "hub/cas").rglob("*") if p.is_file())
        assert stored > sum(shard.bytes for shard in manifest.shards(manifest.load(sample_build))) / 2
        repo = hub.repos["me/fed"]
        assert broken(repo) == []
        assert len(repo.commits) == 2, "one commit, however many files"
        again = answer(fedkit("publish", sample_build, "--repo", "me/fed", "--json", **env))
        assert again["sent"] == []


def test_images_are_kept_back_unless_asked_for(barred: Path, optimal31: Path, hub: Hub, tmp_path: Path) -> None:
    env = around(hub, tmp_path)
    done = fedkit("publish", barred, "--repo", "me/fed", **env)
    assert done.returncode == 0, done.stderr
    assert "no licence is known to let OPTIMAL-31 be published again" in done.stderr
    assert "--redistribute" in done.stderr
    files = at(hub)
    assert sorted(p for p in files if p.endswith(".parquet")) == ["clients.parquet", "plan.parquet"]
    assert json.loads(files["manifest.json"])["reference"] is True
    assert not any(one.received > 200_000 for one in hub.seen)
    at_home = ("--source", f"optimal31={optimal31}", "--offline")
    rebuilt = fedkit("build", "hf://me/fed", *at_home, "--out", tmp_path / "again", **env)
    assert rebuilt.returncode == 0, rebuilt.stderr
    here, there = contents(barred), contents(tmp_path / "again")
    assert {p: d for p, d in here.items() if p.endswith(".parquet")} == {
        p: d for p, d in there.items() if p.endswith(".parquet")
    }
    assert manifest.load(tmp_path / "again").plan.digest == json.loads(files["manifest.json"])["plan"]["digest"]

    other = Path(shutil.copytree(optimal31, tmp_path / "other"))
    image = other / "OPTIMAL-31/beach/beach(7).jpg"
    image.write_bytes(tiny_image(200_000, ".jpg"))
    given = ("--source", f"optimal31={other}", "--offline", "--out", tmp_path / "wrong")
    refused(fedkit("build", "hf://me/fed", *given, **env), "has other bytes here than in hf://me/fed@", codes=(1,))
    assert not (tmp_path / "wrong").exists()
    refused(fedkit("build", "hf://me/fed", *at_home, "--alpha", "1", **env), "resplit", codes=(2,))

    asked = answer(fedkit("publish", barred, "--repo", "me/fed", "--redistribute", "--json", **env))
    assert len([one for one in asked["sent"] if one["path"].endswith(".parquet")]) > 10
    assert broken(hub.repos["me/fed"]) == []
    back = answer(fedkit("publish", barred, "--repo", "me/fed", "--reference-only", "--json", **env))
    assert len(back["deleted"]) == len([one for one in asked["sent"] if one["path"].startswith("fed-optimal/")])
    assert broken(hub.repos["me/fed"]) == []


def test_a_reference_says_what_it_is(barred: Path, optimal31: Path, tmp_path: Path) -> None:
    what = published(fedrsic_data.open(barred), "me/fed", reference_only=False, redistribute=False)
    for item in what.items:
        path = tmp_path / "copy" / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
    assert verify(tmp_path / "copy")[1] == []
    data = fedrsic_data.open(tmp_path / "copy")
    subset = data.subset("fed-optimal")
    assert sum(subset.client(name).rows("train") for name in subset.clients) == subset.entry.rows["train"]
    for read in (lambda: subset.client("client-0003").read("train"), lambda: subset.read("train"), data.check_images):
        with pytest.raises(ManifestError, match="without its images.*fedkit build"):
            read()
    with pytest.raises(OutputError, match="without its images; choose another --out"):
        make(tmp_path / "copy", Places(given={"optimal31": str(optimal31)}, offline=True), subset="fed-optimal")
    with pytest.raises(UsageError, match="holds no images to publish"):
        published(data, "me/fed", reference_only=False, redistribute=True)


def test_branches_pull_requests_and_dry_runs(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    env = around(hub, tmp_path)
    publish = ("publish", sample_build, "--repo", "me/fed", "--json")
    dry = answer(fedkit(*publish, "--dry-run", **{**env, "HF_TOKEN": ""}))
    assert {"manifest.json", "README.md", "croissant.json"} < {one["path"] for one in dry["sent"]}
    assert hub.changed() == []
    assert hub.repos == {}
    runs = commands(env, ((*publish, "--private", "--revision", "next"), {}), ((*publish, "--create-pr"), {}))
    done, asked = map(answer, runs)
    repo = hub.repos["me/fed"]
    assert repo.private
    assert repo.branches["next"] == done["commit"] != repo.branches["main"]
    assert asked["commit"] is None
    assert asked["pull_request"].endswith("/datasets/me/fed/discussions/1")
    assert set(at(hub)) == {".gitattributes"}, "the main branch waits for the merge"
    put = [one.path for one in hub.changed() if one.method == "PUT"]
    assert len(put) == len(set(put)) > 20, "bytes that are there are not sent again"


def test_refusals_are_one_line(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    env = around(hub, tmp_path)
    hub.repos["me/taken"] = taken = Repo(private=False)
    taken.add("main", "mine", {"train.parquet": hub.blob("train.parquet", b"PAR1")}, None)
    hub.adopt("me/public", sample_build)
    stranger, reader, writer = ({"HF_TOKEN": token} for token in ("hf_nobodynobody", READER, WRITER))
    publish = ("publish", sample_build, "--json", "--repo")
    asked = [
        ((*publish, "me/fed"), stranger, 1, "log in with: hf auth login"),
        ((*publish, "me/fed"), reader, 1, "has no permission for this (403)"),
        ((*publish, "me/taken"), writer, 2, "exists, but is not a fedkit dataset"),
        ((*publish, "me/public", "--private"), writer, 2, "is public already"),
        (("inspect", "hf://me/none"), writer, 1, "hf://me/none: there is no such dataset"),
        (("inspect", "hf://me/taken"), writer, 1, "fedkit did not publish it"),
        (("inspect", "hf://me"), writer, 2, "should look like"),
    ]
    done = commands(env, *((arguments, token) for arguments, token, _, _ in asked))
    for one, (_, _, code, words) in zip(done, asked, strict=True):
        refused(one, words, codes=(code,))
    assert {one.path for one in hub.changed()} == {"/api/repos/create"}
    assert "me/fed" not in hub.repos


def test_refusals_without_a_hub(sample_build: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    for target, words in (
        (Target("fed"), "USER/NAME"),
        (Target("me/fed@main"), "USER/NAME"),
        (Target("../fed"), "USER/NAME"),
        (Target("me/fed", "next", create_pr=True), "main branch"),
        (Target("me/fed", "a b"), "--revision 'a b': should be"),
        (Target("me/fed", "?x=1"), "--revision"),
        (Target("me/fed", "HEAD^"), "--revision"),
        (Target("me/fed", "main/.."), "--revision"),
        (Target("me/fed", ""), "--revision"),
    ):
        with pytest.raises(UsageError, match=words):
            publish(sample_build, target)
    with pytest.raises(UsageError, match="contradict"):
        publish(sample_build, Target("me/fed"), reference_only=True, redistribute=True)
    (dataset / "fed-ucmerced/train/client-0003.parquet").write_bytes(b"other")
    with pytest.raises(VerificationError, match="client-0003.parquet has 5 bytes"):
        publish(dataset, Target("me/fed"))
    with pytest.raises(ManifestError, match="is on the Hub"):
        verify(Path("hf://me/fed"))
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(dataset / "none"))
    with pytest.raises(HubError, match="you are not logged in.*hf auth login"):
        publish(sample_build, Target("me/fed"))


def test_the_card(sample_build: Path, barred: Path) -> None:
    what = published(fedrsic_data.open(sample_build), "me/fed", reference_only=False, redistribute=False)
    files = {item.path: item.source for item in what.items}
    text = files["README.md"].decode()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "apache-2.0"
    assert {"federated-learning", "sample-data"} <= set(head["tags"])
    assert head["size_categories"] == ["n<1K"]
    assert head["configs"][0]["data_files"][0] == {"split": "train", "path": "fed-ucmerced/train/*.parquet"}
    info = head["dataset_info"][0]
    assert [feature["name"] for feature in info["features"]] == ["image", "label", "client_id", "sample_id", "domain"]
    assert {s["name"]: s["num_examples"] for s in info["splits"]} == {"train": 101, "test": 25}
    assert what.manifest.plan.digest in text
    assert what.tag in text
    for picture in (path for path in files if path.endswith(".png")):
        assert f"]({picture})" in text
        assert files[picture][:4] == b"\x89PNG"
    assert '"alpha": 0.5' in text
    assert "Sample data" in text
    sizes = [item.path.endswith(".parquet") for item in what.items]
    assert sizes == sorted(sizes, reverse=True), "shards first"
    assert what.items[-1].path == "manifest.json"
    reference = published(fedrsic_data.open(barred), "me/fed", reference_only=False, redistribute=False)
    card = next(item.source for item in reference.items if item.path == "README.md").decode()
    assert "Wang, Liu, Chanussot and Li" in card
    assert "Google Earth" in card
    head = yaml.safe_load(card.split("---\n")[1])
    assert (head["license"], [c["config_name"] for c in head["configs"]]) == ("other", ["plan", "clients"])
    with pytest.raises(UsageError, match="contradict"):
        published(fedrsic_data.open(barred), "me/fed", reference_only=True, redistribute=True)


def test_features_of_the_card_are_those_of_the_shards(sample_build: Path, tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet as pq

    from fedrsic_data.dataset import schema
    from fedrsic_data.dataset.manifest import FineEntry, SubsetEntry
    from fedrsic_data.publish.card import _features

    names = ("a: b", "no", "1", "ünï'\"", "- x")
    fine = FineEntry(("y", "on"), ("no", ""), (1, 2))
    for many, finer in ((False, None), (True, None), (True, fine)):
        entry = SubsetEntry(names, many, 1, {"train": 1}, (1,) * 5, (), 0, (), (), (), {}, (), finer)
        table = schema.shard_schema(names, multi_label=many, fine=finer.classes if finer else ()).empty_table()
        pq.write_table(table, tmp_path / "x.parquet")
        told = yaml.safe_load(yaml.safe_dump(_features(entry), allow_unicode=True))
        assert datasets.Features._from_yaml_list(told) == datasets.Features.from_arrow_schema(table.schema)


def test_nothing_in_a_name_becomes_markup(sample_build: Path) -> None:
    from dataclasses import replace

    from fedrsic_data.publish.card import render

    built = manifest.load(sample_build)
    evil = "</script>|[x](javascript:1) `a`\n---\n# big"
    source = replace(next(iter(built.sources.values())), title=evil, licence=evil, citation=evil, missing=(evil,))
    recipe = replace(built.recipe, title=evil)
    text = render(replace(built, recipe=recipe, sources={"ucmerced": source}), "me/fed", "plan-x", ())
    body = text.split("\n---\n", 1)[1].split("```json")[0] + text.split("## Sources")[1]
    assert "<" not in body
    assert not re.search(r"(?<!\\)\]\(javascript", body)
    assert "\n---\n" not in body
    assert "\n# big" not in body
    assert yaml.safe_load(text.split("---\n")[1])["pretty_name"] == built.name


@pytest.mark.parametrize("reference", [False, True])
def test_croissant(reference: bool, sample_build: Path, tmp_path: Path) -> None:
    croissant = pytest.importorskip("mlcroissant")
    what = published(fedrsic_data.open(sample_build), "me/fed", reference_only=reference, redistribute=False)
    for item in what.items:
        path = tmp_path / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
    data = croissant.Dataset(jsonld=str(tmp_path / "croissant.json"), mapping={"repo": str(tmp_path)})
    assert not data.metadata.issues.errors
    # when it was published, and as which version, is for the Hub to say
    assert all(re.search(r"/(datePublished|version)\"", words) for words in data.metadata.issues.warnings)
    plan = list(data.records("plan-table"))
    assert len(plan) == 126
    assert ("fed-ucmerced" in {r.uuid for r in data.metadata.record_sets}) is not reference
    if not reference:
        row = next(iter(data.records("fed-ucmerced")))
        assert row["fed-ucmerced/image"].size == (32, 32)
        assert row["fed-ucmerced/label"] in range(21)


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [
        ("hf://me/fed", "me/fed", None),
        ("hf:/me/fed", "me/fed", None),  # what pathlib makes of it
        ("hf://datasets/me/fed@v1.0", "me/fed", "v1.0"),
        ("hf://me/fed@refs/pr/3", "me/fed", "refs/pr/3"),
        ("hf://me/fed-rsic_0.5/", "me/fed-rsic_0.5", None),
    ],
)
def test_addresses(text: str, repo: str, revision: str | None) -> None:
    assert is_address(text)
    assert address(text) == Address(repo, revision)


@pytest.mark.parametrize(
    "text", ["hf://", "hf://me", "hf://me/a/b", "hf://me/..", "hf://../me", "hf://me/a b", "hf://me/a@", "hf://me/a--b"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="should look like hf://USER/NAME"):
        address(text)


def test_a_token_is_in_no_message() -> None:
    with pytest.raises(HubError, match=r"Bearer \.\.\.") as caught, speaking(Address("me/fed")):
        raise RuntimeError(f"Bearer {WRITER} was refused")
    assert WRITER not in str(caught.value)
    with pytest.raises(HubError) as caught, speaking(Address("me/fed")):
        raise RuntimeError("one line\nand another " + "x" * 10_000)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (r"Illegal header value b'Bearer hf_abc-SECRETTAIL\x00q'", "Illegal header value b'Bearer ..."),
        ("Illegal header value b'Bearer SECRET and\tSECRET'", "Illegal header value b'Bearer ..."),
        ("token hf_SECRET-SECRET.SECRET, refused", "token ..., refused"),
        ("http://me:SECRET@hub.example/x for http://me:SEC@RET@hub", "http://...@hub.example/x for http://...@hub"),
        ("hf://me/fed@main: HTTP 500", "hf://me/fed@main: HTTP 500"),
    ],
)
def test_messages_are_discreet(words: str, shown: str) -> None:
    assert discreet(ValueError(words)) == shown


@pytest.mark.parametrize(
    "words",
    [
        *("~~~", "```", "~~a~~", "a & b &lt; &amp; &#36;", "$x$ $$y$$", "- a", "-", "+ a", "---", "===", "a\n==="),
        *("1. a", "12) b", "1", "2.5 m", "> a", "# a #", "| a |", "[a](b) ![c](d) <e>", "*a* __b__ \n\n  c", "::"),
        r"\(x\) \\(y\\) \a",
    ],
)
def test_text_on_the_card_is_text(words: str) -> None:
    from markdown_it import MarkdownIt

    from fedrsic_data.answer import markdown

    told = " ".join(words.split())
    assert MarkdownIt("gfm-like", {"linkify": False}).render(markdown(words)) == f"<p>{html.escape(told)}</p>\n"
    assert "$" not in markdown(words)
    assert "\\\\" not in markdown(words), "a formula, to the Hub"


def test_the_command_that_builds_again() -> None:
    def told(sources: dict[str, Any]) -> str:
        subsets = {name: {"sources": [name]} for name in sources}
        settings = {name: source for name, source in sources.items() if source}
        data = {"fedkit": 1, "name": "x", "subsets": subsets, "sources": settings, "partition": {"name": "iid"}}
        return rebuild.command(recipes.from_json(data, "test"), "hf://me/x")

    mine, theirs = {"kind": "folder", "path": "/mine"}, {"kind": "hub", "repo": "u/d"}
    assert told({"ucmerced": None}) == "fedkit build hf://me/x --sources PATH"
    assert told({"mine": mine}) == "fedkit build hf://me/x --source mine=PATH"
    assert told({"theirs": theirs}) == "fedkit build hf://me/x"
    assert told({"mine": mine, "ucmerced": None}) == "fedkit build hf://me/x --sources PATH --source mine=PATH"


def test_a_login_that_cannot_be_read(sample_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    (tmp_path / "token").mkdir()
    with pytest.raises(HubError, match="token cannot be used .Is a directory"):
        publish(sample_build, Target("me/fed"))
    (tmp_path / "token").rmdir()
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(HubError, match="hf auth login"):
        publish(sample_build, Target("me/fed"))


def test_settings_of_the_client_that_cannot_be_used(hub: Hub, tmp_path: Path) -> None:
    env = around(hub, tmp_path)
    refused(
        fedkit("inspect", "hf://me/fed", **{**env, "HF_HUB_ETAG_TIMEOUT": "abc"}),
        "HF_* environment variables",
        codes=(1,),
    )
    refused(fedkit("inspect", "hf://me/fed", **{**env, "HF_ENDPOINT": "nonsense"}), "fix HF_ENDPOINT", codes=(1,))


@pytest.mark.parametrize("sha", ["a" * 5000, "../../etc", "", None, 5])
def test_a_commit_is_one(sha: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: SimpleNamespace(sha=sha))
    with pytest.raises(HubError, match="returned no commit"):
        pinned(Address("me/fed"))


def test_a_cache_that_cannot_be_used(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    hub.adopt("me/fed", sample_build)
    env = around(hub, tmp_path)
    assert fedkit("inspect", "hf://me/fed", **env).returncode == 0
    kept = next((tmp_path / "cache").rglob("manifest.json"))
    whole = kept.read_bytes()
    kept.write_bytes(whole[:100])
    again, damaged = (("inspect", "hf://me/fed"), {}), {"FEDKIT_CACHE": str(kept)}
    first, second, third = commands(env, again, again, (again[0], damaged))
    refused(first, "not valid JSON", codes=(1,))
    assert second.returncode == 0
    assert kept.read_bytes() == whole, "it was fetched again"
    refused(third, "the cache cannot be used", "FEDKIT_CACHE", codes=(1,))


@pytest.mark.parametrize(("status", "size"), [(200, 10), (206, 10), (206, 11), (206, 9)])
def test_what_is_no_range_is_not_read_whole(status: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = itertools.count()
    shard = Shard("x.parquet", "train", 1, 10, "0" * 64)

    @contextmanager
    def flood(*_: object, **__: object) -> Iterator[Any]:
        headers = {"Content-Range": f"bytes 0-3/{size}", "ETag": f'"{shard.sha256}"'}
        yield SimpleNamespace(
            status_code=status,
            headers=headers,
            raise_for_status=lambda: None,
            iter_bytes=lambda: (b"xxx" for _ in taken),  # for ever
        )

    monkeypatch.setattr("huggingface_hub.utils.http_stream_backoff", flood)
    with pytest.raises(ManifestError, match="does not have the size in the manifest"):
        Ranges(Address("me/fed", "0" * 40), shard).read(4)
    assert next(taken) == (2 if (status, size) == (206, 10) else 0)


@pytest.mark.parametrize("asked", ["\xb2", "soon", "-1", "9" * 400])
def test_a_server_asks_for_patience_in_nonsense(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("fedrsic_data.dataset.hub._sleep", waited.append)

    def call() -> None:
        error = HubError("429")
        error.response = SimpleNamespace(status_code=429, headers={"Retry-After": asked})  # type: ignore[attr-defined]
        raise error

    with pytest.raises(HubError):
        patiently(call)
    assert waited == ([] if asked.isdecimal() else [1, 2, 4, 8, 16])


def test_reading_waits_out_what_passes(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    hub.adopt("me/fed", sample_build)
    code = (
        "import time; time.sleep = lambda s: None\n"
        "import fedrsic_data, fedrsic_data.dataset.hub as h; h._sleep = time.sleep\n"
        "client = fedrsic_data.open('hf://me/fed').subset('fed-ucmerced').client('client-0003')\n"
        "print(client.read('train').num_rows)"
    )
    rows = str(fedrsic_data.open(sample_build).subset("fed-ucmerced").client("client-0003").rows("train"))
    for fault in (
        Fault("GET", "/api/datasets/me/fed", 503),
        Fault("HEAD", "/resolve/", 500),
        Fault("GET", "client-0003", "drop"),
        Fault("GET", "client-0003", 429, headers={"Retry-After": "2"}),
    ):
        hub.faults[:] = [fault]
        env = around(hub, tmp_path / f"{fault.path.strip('/').replace('/', '-')}-{fault.status}")
        assert python(code, env).strip() == rows
        assert fault.times == 0


def test_a_published_file_that_changed_is_not_read(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sample_build, tmp_path / "copy"))
    shard = copy / "fed-ucmerced/train/client-0003.parquet"
    shard.write_bytes(shard.read_bytes() + b"x")
    hub.adopt("me/fed", copy)
    code = (
        "import sys, fedrsic_data\nfrom fedrsic_data.errors import ManifestError\n"
        "data = fedrsic_data.open('hf://me/fed')\n"
        "try: data.subset('fed-ucmerced').client('client-0003').read('train')\n"
        "except ManifestError as error: print(error)"
    )
    assert "client-0003.parquet does not match its manifest" in python(code, around(hub, tmp_path))
    table = copy / "clients.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"x")
    hub.adopt("me/fed", copy)
    assert "clients.parquet does not match its manifest" in python(code, around(hub, tmp_path))


def test_python_of_the_docs_runs(sample_build: Path, hub: Hub, tmp_path: Path) -> None:
    """Every recipe, as it stands there, in a process of its own."""
    (hub.folder / "repo").mkdir()
    what = published(fedrsic_data.open(sample_build), "USER/NAME", reference_only=False, redistribute=False)
    for item in what.items:
        path = hub.folder / "repo" / item.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.source if isinstance(item.source, bytes) else item.source.read_bytes())
    hub.adopt("USER/NAME", hub.folder / "repo")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/publishing.md").read_text(), flags=re.DOTALL)
    rows = fedrsic_data.open(sample_build).subset("fed-ucmerced").client("client-0003").rows
    checks = {
        "ImageDataset": f"assert len(images) == {rows('train')} and image.shape == (3, 32, 32)",
        "load_dataset": f"assert len(mine) == {rows('train')} and first['image'].size == (32, 32)",
        "duckdb": f"assert dict(counts)['client-0003'] == {rows('train')} and len(counts) == 10",
        "polars": "assert largest in set(clients['client_id'])",
        "FederatedDataset": f"assert len(partition['train']) + len(partition['test']) == {rows('train')}\n"
        f"assert len(test) == {rows('test')} and len(central) == 25 and partitioner.num_partitions == 10",
    }
    assert len(blocks) == len(checks)
    for code, word in zip(blocks, checks, strict=True):
        assert word in code
    run = "import json, sys\nfor code in json.loads(sys.argv[1]): exec(code, globals())"
    python(
        run,
        around(hub, tmp_path),
        json.dumps([f"{c}\n{check}" for c, check in zip(blocks, checks.values(), strict=True)]),
    )


def test_flower_has_what_it_calls_a_partitioner(sample_build: Path) -> None:
    subset = fedrsic_data.open(sample_build).subset("fed-ucmerced")
    partitioner = ClientPartitioner(subset)
    assert partitioner.num_partitions == 10
    assert partitioner.is_dataset_assigned()
    parts = [partitioner.load_partition(i) for i in range(10)]
    assert [set(part["client_id"]) for part in parts] == [{client} for client in subset.clients]
    assert sum(map(len, parts)) == len(partitioner.dataset) == 101
    assert partitioner.dataset.features == parts[0].features
    with pytest.raises(UsageError, match="partition_id=10 should be from 0 to 9"):
        partitioner.load_partition(10)
    with pytest.raises(UsageError, match="no split 'val'"):
        ClientPartitioner(subset, "val")
