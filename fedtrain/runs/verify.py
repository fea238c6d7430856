"""Proves a finished run: that its metrics are those it finished with, of this config, on this dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedrsic_data.dataset.reader import Dataset, Subset
from fedrsic_data.dataset.verify import Problem
from fedrsic_data.errors import FedkitError
from fedtrain.config import group, told_of
from fedtrain.runs import seal
from fedtrain.runs.files import CONFIG, RESULT
from fedtrain.runs.folder import Result, load


def check_run(folder: Path) -> tuple[Result, list[Problem], list[str]]:
    """Compares a finished run with its seal and, where that is at hand, with its dataset.

    Args:
        folder: The run's.

    Returns:
        The run; what is wrong, nothing if it is proved; and in words what could not be compared.

    Raises:
        OutputError: It holds no run, or one that is not finished or cannot be read.
    """
    run = load(folder, proved=False)
    found = seal.problems(folder, run.facts, run.data)
    problems = [Problem(file, f"is not as the run left it: {words}") for file, words in found]
    if not run.sealed:
        problems.append(Problem(RESULT, "has no seal, an older fedkit wrote it: nothing proves its metrics"))
    notes = []
    match seal.server_state(folder, run.data):
        case False:
            problems.append(Problem(seal.SERVER, "is not as the run left it: its digest differs from the sealed one"))
        case None:
            notes.append(f"{seal.SERVER} is not there, or was not sealed; it was not compared")
    dataset = _dataset(run)
    if isinstance(dataset, str):
        notes.append(dataset)
    else:
        problems += _against(run, dataset)
    return run, problems, notes


def _dataset(run: Result) -> Dataset | str:
    """The dataset that it was trained on; in words why it was not compared, if it is not at hand."""
    where = run.facts["config"]["manifest"]
    try:
        found = Dataset(where)
    except FedkitError:
        return f"the dataset is not at {where}; it was not compared"
    if found.manifest.digest != run.facts["dataset"]["digest"]:
        return f"{where} holds another dataset now; the run was not compared with it"
    return found


def _against(run: Result, dataset: Dataset) -> Iterator[Problem]:
    """Compare a run's record of its dataset with the manifest and the client table; older runs record less."""
    manifest, config, told = dataset.manifest, run.facts["config"], run.facts["dataset"]
    name = config["subset"]
    if name not in manifest.subsets:
        yield Problem(CONFIG, f"says subset={name!r}, and its dataset has {', '.join(manifest.subsets)}")
        return
    for key, value in told_of(manifest, name).items():
        if key in told and told[key] != value:
            yield Problem(CONFIG, f"says {key}={told[key]!r} of its dataset, whose manifest says {value!r}")
    if run.sealed and run.facts["group"] != group(config, manifest, run.facts.get("weights")):
        yield Problem(CONFIG, "group is not the digest of config and recipe")
    rows = _rows(dataset.subset(name))
    for split, held in run.data["clients"].items():
        if split not in rows:
            yield Problem(CONFIG, f"says that it was judged on {split!r}, and {name} has {', '.join(rows)}")
        elif config.get("held_out") is None and held.get("rows") and held["rows"] != rows[split]:
            yield Problem(RESULT, f"clients.{split}.rows are not those of the dataset's clients")


def _rows(subset: Subset) -> dict[str, dict[str, int]]:
    """Split -> client -> rows."""
    found: dict[str, dict[str, int]] = {split: {} for split in subset.splits}
    columns = (subset.client_table.column(name).to_pylist() for name in ("split", "client_id", "rows"))
    for split, client, count in zip(*columns, strict=True):
        found[split][client] = count
    return found
