"""The ``fedkit`` command: parse, call one function, print. No logic."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedrsic_data import interrupts
from fedrsic_data.cli import commands, completion
from fedrsic_data.cli.app import App
from fedrsic_data.cli.commands import Json, Subsets
from fedrsic_data.cli.console import answer, listening, run_app, say, telling
from fedrsic_data.cli.setting_options import given_settings, joined, with_settings
from fedrsic_data.errors import FedkitError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fedrsic_data.cli.setting_options import Sections
    from fedtrain.progress import Listener

app = App(
    invoke_without_command=True,
    context_settings={"token_normalize_func": lambda word: word.replace("_", "-")},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Build federated image datasets as Parquet shards, verify them, and train on them.\n\n"
    "\b\nExamples:\n"
    "  fedkit quickstart                       the five-minute tour\n"
    "  fedkit build fed-rsic --sample          a first dataset, without a download\n"
    "  fedkit build fed-rsic --alpha 0.1       Dirichlet label skew on the real images\n"
    "  fedkit inspect data/fed-rsic            clients, their labels, and the skew\n"
    "  fedkit verify data/fed-rsic             check every byte against the manifest\n"
    "  fedkit train fedpgp --manifest data/fed-rsic   train a method on it\n"
    "  fedkit report data/fed-rsic runs        one HTML page about both\n"
    "  fedkit publish data/fed-rsic --repo USER/NAME  put it on the Hub",
)

RunSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting of the run or the method; VALUE is JSON, or text; repeatable."
    ),
]


def _methods() -> list[str]:
    from fedtrain.methods import METHODS

    return list(METHODS)


def _experiments() -> list[str]:
    from fedtrain.experiments.spec import shipped

    return [*shipped(), *sorted(map(str, Path().glob("*.json")))]


def _settings_of(words: Sequence[str]) -> tuple[str, Sections]:
    from fedtrain import run

    return run.settings_of(words)


@app.callback()
def fedkit(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Print the version, or the help when no command is given."""
    if version:
        print_version()
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(short_help="The five-minute tour: build, train, look.")
def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for the datasets, runs and report.")] = Path("quickstart"),
    json: Json = False,
) -> None:
    """Build two procedural samples, train three methods and their baselines on them briefly, and write a report.

    Nothing is downloaded. Finished steps are kept, so you can interrupt it and run it again.

    \b
    Examples:
      fedkit quickstart
      fedkit quickstart --out /tmp/tour
    """
    from fedrsic_data.cli import sample_datasets
    from fedrsic_data.files.cache import cache_folder

    with listening(quiet=json) as listener:
        datasets = sample_datasets.built(out / "data", listener=listener)
    from fedtrain.report.quickstart import train_tour

    with _training(quiet=json) as hears:
        shown = train_tour(datasets, out, cache=cache_folder(), listener=hears)
    answer(shown, json)


app.command(short_help="Build a federated dataset from a recipe.")(commands.build)
app.command(short_help="Write a recipe for your own images.")(commands.new)
app.command(short_help="Redistribute the images of a built dataset over new clients.")(commands.resplit)
app.command("split-sites", short_help="Write a dataset folder for each client's site.")(commands.split_sites)
app.command(short_help="Show each client's data, and how skewed it is.")(commands.inspect)
app.command(short_help="Publish a built dataset to the Hugging Face Hub.")(commands.publish)


@app.command(cls=with_settings(_settings_of, "method"), short_help="Train a federated method on a built dataset.")
def train(
    context: typer.Context,
    method: Annotated[str, typer.Argument(help="A method by name; see: fedkit list methods.", autocompletion=_methods)],
    manifest: Annotated[
        str,
        typer.Option(
            help="A built manifest.json or its folder; hf://USER/NAME; or a recipe, whose data/NAME is used or built.",
            autocompletion=completion.datasets_or_recipes,
        ),
    ],
    subset: Subsets = None,
    set_: RunSets = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: a new folder in runs.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing run and start again.")] = False,
    engine: Annotated[
        str, typer.Option(metavar="local|flower", help="Train in this process, or in Flower's simulation.")
    ] = "local",
    sample: Annotated[bool, typer.Option("--sample", help="With a recipe: use rendered sample images.")] = False,
    sources: Annotated[Path | None, typer.Option(help="With a recipe: folder to search for its sources.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the run's time and memory go.")] = False,
    json: Json = False,
) -> None:
    """Train a federated method on one subset, or on all of them in turn. An interrupted run resumes exactly.

    Every setting of the run and of the method is an option; fedkit train METHOD --help lists those of a method.

    \b
    Examples:
      fedkit train fedpgp --manifest data/fed-rsic --subset fed-ucmerced
      fedkit train fedrsclip --manifest fed-rsic --sample --rounds 20
      fedkit train promptfl --manifest data/fed-rsic --clients-per-round 5 --seed 1
      fedkit train fedpgp --manifest hf://USER/NAME --rounds 20
      fedkit train fedpgp --manifest data/fed-rsic --rank 4 --eval-every 5 --out runs/rank-4
      fedkit train fedpgp --manifest data/fed-rsic --engine flower --flower.cpus 2
      fedkit train fedpgp --manifest data/fed-rsic --engine flower --dp.noise 0.5
    """
    from fedrsic_data import recipes
    from fedrsic_data.derive import find
    from fedrsic_data.files.cache import cache_folder
    from fedrsic_data.sources.locate import Places

    sets = joined(given_settings(context), set_)
    from fedtrain import engines, run
    from fedtrain.report import answers
    from fedtrain.runs.results import learned

    run.draft(method, sets)  # what is mistyped is said before anything is built
    where = engines.chosen(engine)
    places = Places(folder=sources) if sources else None
    with listening(quiet=json) as listener:
        built = find.folder(manifest, sample=sample, places=places, needed=subset or [], listener=listener)
    with _training(quiet=json) as hears:
        wanted = run.configs(method, built, subset or [], sets)
        results = run.train_all(
            wanted,
            out,
            overwrite=overwrite,
            cache=cache_folder(),
            listener=hears,
            engine=where,
            varied=recipes.varied,
            profile=profile,
        )
    answer(answers.trained(results, sets), json)
    if not learned(results):
        raise FedkitError("all updates contained NaN or infinity, so nothing was learned; lower lr (--lr)")


