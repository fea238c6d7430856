"""``fedkit new``: looks at images of a person's own and writes a recipe for them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedrsic_data import recipes
from fedrsic_data.answer import Shown, together
from fedrsic_data.build import plan
from fedrsic_data.build.pipeline import QUIET, BuildListener
from fedrsic_data.build.plan import PlannedSubset
from fedrsic_data.dataset import recipe
from fedrsic_data.dataset.schema import TRAIN
from fedrsic_data.errors import OutputError, SourceError, UsageError, masked
from fedrsic_data.files import atomic, ownership
from fedrsic_data.raw.containers import reading
from fedrsic_data.raw.index import Index
from fedrsic_data.recipes.resolve import partitioner_of
from fedrsic_data.settings import assigned, encode, hints_of, local, parsed
from fedrsic_data.sources import FORMATS, GENERAL, SOURCES, coco, configured, locate, mirror, voc
from fedrsic_data.sources.own import common, listing

_READERS = ("folder", *FORMATS)  # of a folder
_TEST = 0.2  # held out where the data have no split of their own
_ALPHA = 0.5
_CLIENTS = 10  # where there are images enough
_EACH = 20  # images a client should have

_LAYOUTS = {
    "class": "one folder per class",
    "domain/class": "one folder per domain, and in it one per class",
    "split/class": "one folder per split, and in it one per class",
    "split/domain/class": "one folder per split, in it one per domain, and in that one per class",
    "domain/split/class": "one folder per domain, in it one per split, and in that one per class",
    "csv": "images that labels.csv lists",
}


@dataclass(frozen=True)
class Draft:
    """A recipe that was not written yet.

    Attributes:
        recipe: Its JSON, defaults left out.
        form: How the data lie, in words.
        seen: What they hold: images, classes, domains, users, splits.
        planned: The clients that the recipe gives, its held-out splits apart.
        hints: What a person should know or may want instead.
    """

    recipe: dict[str, Any]
    form: str
    seen: dict[str, Any]
    planned: PlannedSubset
    hints: tuple[str, ...]


_KNOWN: dict[str, Callable[[Path], bool]] = {  # how a dataset that has a recipe of its own is known
    "coco": coco.is_official,
    "flair": lambda path: (path / "labels_and_metadata.json").is_file(),
    "voc": voc.is_official,
}


def settings(
    folder: str | None, hub: str | None, parquet: str | None, sets: Sequence[str] = (), config: str | None = None
) -> dict[str, Any]:
    """The settings of the source that the options mean.

    Args:
        folder: A folder of images.
        hub: ``USER/NAME`` or ``USER/NAME@REVISION`` on the Hub.
        parquet: A Parquet file or a folder of them.
        sets: ``key=value`` texts, settings of the source.
        config: Which config of it, where there are several.

    Raises:
        UsageError: Not one of the three, or a malformed ``key=value``.
    """
    given = {"--folder": folder, "--hub": hub, "--parquet": parquet}
    if sum(value is not None for value in given.values()) != 1:
        raise UsageError("give the place of the images with one of --folder PATH, --hub USER/NAME, --parquet PATH")
    if folder is not None:
        chosen: dict[str, Any] = {"path": folder}
    elif parquet is not None:
        chosen = {"kind": "hub", "path": parquet}
    else:
        if masked(str(hub)) != hub:
            raise UsageError(f"--hub {masked(str(hub))}: should look like USER/NAME, without a login")
        repo, _, revision = str(hub).removeprefix("hf://").removeprefix("datasets/").partition("@")
        chosen = {"kind": "hub", "repo": repo, "revision": revision or None}
    if config is not None:
        chosen["config"] = config
    readers = [GENERAL["hub"]] if folder is None else GENERAL.values()
    hints = {key: hint for reader in readers for key, hint in hints_of(type(reader.settings)).items()}
    for text in sets:
        key, value = assigned(text)
        if key in ("path", "repo") or (key == "kind" and (folder is None or value not in _READERS)):
            where = f"kinds of folders are {', '.join(_READERS)}" if key == "kind" and folder is not None else ""
            raise UsageError(f"--set {text!r}: {where or 'use --folder, --hub or --parquet instead'}")
        chosen[key] = parsed(value, hints.get(key, Any))
    if folder is not None and "kind" not in chosen:
        _not_known(folder)
        if "layout" in chosen:
            chosen["kind"] = "folder"
    return chosen


def _not_known(folder: str) -> None:
    """Refuses a dataset that has a recipe of its own."""
    for name, official in _KNOWN.items() if os.path.isdir(folder) else ():
        if official(Path(folder)):
            use = f"fedkit build {name} --source {name}={folder}"
            raise UsageError(f"--folder {folder}: has the layout of {name}; run: {use}")


def _reader(folder: Path) -> tuple[str, list[str]]:
    """The kind of reader that a folder needs, and what else could read it, in words.

    Raises:
        SourceError: The folder is of several formats, or cannot be read.
    """
    with reading(folder):
        paths = list(_paths(folder))
        marks = {kind: mark for kind, source in FORMATS.items() if (mark := source.mark(folder, paths)) is not None}
    if (folder / listing.NAME).is_file():
        others = [f"{mark} ({kind})" for kind, mark in marks.items()]
        return "folder", [f"{listing.NAME} is what counts, not {', '.join(others)}"] if others else []
    if len(marks) > 1:
        listed = ", ".join(f"{mark} ({FORMATS[kind].form})" for kind, mark in marks.items())
        which = " or ".join(f"--set kind={kind}" for kind in marks)
        raise SourceError(f"{folder}: has annotations in {len(marks)} formats: {listed}; choose with {which}")
    return next(iter(marks), "folder"), []


def _paths(folder: Path) -> Iterator[str]:
    """All files below a folder as paths from it, in a fixed order, hidden ones left alone."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        prefix = "" if place == os.fspath(folder) else Path(place).relative_to(folder).as_posix() + "/"
        yield from (prefix + name for name in sorted(files) if not name.startswith("."))


