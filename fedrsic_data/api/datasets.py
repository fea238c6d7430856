"""Build, resplit, verify, split and publish datasets from Python; the commands call the same functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data import recipes
from fedrsic_data.api import in_memory
from fedrsic_data.build import engines, pipeline
from fedrsic_data.build.pipeline import QUIET, BuildListener
from fedrsic_data.dataset.manifest import Manifest
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.dataset.verify import Problem
from fedrsic_data.derive import sites
from fedrsic_data.derive.resplit import prepare
from fedrsic_data.errors import UsageError, for_scripts
from fedrsic_data.publish import rebuild
from fedrsic_data.settings import encode, flags, local, path_of, texts
from fedrsic_data.sources.locate import Places

Place = str | os.PathLike[str]


@dataclass(frozen=True)
class Verified:
    """Result of ``verify``; true if nothing is wrong.

    Attributes:
        manifest: The manifest.
        problems: Differences from the manifest.
        notes: Descriptions of what could not be compared.
    """

    manifest: Manifest
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]

    def __bool__(self) -> bool:
        return not self.problems


@for_scripts
def build(
    recipe: Any,
    out: Place | None = None,
    *,
    name: str = "mine",
    subsets: str | Sequence[str] = (),
    partition: str | None = None,
    sample: bool | Mapping[str, Any] = False,
    sources: Place | Mapping[str, str] | None = None,
    offline: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    listener: BuildListener = QUIET,
    **settings: Any,
) -> Dataset:
    """Build a federated dataset, or open it if it is built already.

    >>> data = fedrsic_data.build("fed-rsic", sample=True, subsets=["fed-ucmerced"], alpha=0.1)  # doctest: +SKIP

    Args:
        recipe: The name or path of a recipe, its JSON as a dict, ``hf://USER/NAME[@REVISION]``; or images: a
            ``datasets.Dataset``, or a pair of images and labels (see ``in_memory.parquet_of``).
        out: The folder to write; None: ``data/NAME``.
        name: The name of a dataset made of images; a recipe has its own.
        subsets: Only these subsets of the recipe.
        partition: The name of a partitioner; it replaces that of the recipe.
        sample: Render stand-ins for the real images; a dict says how many: ``{"per_class": 8, "size": 32}``.
        sources: A folder that is searched for the sources, or the path of each source by its name.
        offline: Never download.
        overwrite: Replace another dataset at ``out``.
        jobs: Processes that write shards; None: threads of this one.
        listener: Receives the progress.
        **settings: Settings of the recipe or its partitioner, such as ``clients=20, alpha=0.1, seed=1``; a dotted one
            is given as ``**{"layout.files": "packed"}``.

    Raises:
        UsageError: An unknown recipe or setting, a value that cannot be used, or a partition that cannot be met.
        SourceError: A source is missing, incomplete or malformed.
        OutputError: The folder cannot be written, or holds something else.
    """
    flags(overwrite=overwrite, offline=offline, **({} if isinstance(sample, Mapping) else {"sample": sample}))
    engine = engines.chosen(jobs=jobs)
    drawn = sample if isinstance(sample, Mapping) else {}
    changes: dict[str, Any] = {
        "subsets": _names(subsets),
        "partitioner": partition,
        "sample": sample is not False,
        "sets": texts({**{f"sample.{key}": value for key, value in drawn.items()}, **settings}),
    }
    given = (
        {name: str(path_of(f"sources[{name!r}]", place)) for name, place in sources.items()}
        if isinstance(sources, Mapping)
        else {}
    )
    if isinstance(recipe, str | os.PathLike):
        wanted, published = rebuild.recipe_of(os.fspath(recipe), changes)
    else:
        if isinstance(recipe, Mapping) and not hasattr(recipe, "with_format"):  # which a datasets.DatasetDict has
            data = dict(recipe)
        else:
            file = in_memory.parquet_of(recipe)
            data, given = in_memory.recipe_of(name, file), {name: str(file)}
        wanted, published = recipes.from_json(recipes.override(data, **changes), "recipe"), None
    place = path_of("out", out) if out is not None else Path("data") / wanted.name
    local("out", place)
    folder = path_of("sources", sources) if sources is not None and not isinstance(sources, Mapping) else None
    planned = pipeline.prepare(wanted, Places(folder=folder, given=given, offline=offline), listener)
    listener = rebuild.comparing(published, planned, listener)
    done = pipeline.build(planned, place, overwrite=overwrite, listener=listener, engine=engine)
    return Dataset(done.path)


@for_scripts
def resplit(
    dataset: Dataset | Place,
    out: Place,
    *,
    subsets: str | Sequence[str] = (),
    partition: str | None = None,
    overwrite: bool = False,
    listener: BuildListener = QUIET,
    **settings: Any,
) -> Dataset:
    """Redistribute the images of a built dataset over new clients, without its sources.

    >>> again = fedrsic_data.resplit(data, "data/ucm-0.1", alpha=0.1)  # doctest: +SKIP

    Args:
        dataset: A dataset in a folder, opened or by its path.
        out: The folder to write.
        subsets: Only these subsets.
        partition: The name of a partitioner; it replaces that of the dataset.
        overwrite: Replace another dataset at ``out``.
        listener: Receives the progress.
        **settings: As for ``build``.

    Raises:
        VerificationError: The dataset is damaged.
        UsageError: A setting is unknown, changes more than the split, or cannot be met.
        OutputError: The folder cannot be written, or holds something else.
    """
    flags(overwrite=overwrite)
    path, place = _folder(dataset), path_of("out", out)

    def change(old: Recipe) -> Recipe:
        data = recipes.override(encode(old), subsets=_names(subsets), partitioner=partition, sets=texts(settings))
        return recipes.from_json(data, f"recipe of {path}", built=True)

    planned = prepare(path, change, listener)
    return Dataset(pipeline.build(planned, place, overwrite=overwrite, listener=listener).path)


@for_scripts
def verify(dataset: Dataset | Place) -> Verified:
    """Read every file of a dataset again and compare it with the manifest.

    >>> assert fedrsic_data.verify("data/fed-rsic")  # doctest: +SKIP

    Raises:
        ManifestError: There is no readable manifest to compare with.
    """
    from fedrsic_data.build import verify

    notes: list[str] = []
    manifest, problems = verify.verify(_folder(dataset), None, notes.append)
    return Verified(manifest, tuple(problems), tuple(notes))


@for_scripts
def split_sites(dataset: Dataset | Place, out: Place, *, group: int = 1) -> tuple[sites.SiteFolder, ...]:
    """Write a dataset folder for each client, to hand to its site, and one without images for the server.

    Args:
        dataset: A dataset in a folder, opened or by its path.
        out: The folder to make.
        group: Clients per folder.

    Raises:
        VerificationError: The dataset is damaged.
        OutputError: The folder exists, or cannot be written.
    """
    if type(group) is not int:
        raise UsageError(f"group={group!r} should be a whole number")
    return sites.split(_folder(dataset), path_of("out", out), group=group)


@for_scripts
def publish(
    dataset: Dataset | Place,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    reference_only: bool = False,
    redistribute: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Verify a dataset and publish it to the Hugging Face Hub, in one commit tagged with its plan.

    Args:
        dataset: A dataset in a folder, opened or by its path.
        repo: ``USER/NAME`` of the dataset repository; created if it does not exist.
        private: Make a new repository private.
        revision: The branch; None: the main one.
        create_pr: Open a pull request instead.
        reference_only: Publish the assignment of images to clients, without the images.
        redistribute: Publish images even if their licence does not state that you may.
        dry_run: Send nothing.

    Returns:
        The facts that ``fedkit publish --json`` prints.

    Raises:
        VerificationError: The dataset is damaged.
        HubError: The Hub cannot be reached, or refuses.
    """
    flags(
        private=private,
        create_pr=create_pr,
        reference_only=reference_only,
        redistribute=redistribute,
        dry_run=dry_run,
    )
    if not isinstance(repo, str) or not isinstance(revision, str | None):
        raise UsageError(f"repo={repo!r} and revision={revision!r} should be texts")
    from fedrsic_data.publish import run
    from fedrsic_data.publish.upload import Target

    shown = run.publish(
        _folder(dataset),
        Target(repo, revision, private, create_pr),
        reference_only=reference_only,
        redistribute=redistribute,
        dry_run=dry_run,
    )
    return dict(shown.data)


def _names(given: str | Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"subsets={given!r} should be a name, or a list of names")
    return list(names)


def _folder(dataset: Dataset | Place) -> Path:
    if not isinstance(dataset, Dataset):
        return path_of("dataset", dataset)
    if "://" in dataset.where:
        raise UsageError(f"{dataset.where}: is on the Hub, and a folder is needed; download it with: hf download")
    return dataset.folder