@app.command(short_help="Run datasets x methods x seeds from one file, and make its tables.")
def experiment(
    file: Annotated[
        str,
        typer.Argument(
            help="A JSON file, see docs/experiments.md; or one of: fedkit list experiments.",
            autocompletion=_experiments,
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Its folder; default: experiments/NAME.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, each in its own process.")] = 1,
    gpus: Annotated[str | None, typer.Option(metavar="0,1", help="GPUs that the processes share.")] = None,
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only runs whose name has this text.")] = "",
    table: Annotated[str, typer.Option(metavar="text|csv|markdown|latex", help="The form of the tables.")] = "text",
    sample: Annotated[bool, typer.Option("--sample", help="A short run on rendered sample images.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; build and train nothing.")] = False,
    sources: Annotated[Path | None, typer.Option(help="Folder searched for sources of recipes.")] = None,
    json: Json = False,
) -> None:
    """Build what is missing, train what is not finished, and print the tables. An interrupted experiment resumes.

    Exits with 1 if a run failed; the others are trained all the same.

    \b
    Examples:
      fedkit experiment prompt-methods
      fedkit experiment fedpgp-base-to-novel --sample
      fedkit experiment table.json --dry-run
      fedkit experiment table.json --jobs 2 --table latex
      fedkit experiment table.json --gpus 0,1 --only fedpgp
    """
    from fedrsic_data.files.cache import cache_folder
    from fedrsic_data.sources.locate import Places
    from fedtrain.experiments import answers, spec
    from fedtrain.report import seed_table

    seed_table.check(table)
    wanted = spec.on_sample(spec.load(file)) if sample else spec.load(file)
    place = out or Path("experiments") / wanted.name
    from fedrsic_data.build.pipeline import BuildListener
    from fedtrain.experiments import run

    if dry_run:
        answer(answers.listed(*run.planned(wanted, place, only), wanted.protocol), json)
        return
    with _training(quiet=json) as training:
        done = run.run(
            wanted,
            place,
            jobs=max(jobs, len(gpus.split(","))) if gpus else jobs,
            gpus=gpus.split(",") if gpus else (),
            only=only,
            places=Places(folder=sources) if sources else None,
            cache=cache_folder(),
            progress=run.Progress(
                lambda words: say(words, quiet=json),
                lambda *ended: say(answers.line(*ended), quiet=json),
                BuildListener(step=telling(quiet=json)),
                training,
            ),
        )
    answer(answers.finished(done, table), json)
    if done.failed:
        raise typer.Exit(1)


@app.command(short_help="Compare runs: mean and spread over seeds.")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or a folder of such folders.")],
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Print only this one; give it again for more. Also 'last5 of M', 'rounds to 80 of M'."),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="text|csv|json|markdown", help="What to print.")] = "text",
    json: Json = False,
) -> None:
    """Compare finished runs: a row per metric, a column per run. Runs that differ only in their seed share a column.

    \b
    Examples:
      fedkit compare runs
      fedkit compare runs/fedpgp-* runs/promptfl-*
      fedkit compare runs --metric test/local/mean --metric "rounds to 80 of test/local/mean"
      fedkit compare runs --format markdown > table.md
    """
    from fedtrain.report import answers
    from fedtrain.runs.over_rounds import reader
    from fedtrain.runs.results import found, grouped

    held = found(runs, note=say)
    answer(answers.compared(grouped(held, reader(held, metric or ())), form), json)


@app.command(short_help="Check a built dataset against its manifest, or a finished run against its seal.")
def verify(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MANIFEST|RUN",
            help="A built manifest.json or its folder; or a finished run.",
            autocompletion=completion.datasets,
        ),
    ],
    json: Json = False,
) -> None:
    """Read every file of a dataset again and compare it with the manifest, or a finished run with its seal.

    Exits with 1 if anything differs.

    \b
    Examples:
      fedkit verify data/fed-rsic
      fedkit verify runs/fedpgp-fed-rsic-seed0
      fedkit verify data/fed-rsic --json
    """
    from fedtrain.runs.files import is_run

    if not is_run(path):
        commands.verify(path, json)
        return
    from fedtrain.report import answers
    from fedtrain.runs.verify import check_run

    run, problems, notes = check_run(path)
    answer(answers.verified(path, run, problems, notes), json)
    if problems:
        raise typer.Exit(1)