def draft(
    chosen: Mapping[str, Any],
    name: str | None = None,
    *,
    clients: int | None = None,
    alpha: float | None = None,
    offline: bool = False,
    listener: BuildListener = QUIET,
) -> Draft:
    """Looks at the data, never at pixels, and chooses splits and a partition that they can have.

    Args:
        chosen: From ``settings``.
        name: Name of the dataset, its subset and its source; None: the name of the data.
        clients: How many; None: what the data suggest.
        alpha: Label skew; None: 0.5 where the partition has it.
        offline: Never touch the network.
        listener: Receives progress.

    Raises:
        SourceError: The data cannot be read, or are not what they should be.
        UsageError: A setting cannot be used, or the partition cannot be met.
    """
    name, decided = _name(chosen, name), list[str]()
    if "kind" not in chosen:
        kind, decided = _reader(Path(os.path.expanduser(str(chosen["path"]))))  # noqa: PTH111  it never raises
        chosen = {"kind": kind, **chosen}
    source = cast(common.Own, configured(name, chosen, f"sources.{name}"))
    listener.step(f"looking at {chosen.get('path') or chosen.get('repo')}")
    path = locate.locate(source, locate.Places(offline=offline), listener.download)
    if chosen.get("repo") and not offline:
        mirror.card(source.facts.hub, path)
    found, index = source.look(path)
    if getattr(found, "repo", None):  # what was downloaded lies in a folder called after its commit
        found = dataclasses.replace(found, revision=path.name.rpartition("@")[2])
    data = {
        "fedkit": recipe.SCHEMA,
        "name": name,
        "subsets": {name: {"sources": [name]}},
        **_splits(index),
        "partition": _partition(index, clients, alpha),
        "sources": {name: {"kind": source.kind, **_said(found)}},
    }
    wanted = recipes.from_json(data, "recipe")
    # which images are held out changes no owner
    bare = dataclasses.replace(wanted, splits={})
    planned = plan.divide(bare, name, partitioner_of(bare, name), plan.merge(wanted.subsets[name], [index]))
    form = _LAYOUTS.get(getattr(found, "layout", ""), "")
    form = form or getattr(source, "form", "") or f"images in column {found.image}, labels in {found.label}"
    return Draft(data, form, _seen(index), planned, (*decided, *_hints(index, data)))


