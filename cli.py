"""The ``fedkit`` command: parse, call one function, print. No logic."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fedrsic_data.build import Listener
    from fedrsic_data.download import Progress

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Build federated image datasets as Parquet shards, prove them, and train on them.\n\n"
    "\b\nExamples:\n"
    "  fedkit build fed-rsic --sample          a first dataset, nothing to download\n"
    "  fedkit build fed-rsic --alpha 0.1       Dirichlet label skew on the real images\n"
    "  fedkit inspect data/fed-rsic            who has what, and how skewed it is\n"
    "  fedkit verify data/fed-rsic             prove every byte against the manifest",
)

_INTERRUPTED = 130

Alpha = Annotated[float | None, typer.Option(help="Dirichlet concentration; small is skewed.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything drawn.")]
Subsets = Annotated[list[str] | None, typer.Option(help="Only this subset; may be repeated.")]
Partition = Annotated[str | None, typer.Option(help="Partitioner by name; see: fedkit list partitioners.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A partition setting or recipe field; repeatable."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and report; write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace another dataset at the output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines, nothing else.")]


@app.callback()
def fedkit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Says the version, or how to go on when no command is given."""
    if version:
        from importlib.metadata import version as installed

        print("fedkit", installed("fedkit"))
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="Build a federated dataset from a recipe.")
def build(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (fed-rsic) or the path of your own.")],
    alpha: Alpha = None,
    clients: Clients = None,
    seed: Seed = None,
    subset: Subsets = None,
    partition: Partition = None,
    set_: Sets = None,
    sample: Annotated[bool, typer.Option("--sample", help="Procedural stand-ins instead of the real images.")] = False,
    sources: Annotated[Path | None, typer.Option(help="Folder searched for the sources' folders and zips.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Where one source is (or hf://USER/DATASET@COMMIT); repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default data/NAME.")] = None,
    dry_run: DryRun = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Take incomplete sources as they are.")
    ] = False,
    on_bad_image: Annotated[
        str | None, typer.Option(metavar="error|skip", help="What to do with damaged files.")
    ] = None,
    overwrite: Overwrite = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    json: Json = False,
) -> None:
    """Build a federated dataset from a recipe: sources, then a plan, then verified Parquet shards.

    \b
    Examples:
      fedkit build fed-rsic --sample
      fedkit build fed-rsic --alpha 0.5 --sources ~/datasets
      fedkit build fed-rsic --subset fed-ucmerced --clients 20 --seed 1 --out data/ucm-20
      fedkit build fed-rsic --partition pathological --set classes_per_client=5 --dry-run
    """
    from fedrsic_data import build as pipeline
    from fedrsic_data import recipe as recipes
    from fedrsic_data import show
    from fedrsic_data.sources.locate import Places

    data = recipes.override(
        recipes.load(recipe),
        subsets=subset or [],
        partitioner=partition,
        sample=sample,
        sets=[
            *_given(alpha=alpha, clients=clients, seed=seed, on_bad_image=on_bad_image),
            *(["allow_partial=true"] if allow_partial else []),
            *(set_ or []),
        ],
    )
    wanted = recipes.from_json(data, f"recipe {recipe}")
    places = Places(folder=sources, given=_pairs(source or []), offline=offline)
    with _listening(quiet=json) as listener:
        planned = pipeline.prepare(wanted, places, listener)
        if dry_run:
            _print(show.planned(planned), json)
            return
        built = pipeline.build(planned, out or Path("data") / wanted.name, overwrite=overwrite, listener=listener)
    _print(show.built(built), json)


