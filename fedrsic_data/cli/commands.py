"""The commands of the data layer: parse, call one function, print. ``cli.py`` combines them with training commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrsic_data.cli import completion
from fedrsic_data.cli.console import answer, bars, listening, telling, without_pandas
from fedrsic_data.cli.setting_options import joined

Alpha = Annotated[float | None, typer.Option(help="Dirichlet concentration; smaller is more skewed.")]
Clients = Annotated[int | None, typer.Option(help="Number of clients.")]
Seed = Annotated[int | None, typer.Option(help="Seed of every random draw.")]
Subsets = Annotated[list[str] | None, typer.Option(help="Only this subset; repeatable.")]
Partition = Annotated[
    str | None,
    typer.Option(help="Partitioner by name; see: fedkit list partitioners.", autocompletion=completion.partitioners),
]
Built = Annotated[Path, typer.Argument(help="A built manifest.json or its folder.", autocompletion=completion.datasets)]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A partition setting or recipe field; VALUE is JSON, or text; repeatable."
    ),
]
SourceSets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A setting of the source (docs/sources.md); VALUE is JSON, or text; repeatable.",
    ),
]
Jobs = Annotated[int | None, typer.Option(help="Number of processes that write shards; with Ray, its CPUs.")]
BuildEngine = Annotated[str, typer.Option(metavar="local|ray", help="Where shards are written.")]
RayAddress = Annotated[
    str | None, typer.Option(metavar="auto|HOST:PORT", help="A running Ray cluster; default: start one for this build.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and report; write nothing.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing dataset at the output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def build(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A shipped recipe (fed-rsic) or a subset of one, the path of a recipe file, or hf://USER/NAME.",
            autocompletion=completion.recipes,
        ),
    ],
    alpha: Alpha = None,
    clients: Clients = None,
    seed: Seed = None,
    subset: Subsets = None,
    partition: Partition = None,
    set_: Sets = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Use rendered sample images instead of the real ones.")
    ] = False,
    sources: Annotated[Path | None, typer.Option(help="Folder to search for the sources' folders and zips.")] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="Place of one source (or hf://USER/DATASET@COMMIT); repeatable."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="PATH|URI", help="Folder to write, or s3://...; default: data/NAME.")
    ] = None,
    jobs: Jobs = None,
    engine: BuildEngine = "local",
    ray_address: RayAddress = None,
    dry_run: DryRun = False,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Accept incomplete sources.")] = False,
    on_bad_image: Annotated[
        str | None, typer.Option(metavar="error|skip", help="Stop at damaged images, or skip them.")
    ] = None,
    overwrite: Overwrite = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    json: Json = False,
) -> None:
    """Build a federated dataset from a recipe: read the sources, plan, and write Parquet shards.

    \b
    Examples:
      fedkit build fed-rsic --sample
      fedkit build fed-ucmerced --sample
      fedkit build fed-rsic --alpha 0.5 --sources ~/datasets
      fedkit build fed-rsic --subset fed-ucmerced --clients 20 --seed 1 --out data/ucm-20
      fedkit build fed-rsic --partition pathological --set classes_per_client=5 --dry-run
      fedkit build flair --jobs 16 --out s3://bucket/flair
      fedkit build flair --engine ray --ray-address auto --out /shared/flair
      fedkit build hf://USER/NAME --sources ~/datasets
    """
    from fedrsic_data.build import engines, memory, pipeline
    from fedrsic_data.cli import tables
    from fedrsic_data.publish import object_store, rebuild
    from fedrsic_data.sources.locate import Places

    runs = engines.chosen(engine, jobs, ray_address)
    object_store.check_lasting(out or "")
    sets = [
        *given(alpha=alpha, clients=clients, seed=seed, on_bad_image=on_bad_image),
        *(["allow_partial=true"] if allow_partial else []),
    ]
    changes = {"subsets": subset or [], "partitioner": partition, "sample": sample, "sets": joined(sets, set_)}
    wanted, published = rebuild.recipe_of(recipe, changes)
    places = Places(folder=sources, given=_pairs(source or []), offline=offline)
    memory.frugal()
    with listening(quiet=json) as listener:
        planned = pipeline.prepare(wanted, places, listener)
        listener = rebuild.comparing(published, planned, listener)
        if dry_run:
            answer(tables.planned(planned), json)
            return
        place = out or str(Path("data") / wanted.name)
        if "://" in place:
            built = object_store.build(planned, place, overwrite=overwrite, listener=listener, engine=runs)
        else:
            built = pipeline.build(planned, Path(place), overwrite=overwrite, listener=listener, engine=runs)
    answer(tables.built(built), json)


def new(
    recipe: Annotated[Path, typer.Argument(help="The recipe file to write, such as my.json.")],
    folder: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Images in folders by class or domain, with a labels.csv, or in COCO, VOC or YOLO format.",
        ),
    ] = None,
    hub: Annotated[str | None, typer.Option(metavar="USER/NAME", help="A Parquet dataset on the Hub.")] = None,
    parquet: Annotated[str | None, typer.Option(metavar="PATH", help="A Parquet file or a folder of them.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the dataset; default: the name of the data.")] = None,
    clients: Clients = None,
    alpha: Alpha = None,
    config: Annotated[
        str | None, typer.Option(metavar="NAME", help="Config to use, if the dataset's README has several.")
    ] = None,
    set_: SourceSets = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing recipe.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never download.")] = False,
    json: Json = False,
) -> None:
    """Inspect your own images and write a recipe for them, with the labels, domains, users and splits found.

    \b
    Examples:
      fedkit new my.json --folder ~/pictures
      fedkit new my.json --hub USER/NAME --clients 20 --alpha 0.1
      fedkit new my.json --parquet data.parquet --set label=species --set domain=camera
    """
    from fedrsic_data.cli import new_recipe

    chosen = new_recipe.settings(folder, hub, parquet, set_ or [], config)
    new_recipe.check(recipe, force=force)
    with listening(quiet=json) as listener:
        drafted = new_recipe.draft(chosen, name, clients=clients, alpha=alpha, offline=offline, listener=listener)
    new_recipe.write(recipe, drafted, force=force)
    answer(new_recipe.shown(recipe, drafted), json)


def resplit(
    manifest: Built,
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
    """Draw a new plan for the images of a built dataset. The sources are not needed: shards are made from shards.

    \b
    Examples:
      fedkit resplit data/fed-rsic --alpha 0.1 --out data/fed-rsic-0.1
      fedkit resplit data/fed-rsic --partition shards --set shards_per_client=2 --out data/fed-rsic-shards
      fedkit resplit data/fed-rsic --set shots=16 --set base_to_novel=true --out data/fed-rsic-base
    """
    from fedrsic_data import recipes
    from fedrsic_data.build import memory, pipeline
    from fedrsic_data.cli import tables
    from fedrsic_data.dataset.recipe import Recipe
    from fedrsic_data.derive.resplit import prepare
    from fedrsic_data.settings import encode

    sets = joined(given(alpha=alpha, clients=clients, seed=seed), set_)

    def change(old: Recipe) -> Recipe:
        data = recipes.override(encode(old), subsets=subset or [], partitioner=partition, sets=sets)
        return recipes.from_json(data, f"recipe of {manifest}", built=True)

    memory.frugal()
    with listening(quiet=json) as listener:
        planned = prepare(manifest, change, listener)
        if dry_run:
            answer(tables.planned(planned), json)
            return
        built = pipeline.build(planned, out, overwrite=overwrite, listener=listener)
    answer(tables.built(built), json)


def split_sites(
    manifest: Built,
    out: Annotated[Path, typer.Option(help="Folder to create, with one folder per site in it.")],
    group: Annotated[int, typer.Option(help="Number of clients per folder.")] = 1,
    json: Json = False,
) -> None:
    """Split a built dataset into a self-contained folder per client, and one without images for the server.

    \b
    Examples:
      fedkit split-sites data/fed-rsic --out sites
      fedkit split-sites data/flair --group 1000 --out sites
    """
    from fedrsic_data.cli import tables
    from fedrsic_data.derive import sites

    with bars(quiet=json) as bar:
        written = sites.split(manifest, out, group=group, progress=bar("sites"))
    answer(tables.handed_out(out, written), json)


def inspect(
    manifest: Annotated[
        str,
        typer.Argument(
            help="A built manifest.json or its folder, or hf://USER/NAME.", autocompletion=completion.datasets
        ),
    ],
    subset: Subsets = None,
    clients: Annotated[int, typer.Option(min=0, help="Maximum number of clients to list.")] = 40,
    plot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write figures to this folder, as SVG and PNG.")
    ] = None,
    json: Json = False,
) -> None:
    """Show a built dataset: rows, classes and label mixture per client, and its skew next to the IID range.

    \b
    Examples:
      fedkit inspect data/fed-rsic
      fedkit inspect data/fed-rsic --subset fed-ucmerced --clients 100
      fedkit inspect data/fed-rsic --plot pictures
      fedkit inspect data/fed-rsic --json
      fedkit inspect hf://USER/NAME
    """
    from fedrsic_data.cli import tables
    from fedrsic_data.dataset.reader import Dataset

    without_pandas()
    dataset = Dataset(manifest)
    shown = tables.inspected(dataset, subset or [], clients)
    if plot is not None:
        from fedrsic_data.report import figures

        shown = tables.with_files(shown, figures.write(dataset, subset or [], plot, telling(quiet=json)))
    answer(shown, json)


def verify(manifest: Path, json: bool) -> None:
    """Read every file of a dataset again and compare it with the manifest. Exits with 1 if anything differs."""
    from fedrsic_data.build import verify
    from fedrsic_data.cli import tables

    without_pandas()
    notes: list[str] = []
    with bars(quiet=json) as bar:
        built, problems = verify.verify(manifest, bar("bytes"), notes.append)
    answer(tables.verified(manifest, built, problems, notes), json)
    if problems:
        raise typer.Exit(1)


def publish(
    manifest: Built,
    repo: Annotated[
        str, typer.Option(metavar="USER/NAME", help="The dataset repository; created if it does not exist.")
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Publish to this branch.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    reference_only: Annotated[
        bool, typer.Option("--reference-only", help="Publish the assignment of images to clients, without images.")
    ] = False,
    redistribute: Annotated[
        bool, typer.Option("--redistribute", help="Publish images even if their licence does not state that you may.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Verify a built dataset and publish it with a card and a Croissant file, in one commit tagged with its plan.

    \b
    Examples:
      fedkit publish data/fed-rsic --repo USER/NAME --dry-run
      fedkit publish data/fed-rsic --repo USER/NAME --private
      fedkit publish data/fed-rsic --repo USER/NAME --reference-only
      fedkit publish data/fed-rsic --repo OTHER/NAME --create-pr
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
            listener=run.PublishListener(telling(quiet=json), bar("verified"), bar("uploaded")),
        )
    answer(shown, json)


def given(**options: Any) -> list[str]:
    """Return ``key=value`` for the options that were given."""
    return [f"{key}={value}" for key, value in options.items() if value is not None]


def _pairs(texts: list[str]) -> dict[str, str]:
    from fedrsic_data.errors import UsageError

    pairs = dict(text.partition("=")[::2] for text in texts)
    for name, path in pairs.items():
        if not (name and path):
            raise UsageError(f"--source {name}: should look like NAME=PATH")
    return pairs
