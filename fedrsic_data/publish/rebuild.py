"""A published dataset built again from the sources: the same plan and the same shards, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from fedrsic_data.build.finish import writer
from fedrsic_data.build.pipeline import BuildListener
from fedrsic_data.build.plan import Planned
from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.hub import HubFiles
from fedrsic_data.dataset.local import is_address
from fedrsic_data.dataset.manifest import Manifest
from fedrsic_data.dataset.recipe import Recipe
from fedrsic_data.errors import UsageError, VerificationError
from fedrsic_data.recipes import from_json, load, override
from fedrsic_data.sources import configured


def recipe_of(name: str, changes: Mapping[str, Any]) -> tuple[Recipe, Published | None]:
    """A recipe to build, and the expected result.

    Args:
        name: A shipped recipe, the path of one, or ``hf://USER/NAME[@REVISION]``.
        changes: What ``recipe.override`` takes; none of a published dataset, which is built as it is.

    Raises:
        UsageError: There is no such recipe, or a published one is to be changed.
        HubError: The Hub cannot be reached, or has no such dataset.
    """
    if not is_address(name):
        return from_json(override(load(name), **changes), f"recipe {name}"), None
    if any(changes.values()):
        raise UsageError(
            f"{name}: can only be built as it was published; build it without options, then run fedkit resplit"
        )
    published = Published(name)
    return published.manifest.recipe, published


def comparing(published: Published | None, planned: Planned, listener: BuildListener) -> BuildListener:
    """The listener of a build that must give what was published, if anything: the plan is compared at once.

    Raises:
        VerificationError: The plan is another one.
    """
    if published is None:
        return listener
    published.check_plan(planned)
    return replace(listener, described=published.check)


def command(recipe: Recipe, where: str) -> str:
    """The command that builds a published dataset again, with a place to fill in for every source it cannot fetch."""
    wanted = () if recipe.sample is not None else recipe.used
    places = [f"--source {name}=PATH" for name in wanted if _found(recipe, name) == "by path"]
    searched = ["--sources PATH"] if any(_found(recipe, name) == "by name" for name in wanted) else []
    return " ".join(["fedkit build", where, *searched, *places])


def _found(recipe: Recipe, name: str) -> Literal["by path", "by name", "fetched"]:
    """Options by which a build finds a source; the user's own and unknown ones need a path."""
    try:
        source = configured(name, recipe.sources.get(name, {}), f"sources.{name}")
    except UsageError:
        return "by path"
    if not hasattr(source.settings, "path"):
        return "by name"
    return "fetched" if source.settings.path is None else "by path"


class Published:
    """The published dataset, to compare a build with."""

    def __init__(self, text: str) -> None:
        """Fetches the manifest.

        Args:
            text: ``hf://USER/NAME[@REVISION]``.

        Raises:
            UsageError: It is no such address.
            HubError: The Hub cannot be reached, or has no such dataset.
            ManifestError: The repository holds no dataset of fedkit.
        """
        files = HubFiles(text)
        self.where = files.where
        self.manifest: Manifest = files.manifest

    def check_plan(self, planned: Planned) -> None:
        """Compares the plan, before any image is read.

        Raises:
            VerificationError: It is another one.
        """
        if planned.digest == self.manifest.plan.digest:
            return
        for name, theirs in self.manifest.sources.items():
            ours = planned.sources[name]
            if (ours.images, ours.missing, ours.counts) != (theirs.images, theirs.missing, theirs.counts):
                raise VerificationError(
                    f"source {name}: has {ours.images:,} images here and had {theirs.images:,} where {self.where} was "
                    "built; use the same copy"
                )
        raise VerificationError(
            f"plan: has digest {planned.digest[:12]} here and {self.manifest.plan.digest[:12]} in {self.where}; "
            f"the sources differ in names or labels{self._versions(planned.plugins)}"
        )

    def check(self, built: Manifest) -> None:
        """Compares what was built, before it is put in place.

        Raises:
            VerificationError: The plan, or a shard, is another one.
        """
        if built.plan.digest != self.manifest.plan.digest:
            raise VerificationError(f"plan: differs from that of {self.where}; build into another --out")
        ours = {shard.path: shard.sha256 for shard in manifest.shards(built)}
        theirs = {shard.path: shard.sha256 for shard in manifest.shards(self.manifest)}
        differing = [path for path in sorted(ours.keys() | theirs.keys()) if ours.get(path) != theirs.get(path)]
        if differing:
            raise VerificationError(
                f"{differing[0]}: has other bytes here than in {self.where}, and so have {len(differing) - 1:,} other "
                f"shards of {len(theirs):,}; the images differ{self._versions(built.writer)}"
            )

    def _versions(self, plugins: Mapping[str, str]) -> str:
        """Mention other versions of the writer, which may be the reason."""
        here = writer(plugins)
        other = [f"{name} {there}" for name, there in self.manifest.writer.items() if here.get(name) != there]
        return f", or the versions do: it was built with {', '.join(other)}" if other else ""