def write(target: Path, drafted: Draft, *, force: bool = False) -> None:
    """Writes a drafted recipe.

    Raises:
        OutputError: There is something already and ``force`` is False, or it cannot be written.
    """
    check(target, force=force)
    try:
        with atomic.replacing(target) as file:
            file.write((json.dumps(drafted.recipe, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror}); choose another place") from None


def check(target: Path, *, force: bool) -> None:
    """Refuses to write over what is there, before anything is looked at; errors as for ``write``."""
    local("recipe", target)
    if os.path.isdir(target):
        raise OutputError(f"{target}: is a folder; give the recipe a file name, such as {target / 'recipe.json'}")
    if os.path.lexists(target) and not force:
        raise OutputError(f"{target}: already exists; replace it with --force, or choose another name")
    try:
        ownership.check_file(target, _is_recipe, "recipe")
    except OSError as error:
        raise OutputError(f"{target}: cannot be read ({error.strerror}); choose another name") from None


def _is_recipe(text: bytes) -> bool:
    """Whether a file is a recipe, and neither a built manifest nor a run's config, which say the same of fedkit."""
    return ownership.says(text, recipe.SCHEMA) and json.loads(text).keys() >= {"name", "subsets", "partition"}


def shown(target: Path, drafted: Draft) -> Shown:
    """Report the findings, the recipe's choices, and the next steps."""
    seen, planned = drafted.seen, drafted.planned
    sizes = planned.domain_counts().sum(axis=1)
    partition = drafted.recipe["partition"]
    data = {
        "recipe": str(target),
        "name": drafted.recipe["name"],
        "form": drafted.form,
        **seen,
        "partition": partition,
        "clients": len(planned.clients),
        "client_rows": {"min": int(sizes.min()), "max": int(sizes.max())},
        "hints": list(drafted.hints),
    }
    several = f", {seen['labels_per_image']:.1f} labels an image" if seen["multi_label"] else ""
    lines = [
        drafted.form,
        f"  {seen['images']:,} images, {len(seen['classes'])} classes ({_few(seen['classes'])}){several}",
        f"  images of each: {_counted(seen['class_images'])}",
    ]
    lines += [f"  {len(seen['domains'])} domains: {_counted(seen['domains'])}"] if len(seen["domains"]) > 1 else []
    lines += [f"  {seen['users']:,} users"] if seen["users"] else []
    lines += [f"  splits: {_counted(seen['splits'])}"] if seen["splits"] else []
    lines += [f"  {note}" for note in seen["notes"]]
    lines += [f"  {count:,} {reason}" for reason, count in seen["counts"].items()]
    lines += [
        f"  {left['count']:,} left out: {left['reason']} ({left['examples'][0]}, ...)" for left in seen["left_out"]
    ]
    spec = recipe.partition_in_words(partition)
    lines.append(f"{target}: {spec}: {len(planned.clients):,} clients of {sizes.min():,} to {sizes.max():,} images")
    lines += [f"  {hint}" for hint in drafted.hints]
    method = "fedavg" if seen["multi_label"] else "promptfl"
    train = f"fedkit train {method} --manifest {shlex.quote(os.path.join('data', drafted.recipe['name']))}"  # noqa: PTH118
    lines += ["next:", f"  fedkit build {shlex.quote(str(target))}", f"  {train}"]
    return Shown(data, together(lines))


def _name(chosen: Mapping[str, Any], given: str | None) -> str:
    """The name that was given, or else that of the data, as far as it is one."""
    if given is not None:
        if given in SOURCES or given in GENERAL:
            raise UsageError(f"--name {given}: is the name of a source that fedkit knows; choose another")
        return given
    place = chosen.get("repo") or os.path.realpath(os.path.expanduser(str(chosen.get("path"))))  # noqa: PTH111
    called = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(str(place)).name.removesuffix(".parquet")).strip("-._")[:90]
    called = called or "images"
    return f"my-{called}" if called in SOURCES or called in GENERAL else called


