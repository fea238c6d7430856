"""The ``fedkit`` command: parse, call one function, print. No logic."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrsic_data.console import answer, bars, give_memory_back, listening, run_app, telling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedtrain.engines.base import Listener as TrainListener

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Build federated image datasets as Parquet shards, prove them, and train on them.\n\n"
    "\b\nExamples:\n"
    "  fedkit quickstart                       the five-minute tour\n"
    "  fedkit build fed-rsic --sample          a first dataset, nothing to download\n"
    "  fedkit build fed-rsic --alpha 0.1       Dirichlet label skew on the real images\n"
    "  fedkit inspect data/fed-rsic            who has what, and how skewed it is\n"
    "  fedkit verify data/fed-rsic             prove every byte against the manifest\n"
    "  fedkit train fedpgp --manifest data/fed-rsic   train a method on it\n"
    "  fedkit report data/fed-rsic runs        a page to look at both\n"
    "  fedkit publish data/fed-rsic --repo USER/NAME  put it on the Hub",
)

Alpha = Annotated[float | None, typer.Option(help="Dirichlet concentration; small is skewed.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything drawn.")]
Subsets = Annotated[list[str] | None, typer.Option(help="Only this subset; may be repeated.")]
Partition = Annotated[str | None, typer.Option(help="Partitioner by name; see: fedkit list partitioners.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A partition setting or recipe field; repeatable."),
]
SourceSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the source, see docs/sources.md; repeatable."),
]
RunSets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the run or of the method; repeatable."),
]
Jobs = Annotated[int | None, typer.Option(help="Processes that write shards; with Ray, its CPUs.")]
BuildEngine = Annotated[str, typer.Option(metavar="local|ray", help="Where shards are written.")]
RayAddress = Annotated[
    str | None, typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster; default one for this build.")
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
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe (fed-rsic), the path of your own, or hf://USER/NAME.")
    ],
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
    out: Annotated[
        str | None, typer.Option(metavar="PATH|URI", help="Folder to write, or s3://...; default data/NAME.")
    ] = None,
    jobs: Jobs = None,
    engine: BuildEngine = "local",
    ray_address: RayAddress = None,
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
      fedkit build flair --jobs 16 --out s3://bucket/flair
      fedkit build flair --engine ray --ray-address auto --out /shared/flair
      fedkit build hf://USER/NAME --sources ~/datasets
    """
    from fedrsic_data import build as pipeline
    from fedrsic_data import engines, rebuild, remote, show
    from fedrsic_data.sources.locate import Places

    runs = engines.chosen(engine, jobs, ray_address)
    sets = [
        *_given(alpha=alpha, clients=clients, seed=seed, on_bad_image=on_bad_image),
        *(["allow_partial=true"] if allow_partial else []),
        *(set_ or []),
    ]
    changes = {"subsets": subset or [], "partitioner": partition, "sample": sample, "sets": sets}
    wanted, published = rebuild.recipe_of(recipe, changes)
    places = Places(folder=sources, given=_pairs(source or []), offline=offline)
    give_memory_back()
    with listening(quiet=json) as listener:
        planned = pipeline.prepare(wanted, places, listener)
        published.check_plan(planned)
        if dry_run:
            answer(show.planned(planned), json)
            return
        place = out or str(Path("data") / wanted.name)
        built = remote.build(planned, place, overwrite=overwrite, listener=listener, engine=runs, check=published.check)
    answer(show.built(built), json)