flower = App(add_completion=False, rich_markup_mode=None, help="A federation of real sites, over Flower.")
app.add_typer(flower, name="flower", short_help="A federation of real sites, over Flower.")


@flower.command(
    "app", cls=with_settings(_settings_of, "method"), short_help="Write the app of a federation, for flwr run."
)
def flower_app(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    method: Annotated[str, typer.Option(help="A method by name; see: fedkit list methods.", autocompletion=_methods)],
    manifest: Annotated[str, typer.Option(help="The server's manifest; see: fedkit split-sites.")],
    subset: Annotated[str | None, typer.Option(help="Only this subset.")] = None,
    set_: RunSets = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder on the server; default: runs/FOLDER.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing app.")] = False,
    json: Json = False,
) -> None:
    """Write a thin Flower app for a federation. Its modules import fedkit, which the server and sites need installed.

    Every setting of the run and of the method is an option, as of fedkit train.

    \b
    Examples:
      fedkit flower app my-app --method fedpgp --manifest sites/server --subset fed-ucmerced
      fedkit flower app my-app --method fedlgt --manifest sites/server --flower.scores
      fedkit flower app my-app --method fedpgp --manifest sites/server --dp.noise 0.5
    """
    from fedtrain.federation.app import write_app

    sets = joined(given_settings(context), set_)
    answer(write_app(folder, method, manifest, subset, sets, out, overwrite=overwrite), json)


@flower.command("run", short_help="Run an app and wait; exits with 1 if it fails.")
def flower_run(
    folder: Annotated[Path, typer.Argument(help="The app's folder.")],
    connection: Annotated[str | None, typer.Argument(help="A SuperLink's name in Flower's config.toml.")] = None,
    run_config: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Changes to the app: method, manifest, subset, sets, out or overwrite; quote text values.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run an app on a SuperLink and wait for the end. Unlike flwr run, it exits with 1 if the run fails.

    \b
    Examples:
      fedkit flower run my-app federation
      fedkit flower run my-app federation --run-config "sets='rounds=50 seed=1' out='/srv/runs/seed-1'"
    """
    from fedtrain.federation import launch

    answer(launch.run(folder, connection, run_config or [], lambda words: say(words, quiet=json)), json)


@app.command(short_help="Write an HTML report of datasets and runs.")
def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="MANIFEST|RUN...", help="Built manifests, runs, or folders of runs.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    images: Annotated[bool, typer.Option("--images/--no-images", help="Include thumbnails of images.")] = True,
    json: Json = False,
) -> None:
    """Write one HTML file with figures and tables: each client's data, the skew, and the results of runs.

    \b
    Examples:
      fedkit report data/fed-rsic
      fedkit report runs --out runs.html
      fedkit report data/fed-rsic runs/fedpgp-* runs/promptfl-* --out report.html
    """
    from fedtrain.report import html

    answer(html.report(paths, out, images=images, step=telling(quiet=json)), json)


@app.command("list", short_help="List recipes, sources, partitioners, methods and experiments.")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[recipes|sources|partitioners|methods|experiments]",
            autocompletion=lambda: ["recipes", "sources", "partitioners", "methods", "experiments"],
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the recipes, sources, partitioners and methods, or the experiments that come with fedkit.

    \b
    Examples:
      fedkit list
      fedkit list partitioners
      fedkit list methods
    """
    if what == "methods":
        from fedtrain.report import answers

        answer(answers.methods(), json)
        return
    if what == "experiments":
        from fedtrain.experiments.answers import shipped

        answer(shipped(), json)
        return
    from fedrsic_data.cli import listing

    answer(listing.listed(what), json)


@app.command("version", short_help="Print the version.")
def print_version() -> None:
    """Print the version, as fedkit --version does.

    \b
    Examples:
      fedkit version
    """
    from fedrsic_data import distribution

    print("fedkit", distribution.version())


@contextmanager
def _training(*, quiet: bool) -> Iterator[Listener]:
    from rich.console import Console

    from fedtrain.progress import Listener
    from fedtrain.report import live

    with live.view(Console(stderr=True), quiet=quiet) as rounds:
        yield Listener(say=telling(quiet=quiet), note=lambda words: say(words, quiet=quiet), round=rounds)


def main() -> None:
    """Run the command line through ``console.run_app``."""
    run_app(app)


if __name__ == "__main__":
    interrupts.install()
    main()