def _said(found: Any) -> dict[str, Any]:
    """The settings that are not what they would be anyway."""
    defaults = {field.name: field.default for field in dataclasses.fields(found)}
    return {key: value for key, value in encode(found).items() if value != encode(defaults[key]) and value != {}}


def _splits(index: Index) -> dict[str, Any]:
    column = index.table.column("split")
    own_splits = set(pc.unique(column).to_pylist())
    if None not in own_splits and TRAIN in own_splits and len(own_splits) > 1:
        return {"splits": {}, "split_by": "source"}
    return {"splits": {"test": _TEST}}


def _partition(index: Index, clients: int | None, alpha: float | None) -> dict[str, Any]:
    """Users where they are known, else domains where there are several, else label skew; alpha asks for label skew."""
    domains = pc.count_distinct(index.table.column("domain")).as_py()
    if _users(index) > 1 and alpha is None:
        return {"name": "natural"} if clients is None else {"name": "natural", "clients": clients}
    if clients is None:
        clients = max(domains, min(_CLIENTS, max(2, len(index.table) // _EACH)))
    skewed = {"clients": clients, "alpha": _ALPHA if alpha is None else alpha}
    if domains == 1 or (index.multi_label and alpha is not None):
        return {"name": "dirichlet", **skewed}
    if index.multi_label:
        return {"name": "domain", "clients": clients}
    return {"name": "skew", **skewed, "domain_mix": 0.0}


def _users(index: Index) -> int:
    """Number of natural users; 0 if unknown."""
    users = index.table.column("group")
    return 0 if users.null_count else int(pc.count_distinct(users).as_py())


def _seen(index: Index) -> dict[str, Any]:
    labels = index.table.column("labels")
    return {
        "images": len(index.table),
        "classes": list(index.classes),
        "class_images": _class_images(index),
        "multi_label": index.multi_label,
        "labels_per_image": len(labels.combine_chunks().flatten()) / max(len(labels), 1),
        "domains": _counts(index.table.column("domain")),
        "users": _users(index),
        "splits": _counts(index.table.column("split").drop_null()),
        "counts": dict(index.counts),
        "left_out": [encode(left) for left in index.left_out],
        "notes": list(index.notes),
    }


def _class_images(index: Index) -> dict[str, int]:
    """Number of images per class, in the order of classes."""
    codes = index.table.column("labels").combine_chunks().flatten().to_numpy()
    return dict(zip(index.classes, np.bincount(codes, minlength=len(index.classes)).tolist(), strict=True))


def _hints(index: Index, data: Mapping[str, Any]) -> tuple[str, ...]:
    name, splits = data["partition"]["name"], set(pc.unique(index.table.column("split")).to_pylist()) - {None}
    hints = []
    if data["splits"]:
        hints.append(f"{_TEST:.0%} of every client's images are held out for testing")
        if splits - {TRAIN}:
            hints.append(f"its own splits ({', '.join(sorted(splits))}) are not used: none is train, or some have none")
    else:
        hints.append("its own splits are kept")
    if _users(index) > 1 and name != "natural":
        hints.append("its users can be the clients: fedkit build --partition natural")
    if next(iter(data["sources"].values())).get("licence") is None:
        hints.append(f"{common.UNKNOWN_LICENCE} (sources.{data['name']}.licence)")
    return tuple(hints)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    """Number of occurrences of each text, in alphabetical order."""
    counted = pc.value_counts(column)
    return dict(sorted(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)))


def _counted(counts: Mapping[str, int]) -> str:
    return _few([f"{name} {count:,}" for name, count in counts.items()])


def _few(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