@app.command(short_help="Give the images of a built dataset to other clients.")
def resplit(
    manifest: Annotated[Path, typer.Argument(help="A built manifest.json or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    alpha: Alpha = None,
    clients: Clients = None,
    seed: Seed = None,
    subset: Subsets = None,
    partition: Partition = None,
    set_: Sets = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw a new plan over the images of a built dataset, without its sources: shards are rewritten from shards.

    \b
    Examples:
      fedkit resplit data/fed-rsic --alpha 0.1 --out data/fed-rsic-0.1
      fedkit resplit data/fed-rsic --partition shards --set shards_per_client=2 --out data/fed-rsic-shards
      fedkit resplit data/fed-rsic --set shots=16 --set base_to_novel=true --out data/fed-rsic-base
    """
    from fedrsic_data import build as pipeline
    from fedrsic_data import recipe as recipes
    from fedrsic_data import resplit as again
    from fedrsic_data import show

    def change(old: recipes.Recipe) -> recipes.Recipe:
        sets = [*_given(alpha=alpha, clients=clients, seed=seed), *(set_ or [])]
        data = recipes.override(recipes.to_json(old), subsets=subset or [], partitioner=partition, sets=sets)
        return recipes.from_json(data, f"recipe of {manifest}")

    with _listening(quiet=json) as listener:
        planned = again.prepare(manifest, change, listener)
        if dry_run:
            _print(show.planned(planned), json)
            return
        built = pipeline.build(planned, out, overwrite=overwrite, listener=listener)
    _print(show.built(built), json)


@app.command(short_help="Show who has what, and how skewed it is.")
def inspect(
    manifest: Annotated[Path, typer.Argument(help="A built manifest.json or its folder.")],
    subset: Subsets = None,
    clients: Annotated[int, typer.Option(min=0, help="Most clients to list.")] = 40,
    json: Json = False,
) -> None:
    """Show a built dataset: rows, classes and label mixture of every client, skew beside its IID band.

    \b
    Examples:
      fedkit inspect data/fed-rsic
      fedkit inspect data/fed-rsic --subset fed-ucmerced --clients 100
      fedkit inspect data/fed-rsic --json
    """
    from fedrsic_data import show
    from fedrsic_data.reader import Dataset

    _print(show.inspected(Dataset(manifest), subset or [], clients), json)


@app.command(short_help="Prove a built dataset against its manifest.")
def verify(
    manifest: Annotated[Path, typer.Argument(help="A built manifest.json or its folder.")],
    json: Json = False,
) -> None:
    """Re-read every file of a dataset and compare it with the manifest. Exits with 1 if anything differs.

    \b
    Examples:
      fedkit verify data/fed-rsic
      fedkit verify data/fed-rsic --json
    """
    from fedrsic_data import show
    from fedrsic_data.verify import verify as prove

    with _bars(quiet=json) as bar:
        built, problems = prove(manifest, bar("bytes"))
    _print(show.verified(manifest, built, problems), json)
    if problems:
        raise typer.Exit(1)


@app.command("list", short_help="List recipes, sources and partitioners.")
def list_(
    what: Annotated[str | None, typer.Argument(metavar="[recipes|sources|partitioners]")] = None, json: Json = False
) -> None:
    """List what there is to build with.

    \b
    Examples:
      fedkit list
      fedkit list partitioners
    """
    from fedrsic_data import show

    _print(show.listed(what), json)


def _pairs(texts: list[str]) -> dict[str, str]:
    from fedrsic_data.errors import UsageError

    pairs = dict(text.partition("=")[::2] for text in texts)
    for name, path in pairs.items():
        if not (name and path):
            raise UsageError(f"--source {name}: should look like NAME=PATH")
    return pairs


def _print(shown: Any, json: bool) -> None:
    """Prints what a ``show`` function gave: its data as JSON, or its text."""
    from fedrsic_data.errors import OutputError

    try:
        if json:
            from json import dumps

            print(dumps(shown.data, allow_nan=False))
        else:
            from rich.console import Console

            # a pipe has no width: give tables room instead of folding them at 80 characters
            width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
            Console(highlight=False, width=width).print(shown.text, crop=False)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written ({error.strerror}); send it elsewhere") from None


@contextmanager
def _bars(*, quiet: bool) -> Iterator[Callable[[str], Progress]]:
    """Makes progress callbacks ``(done, total)`` by name, which draw bars on the standard error if it is a terminal."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:

        def bar(name: str) -> Progress:
            task = bars.add_task(name, total=None, visible=False)
            return lambda done, total: bars.update(task, completed=done, total=total, visible=True)

        yield bar


@contextmanager
def _listening(*, quiet: bool) -> Iterator[Listener]:
    from fedrsic_data.build import Listener

    with _bars(quiet=quiet) as bar:

        def step(words: str) -> None:
            if not quiet:
                print(f"{words} ...", file=sys.stderr)

        yield Listener(step=step, images=bar("images"), download=bar)


def _given(**options: Any) -> list[str]:
    """``key=value`` for the options that were given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def main() -> None:
    """Runs the command; every failure is one line on the standard error, and an exit code of 1 or 2."""
    from fedrsic_data.errors import FedkitError

    # Arrow's own allocator keeps what its threads freed; the system's gives it back (100 MB at 200,000 images)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    _open_streams()
    try:
        code = app(standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except FedkitError as error:
        if os.environ.get("FEDKIT_DEBUG") == "1":
            raise
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        _leave(1)
    except Exception as error:
        if os.environ.get("FEDKIT_DEBUG") == "1":
            raise
        # typer carries a click of its own or the installed one, depending on its version: know their errors by shape
        if hasattr(error, "format_message"):
            _fail(f"{error.format_message()} (see fedkit --help)", 2)
        _fail(f"unexpected {type(error).__name__}: {error}; this is a bug, FEDKIT_DEBUG=1 shows where", 1)
    if code == _INTERRUPTED:  # typer's newer versions make this of Ctrl-C, older ones Abort
        _fail("interrupted; run the same command to resume", code)
    _leave(code)


def _open_streams() -> None:
    """Puts the null device where a standard stream is closed, and lets no letter stop a terminal that lacks it.

    Otherwise the next file opened would take the stream's number, and what a library prints would end up in it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - stays open as the streams do
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _fail(words: str, code: int) -> NoReturn:
    print("error:", " ".join(words.split()), file=sys.stderr)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """Exits; what nobody takes from the standard output any more is dropped, lest Python complains of it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