@app.command(short_help="Write a recipe for images of your own.")
def new(
    recipe: Annotated[Path, typer.Argument(help="The recipe file to write, such as my.json.")],
    folder: Annotated[
        str | None, typer.Option(metavar="PATH", help="Images in folders by class or domain, or with a labels.csv.")
    ] = None,
    hub: Annotated[str | None, typer.Option(metavar="USER/NAME", help="A dataset of the Hub, in Parquet.")] = None,
    parquet: Annotated[str | None, typer.Option(metavar="PATH", help="A Parquet file or a folder of them.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default that of the data.")] = None,
    clients: Clients = None,
    alpha: Alpha = None,
    set_: SourceSets = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the recipe that is there.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    json: Json = False,
) -> None:
    """Look at images of your own and write a recipe for them: labels, domains, users and splits as they are found.

    \b
    Examples:
      fedkit new my.json --folder ~/pictures
      fedkit new my.json --hub USER/NAME --clients 20 --alpha 0.1
      fedkit new my.json --parquet data.parquet --set label=species --set domain=camera
    """
    from fedrsic_data import new as drafts

    chosen = drafts.settings(folder, hub, parquet, set_ or [])
    drafts.check(recipe, force=force)
    with listening(quiet=json) as listener:
        drafted = drafts.draft(chosen, name, clients=clients, alpha=alpha, offline=offline, listener=listener)
    drafts.write(recipe, drafted, force=force)
    answer(drafts.shown(recipe, drafted), json)


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

    give_memory_back()
    with listening(quiet=json) as listener:
        planned = again.prepare(manifest, change, listener)
        if dry_run:
            answer(show.planned(planned), json)
            return
        built = pipeline.build(planned, out, overwrite=overwrite, listener=listener)
    answer(show.built(built), json)


@app.command("split-sites", short_help="Write a dataset folder for each client, to hand to its site.")
def split_sites(
    manifest: Annotated[Path, typer.Argument(help="A built manifest.json or its folder.")],
    out: Annotated[Path, typer.Option(help="Folder to make; one folder a site is made in it.")],
    group: Annotated[int, typer.Option(help="Clients in a folder.")] = 1,
    json: Json = False,
) -> None:
    """Take a built dataset apart: a self-contained folder for each client, and one without images for the server.

    \b
    Examples:
      fedkit split-sites data/fed-rsic --out sites
      fedkit split-sites data/flair --group 1000 --out sites
    """
    from fedrsic_data import show, sites

    with bars(quiet=json) as bar:
        written = sites.split(manifest, out, group=group, progress=bar("sites"))
    answer(show.handed_out(out, written), json)


@app.command(short_help="Show who has what, and how skewed it is.")
def inspect(
    manifest: Annotated[str, typer.Argument(help="A built manifest.json or its folder, or hf://USER/NAME.")],
    subset: Subsets = None,
    clients: Annotated[int, typer.Option(min=0, help="Most clients to list.")] = 40,
    plot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write its pictures there, as SVG and PNG.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a built dataset: rows, classes and label mixture of every client, skew beside its IID band.

    \b
    Examples:
      fedkit inspect data/fed-rsic
      fedkit inspect data/fed-rsic --subset fed-ucmerced --clients 100
      fedkit inspect data/fed-rsic --plot pictures
      fedkit inspect data/fed-rsic --json
      fedkit inspect hf://USER/NAME
    """
    from fedrsic_data import pictures, show
    from fedrsic_data.reader import Dataset

    dataset = Dataset(manifest)
    shown = show.inspected(dataset, subset or [], clients)
    if plot is not None:
        shown = show.with_files(shown, pictures.write(dataset, subset or [], plot))
    answer(shown, json)


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

    with bars(quiet=json) as bar:
        built, problems = prove(manifest, bar("bytes"))
    answer(show.verified(manifest, built, problems), json)
    if problems:
        raise typer.Exit(1)


@app.command(short_help="Publish a built dataset to the Hugging Face Hub.")
def publish(
    manifest: Annotated[Path, typer.Argument(help="A built manifest.json or its folder.")],
    repo: Annotated[str, typer.Option(metavar="USER/NAME", help="The dataset repository; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Publish to this branch.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    reference_only: Annotated[
        bool, typer.Option("--reference-only", help="Who has which image, without the images.")
    ] = False,
    redistribute: Annotated[
        bool, typer.Option("--redistribute", help="Publish images whose licence does not say that this is allowed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Publish a built dataset: verified first, with a card and a Croissant file, in one commit tagged with its plan.

    \b
    Examples:
      fedkit publish data/fed-rsic --repo USER/NAME --dry-run
      fedkit publish data/fed-rsic --repo USER/NAME --private
      fedkit publish data/fed-rsic --repo USER/NAME --reference-only
      fedkit publish data/fed-rsic --repo SOMEBODY/NAME --create-pr
    """
    from fedrsic_data.publish import run
    from fedrsic_data.publish.upload import Target

    with bars(quiet=json) as bar:
        shown = run.publish(
            manifest,
            Target(repo, revision, private, create_pr),
            reference_only=reference_only,
            redistribute=redistribute,
            dry_run=dry_run,
            listener=run.Listener(telling(quiet=json), bar("verified"), bar("uploaded")),
        )
    answer(shown, json)


@app.command(short_help="Train a federated method on a built dataset.")
def train(
    method: Annotated[str, typer.Argument(help="A method by name; see: fedkit list methods.")],
    manifest: Annotated[
        str,
        typer.Option(
            help="A built manifest.json or its folder; hf://USER/NAME; or a recipe, whose data/NAME is taken or built."
        ),
    ],
    subset: Subsets = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to train; default as published.")] = None,
    seed: Seed = None,
    clients_per_round: Annotated[
        int | None, typer.Option(help="Clients asked each round, drawn uniformly; default all.")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")] = None,
    set_: RunSets = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default one below runs.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew, whatever run is there.")] = False,
    engine: Annotated[
        str, typer.Option(metavar="local|flower", help="In this process, or in Flower's simulation.")
    ] = "local",
    sample: Annotated[bool, typer.Option("--sample", help="With a recipe: stand-ins for the real images.")] = False,
    sources: Annotated[Path | None, typer.Option(help="With a recipe: folder searched for its sources.")] = None,
    json: Json = False,
) -> None:
    """Train a federated method, on one subset or on all in turn. A run that was interrupted resumes exactly.

    \b
    Examples:
      fedkit train fedpgp --manifest data/fed-rsic --subset fed-ucmerced
      fedkit train fedrsclip --manifest fed-rsic --sample --rounds 20
      fedkit train promptfl --manifest data/fed-rsic --clients-per-round 5 --seed 1
      fedkit train fedpgp --manifest hf://USER/NAME --rounds 20
      fedkit train fedpgp --manifest data/fed-rsic --set rank=4 --set eval_every=5 --out runs/rank-4
      fedkit train fedpgp --manifest data/fed-rsic --engine flower --set flower.cpus=2
    """
    from fedrsic_data import twin
    from fedrsic_data.sources.locate import Places, cache_folder

    sets = [
        *_given(rounds=rounds, seed=seed, clients_per_round=clients_per_round, device=device),
        *(["tensorboard=true"] if tensorboard else []),
        *(set_ or []),
    ]
    from fedtrain import report, run

    where = run.engine(engine)
    run.draft(method, sets)  # what is mistyped is said before anything is built
    places = Places(folder=sources) if sources else None
    with listening(quiet=json) as listener:
        built = twin.folder(manifest, sample=sample, places=places, needed=subset or [], listener=listener)
    with _training(quiet=json) as hears:
        wanted = run.configs(method, built, subset or [], sets)
        results = run.train_all(wanted, out, overwrite=overwrite, cache=cache_folder(), listener=hears, engine=where)
    answer(report.trained(results, sets), json)
    if not report.learned(results):
        raise typer.Exit(1)


@app.command(short_help="Compare runs: mean and spread over seeds.")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or a folder of such folders.")],
    form: Annotated[str, typer.Option("--format", metavar="text|csv|json|markdown", help="What to print.")] = "text",
    json: Json = False,
) -> None:
    """Compare finished runs: figures down, runs across; runs that differ in their seed alone share a column.

    \b
    Examples:
      fedkit compare runs
      fedkit compare runs/fedpgp-* runs/promptfl-*
      fedkit compare runs --format markdown > table.md
    """
    from fedtrain import report

    found = report.found(runs, note=lambda words: print(words, file=sys.stderr))
    answer(report.compared(report.grouped(found), form), json)


flower = typer.Typer(add_completion=False, rich_markup_mode=None, help="A federation of real sites, over Flower.")
app.add_typer(flower, name="flower", short_help="A federation of real sites, over Flower.")


@flower.command("app", short_help="Write the app of a federation, for flwr run.")
def flower_app(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    method: Annotated[str, typer.Option(help="A method by name; see: fedkit list methods.")],
    manifest: Annotated[Path, typer.Option(help="The server's manifest; see: fedkit split-sites.")],
    subset: Annotated[str | None, typer.Option(help="Only this subset.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds to train; default as published.")] = None,
    seed: Seed = None,
    set_: RunSets = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder, on the server; default runs beside it.")] = None,
    json: Json = False,
) -> None:
    """Write the thin Flower app of a federation: its modules import fedkit, which server and sites have installed.

    \b
    Examples:
      fedkit flower app federation --method fedpgp --manifest sites/server --subset fed-ucmerced
      fedkit flower app federation --method fedlgt --manifest sites/server --set flower.scores=true
    """
    from fedtrain.flower import app as federation

    sets = [*_given(rounds=rounds, seed=seed), *(set_ or [])]
    answer(federation.write(folder, method, manifest, subset, sets, out), json)


@flower.command("run", short_help="Run such an app and wait; exits with 1 if it fails.")
def flower_run(
    folder: Annotated[Path, typer.Argument(help="The app's folder.")],
    connection: Annotated[str | None, typer.Argument(help="A SuperLink of Flower's config.toml.")] = None,
    run_config: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For flwr run --run-config; repeatable.")
    ] = None,
    json: Json = False,
) -> None:
    """Run an app on a SuperLink and wait until it ends. Unlike flwr run, it exits with 1 if the run fails.

    \b
    Examples:
      fedkit flower run federation my-superlink
    """
    from fedtrain.flower import app as federation

    def tell(words: str) -> None:
        if not json:
            print(words, file=sys.stderr)

    answer(federation.run(folder, connection, run_config or [], tell), json)


@app.command(short_help="The five-minute tour: build, train, look.")
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for its datasets, runs and report.")] = Path("quickstart"),
    json: Json = False,
) -> None:
    """Build two procedural samples, train three methods and their baselines on them briefly, and write a report.

    Nothing is downloaded. What is finished is kept, so that it may be interrupted and run again.

    \b
    Examples:
      fedkit quickstart
      fedkit quickstart --out /tmp/tour
    """
    from fedrsic_data import quickstart as samples
    from fedrsic_data.sources.locate import cache_folder

    with listening(quiet=json) as listener:
        datasets = samples.built(out / "data", listener=listener)
    from fedtrain import quickstart as tour

    with _training(quiet=json) as hears:
        shown = tour.train(datasets, out, cache=cache_folder(), listener=hears)
    answer(shown, json)


@app.command(short_help="Write a report of datasets and runs that opens in a browser.")
def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="MANIFEST|RUN...", help="Built manifests, runs, or folders of runs.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    images: Annotated[bool, typer.Option("--images/--no-images", help="Thumbnails of sample images.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is no report.")] = False,
    json: Json = False,
) -> None:
    """Write one HTML file of pictures and tables: who has what, how skewed it is, how the runs went.

    \b
    Examples:
      fedkit report data/fed-rsic
      fedkit report runs --out runs.html
      fedkit report data/fed-rsic runs/fedpgp-* runs/promptfl-* --out report.html
    """
    from fedtrain import pages

    answer(pages.report(paths, out, images=images, overwrite=overwrite), json)


@app.command("list", short_help="List recipes, sources, partitioners and methods.")
def list_(
    what: Annotated[str | None, typer.Argument(metavar="[recipes|sources|partitioners|methods]")] = None,
    json: Json = False,
) -> None:
    """List what there is to build and to train with.

    \b
    Examples:
      fedkit list
      fedkit list partitioners
      fedkit list methods
    """
    if what == "methods":
        from fedtrain import report

        answer(report.methods(), json)
        return
    from fedrsic_data import show

    answer(show.listed(what), json)


def _pairs(texts: list[str]) -> dict[str, str]:
    from fedrsic_data.errors import UsageError

    pairs = dict(text.partition("=")[::2] for text in texts)
    for name, path in pairs.items():
        if not (name and path):
            raise UsageError(f"--source {name}: should look like NAME=PATH")
    return pairs


@contextmanager
def _training(*, quiet: bool) -> Iterator[TrainListener]:
    from rich.console import Console

    from fedtrain import live
    from fedtrain.engines.base import Listener

    def tell(words: str) -> None:
        if not quiet:
            print(words, file=sys.stderr)

    with live.view(Console(stderr=True), quiet=quiet) as rounds:
        yield Listener(say=lambda words: tell(f"{words} ..."), note=tell, round=rounds)


def _given(**options: Any) -> list[str]:
    """``key=value`` for the options that were given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def main() -> None:
    """Runs the command; see ``console.run_app``."""
    run_app(app)


if __name__ == "__main__":
    main()
