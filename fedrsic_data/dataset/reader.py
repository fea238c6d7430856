"""Read built datasets: reading a client touches only its row groups."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fedrsic_data.dataset import schema, skew
from fedrsic_data.dataset.local import Files, LocalFiles, is_address
from fedrsic_data.dataset.manifest import Shard
from fedrsic_data.errors import ManifestError, UsageError
from fedrsic_data.settings import path_of, suggest

if TYPE_CHECKING:
    import datasets

    from fedrsic_data.dataset.owners import Owners


_SKEW = ({"value"}, {"value", "iid_low", "iid_high"})
"""A metric: its value, and the range that chance gives, if that applies."""

_SHOWN = 20  # clients of a table in a notebook
_IMAGE = "image"


@dataclass(frozen=True)
class Piece:
    """Row groups of one file that hold one client's rows of a split."""

    file: str
    row_group: int
    row_groups: int
    rows: int


class Dataset:
    """A built dataset: its files, its manifest, and its subsets by name."""

    def __init__(self, path: str | os.PathLike[str], *, proved: bool = False) -> None:
        """Opens a manifest, the folder it is in, or a dataset of the Hub; see ``fedrsic_data.open``."""
        self._proved = proved
        self._compared: set[str] = set()
        place = path_of("dataset", path)
        if is_address(path):
            from fedrsic_data.dataset.hub import HubFiles

            self.files: Files = HubFiles(path)
        else:
            self.files = LocalFiles(place)
        self.manifest = self.files.manifest
        for name, subset in self.manifest.subsets.items():
            if "train" not in subset.rows or not all(facts.keys() in _SKEW for facts in subset.skew.values()):
                raise ManifestError(f"{self.where}: rows or skew of {name} are incomplete; run: fedkit verify")

    @property
    def folder(self) -> Path:
        """Where its manifest is on this machine."""
        return self.files.folder

    @property
    def where(self) -> str:
        """A path, or an address with a commit, that opens exactly this dataset again."""
        return self.files.where

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of its subsets."""
        return tuple(self.manifest.subsets)

    def subset(self, name: str) -> Subset:
        """One federation.

        Raises:
            UsageError: There is no such subset.
        """
        if not isinstance(name, str) or name not in self.manifest.subsets:
            raise UsageError(f"{self.where}: no subset {name!r}{suggest(str(name), self.subsets)}")
        return Subset(self, name)

    def __repr__(self) -> str:
        return f"<Dataset {self.manifest.name} at {self.where}: {', '.join(self.subsets)}>"

    def _repr_html_(self) -> str:
        from fedrsic_data.dataset import notebook

        rows = [(n, len(e.classes), e.clients, sum(e.rows.values())) for n, e in self.manifest.subsets.items()]
        return notebook.table(f"{self.manifest.name} ({self.where})", ("subset", "classes", "clients", "images"), rows)

    def __len__(self) -> int:
        return len(self.subsets)

    def __iter__(self) -> Iterator[Subset]:
        return map(self.subset, self.subsets)

    def __getitem__(self, which: str | int) -> Subset:
        """A subset by name or number; see ``subset``."""
        return self.subset(_name(which, self.subsets, f"{self.where}: subset"))

    @cached_property
    def client_table(self) -> pa.Table:
        """``clients.parquet``: a row a subset, client and split; see ``schema.CLIENTS_SCHEMA``."""
        return self._table(self.manifest.clients.path, schema.CLIENTS_SCHEMA)

    @cached_property
    def plan(self) -> pa.Table:
        """``plan.parquet``: the owner of every image; see ``schema.plan_schema``."""
        return self._table(self.manifest.plan.path, self.manifest.plan_schema)

    def demand_proof(self) -> None:
        """Compare every shard with its digest before it is read, from now on."""
        self._proved = True

    def shard(self, name: str, *, images: int | None = 0) -> AbstractContextManager[pq.ParquetFile]:
        """A shard by its path beside the manifest.

        It is compared with its digest first if proof was demanded, or if all of its images are read anyway; and where
        proof was demanded, also with plan and client table, which may list other images although digests agree.

        Args:
            name: The path.
            images: How many of its images are read; None: all.

        Raises:
            ManifestError: It is missing or damaged, was not published, or does not match the manifest.
        """
        self.check_images()
        if name not in self._shards:
            raise ManifestError(f"{self.where}: {name!r} is not a file of this dataset; the client table is damaged")
        subset, shard = self._shards[name]
        if self._proved or images in (None, shard.rows):
            self.files.prove(shard)
        if self._proved and name not in self._compared:
            with self.files.parquet(name) as file:
                words = self._owners.differ(subset, shard, file)
            if words:
                raise ManifestError(f"{self.where}/{name}: {words}; run: fedkit verify")
            self._compared.add(name)
        return self.files.parquet(name)

    @cached_property
    def _shards(self) -> dict[str, tuple[str, Shard]]:
        """Each shard and the name of its subset, by its path."""
        return {shard.path: (name, shard) for name, held in self.manifest.subsets.items() for shard in held.shards}

    @cached_property
    def _owners(self) -> Owners:
        from fedrsic_data.dataset.owners import COLUMNS, Owners

        plan = self._table(self.manifest.plan.path, self.manifest.plan_schema, list(COLUMNS))
        return Owners(self.manifest, plan, self.client_table)

    def check_images(self) -> None:
        """Refuses a reference.

        Raises:
            ManifestError: The dataset was published without its images.
        """
        if self.manifest.reference:
            raise ManifestError(
                f"{self.where}: is a dataset published without its images; build them from the sources: "
                "fedkit build hf://USER/NAME"
            )

    def _table(self, name: str, expected: pa.Schema, columns: list[str] | None = None) -> pa.Table:
        with self.files.parquet(name) as file:
            self.check_columns(name, file, expected)
            return file.read(columns=columns)

    def check_columns(self, name: str, file: pq.ParquetFile, expected: pa.Schema) -> None:
        """Refuses a file with other columns, or other types, than it should have.

        Raises:
            ManifestError: It has such.
        """
        if not file.schema_arrow.equals(expected):
            raise ManifestError(f"{self.where}/{name}: does not have the expected columns; run: fedkit verify")


class Subset:
    """A federation: its label space and its clients."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        self.entry = dataset.manifest.subsets[name]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in index order."""
        return self.entry.classes

    @cached_property
    def class_sources(self) -> tuple[str, ...]:
        """The source of each class where sources keep their classes apart; "" for each elsewhere."""
        return self.dataset.manifest.recipe.class_sources(self.name, self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Split names, ``train`` first."""
        return tuple(self.entry.rows)

    @cached_property
    def clients(self) -> tuple[str, ...]:
        """Client ids in order, those without rows included."""
        return tuple(self._place)

    @cached_property
    def client_table(self) -> pa.Table:
        """The subset's rows of ``clients.parquet``."""
        mine = _where(self.dataset.client_table, "subset", self.name)
        ids = [_where(mine, "split", split).column("client_id").combine_chunks() for split in self.splits]
        whole = pc.count_distinct(ids[0]).as_py() == len(ids[0]) and all(some.equals(ids[0]) for some in ids)
        if not whole or not countable(mine, self.classes) or not self._placed(mine):
            where = f"{self.dataset.where}/{self.dataset.manifest.clients.path}"
            raise ManifestError(f"{where}: does not match the manifest's entry for {self.name}; run: fedkit verify")
        return mine

    @cached_property
    def plan(self) -> pa.Table:
        """The subset's rows of ``plan.parquet``.

        Raises:
            ManifestError: Images that someone owns have labels that are no classes of the subset, or none at all; or
                labels are unknown, and the manifest does not say so.
        """
        mine = _where(self.dataset.plan, "subset", self.name)
        owned = mine.filter(pc.is_valid(mine.column("client_id")))
        known = pc.is_in(pc.list_flatten(owned.column("labels")), value_set=pa.array(self.classes, pa.string()))
        silent = self.entry.unknown is None and "labels_unknown" in mine.column_names
        if (
            any(owned.column(name).null_count for name in ("labels", "domain", "split"))
            or pc.all(known).as_py() is False
            or (silent and len(pc.list_flatten(owned.column("labels_unknown"))))
        ):
            where = f"{self.dataset.where}/{self.dataset.manifest.plan.path}"
            raise ManifestError(f"{where}: does not match the manifest's entry for {self.name}; run: fedkit verify")
        return mine

    @property
    def skew(self) -> pa.Table:
        """Its skew metrics, each beside the IID band: ``metric``, ``value``, ``iid_low``, ``iid_high``."""
        return skew.as_table(self.entry.skew)

    def client_skew(self, split: str = "train") -> pa.Table:
        """A row a client: ``client_id``, ``rows``, ``classes``, and its distances to the mixture of all.

        Raises:
            UsageError: There is no such split.
        """
        self._check(split)
        counts, _ = skew.tables(self.client_table, len(self.classes), split)
        return skew.per_client(counts, self.clients)

    @cached_property
    def unknown(self) -> NDArray[np.int64] | None:
        """In how many training rows each client does not know each label, int64 [clients, classes].

        None where every label is known, and where only the sites can tell.
        """
        if self.entry.unknown is None or self.entry.withheld:
            return None
        from fedrsic_data.dataset import unknown

        return unknown.counts(self.plan, self.entry, self.clients)

    def __repr__(self) -> str:
        return f"<Subset {self.name}: {len(self.classes)} classes, {len(self.clients):,} clients>"

    def _repr_html_(self) -> str:
        from fedrsic_data.dataset import notebook

        rows = [(client, *(self.rows(client, split) for split in self.splits)) for client in self.clients[:_SHOWN]]
        return notebook.table(repr(self)[1:-1], ("client", *self.splits), rows, len(self.clients))

    def __len__(self) -> int:
        return len(self.clients)

    def __iter__(self) -> Iterator[Client]:
        return map(self.client, self.clients)

    def __getitem__(self, which: str | int) -> Client:
        """A client by name or number; see ``client``."""
        return self.client(_name(which, self.clients, f"{self.name}: client"))

    def pooled(self, split: str = "train") -> datasets.Dataset:
        """All clients' rows of a split as one ``datasets.Dataset``, in memory: for training at one place.

        Raises:
            UsageError: There is no such split.
        """
        import datasets

        return datasets.Dataset(self.read(split))

    def client(self, client_id: str) -> Client:
        """One client.

        Raises:
            UsageError: There is no such client.
        """
        if client_id not in self._place:
            raise UsageError(f"{self.name}: no client {client_id!r}; there are {len(self.clients)}, {self._example()}")
        return Client(self, client_id)

    def part(self, clients: Sequence[str]) -> Subset:
        """A view with only these clients; its ``entry`` still describes the whole subset.

        Raises:
            UsageError: There is no such client.
        """
        for client in clients:
            self.client(client)
        return _Part(self.dataset, self.name, clients)

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All clients' rows of a split, pooled, in the order of the clients.

        Raises:
            UsageError: There is no such split.
        """
        wanted = self.schema(columns)
        self._check(split)
        files = pc.unique(self._of_split[split].column("file")).drop_null().to_pylist()
        tables = [wanted.empty_table()]
        for name in files:  # whole files: shards are in the order of their clients, and hold no others
            with self.shard(name, images=None if _IMAGE in wanted.names else 0) as file:
                tables.append(self.fitting(file.read(columns=wanted.names), wanted, name))
        return pa.concat_tables(tables)

    @contextmanager
    def shard(self, name: str, *, images: int | None = 0) -> Iterator[pq.ParquetFile]:
        """A shard of the subset with the columns that it should have; see ``Dataset.shard``."""
        with self.dataset.shard(name, images=images) as file:
            self.dataset.check_columns(name, file, self._schema)
            yield file

    def fitting(self, table: pa.Table, wanted: pa.Schema, name: str) -> pa.Table:
        """Rows of the shard ``name`` in the wanted columns.

        Raises:
            ManifestError: A label is none of the subset's classes, or is listed as present and unknown at once, or
                unknown labels are not listed once each in the order of the classes.
        """
        rows = table.select(wanted.names).cast(wanted)
        where = f"{self.dataset.where}/{name}"
        fine = self.entry.fine.classes if self.entry.fine else ()
        for column in {"label", "labels", "labels_unknown", "fine_labels"} & set(wanted.names):
            classes = fine if column == "fine_labels" else self.classes
            numbers = rows.column(column) if column == "label" else pc.list_flatten(rows.column(column))
            if rows.column(column).null_count or numbers.null_count or _outside(numbers, len(classes) - 1):
                words = f"{where}: {column} has a value that is no class of {self.name}"
                raise ManifestError(f"{words}; run: fedkit verify")
        if "labels_unknown" in wanted.names:
            from fedrsic_data.dataset import unknown

            if words := unknown.disorder(rows, self.entry):
                raise ManifestError(f"{where}: {words}; run: fedkit verify")
        return rows

    def schema(self, columns: Sequence[str] | None = None) -> pa.Schema:
        """The schema of its rows, or of some columns of them.

        Raises:
            UsageError: There is no such column.
        """
        if columns is None:
            return self._schema
        for name in columns:
            if name not in self._schema.names:
                raise UsageError(f"no column {name!r}{suggest(str(name), self._schema.names)}")
        return pa.schema([self._schema.field(name) for name in columns])

    def rows(self, client_id: str, split: str) -> int:
        """A client's rows of a split, wherever they are.

        Raises:
            UsageError: There is no such split.
        """
        self._check(split)
        rows: int = self._of_split[split].column("rows")[self._place[client_id]].as_py()
        return rows

    def pieces(self, client_id: str, split: str) -> tuple[Piece, ...]:
        """Where a client's rows of a split are.

        Raises:
            UsageError: There is no such split.
        """
        self._check(split)
        row = self._of_split[split].slice(self._place[client_id], 1).to_pylist()[0]
        if row["file"] is None:
            return ()
        return (Piece(row["file"], row["row_group"], row["row_groups"], row["rows"]),)

    @cached_property
    def _schema(self) -> pa.Schema:
        fine = self.entry.fine.classes if self.entry.fine else ()
        hidden = self.entry.unknown is not None
        return schema.shard_schema(self.classes, multi_label=self.entry.multi_label, fine=fine, unknown=hidden)

    @cached_property
    def _of_split(self) -> dict[str, pa.Table]:
        """Where the rows of each split are, a row a client in the order of clients."""
        places = self.client_table.select(["split", "client_id", "file", "row_group", "row_groups", "rows"])
        return {split: _where(places, "split", split).combine_chunks() for split in self.splits}

    @cached_property
    def _place(self) -> dict[str, int]:
        ids = self._of_split[self.splits[0]].column("client_id").to_pylist()
        return {client: row for row, client in enumerate(ids)}

    def _placed(self, clients: pa.Table) -> bool:
        """Whether rows of the client table put rows of a split into shards of that split, as many as these hold."""
        held = clients.filter(pc.is_valid(clients.column("file"))).group_by(["file", "split"])
        told = {(row["file"], row["split"]): row["rows_sum"] for row in held.aggregate([("rows", "sum")]).to_pylist()}
        return told == {(shard.path, shard.split): shard.rows for shard in self.entry.shards if shard.rows}

    def _check(self, split: str) -> None:
        if split not in self.splits:
            raise UsageError(f"{self.name}: no split {split!r}; there are {', '.join(self.splits)}")

    def _example(self) -> str:
        return f"{self.clients[0]} to {self.clients[-1]}" if self.clients else "none"


class _Part(Subset):
    """Some clients of a subset."""

    def __init__(self, dataset: Dataset, name: str, clients: Sequence[str]) -> None:
        super().__init__(dataset, name)
        whole = super().client_table
        self.client_table = whole.filter(pc.is_in(whole.column("client_id"), value_set=pa.array(clients, pa.string())))

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read clients one by one, since a file may hold other clients too; see ``Subset.read``."""
        wanted = self.schema(columns)
        return pa.concat_tables([wanted.empty_table(), *(self.client(c).read(split, columns) for c in self.clients)])


class Client:
    """One client's rows."""

    def __init__(self, subset: Subset, client_id: str) -> None:
        self.subset = subset
        self.id = client_id

    def __repr__(self) -> str:
        rows = ", ".join(f"{self.rows(split):,} {split}" for split in self.subset.splits)
        return f"<Client {self.id} of {self.subset.name}: {rows}>"

    def _repr_html_(self) -> str:
        from fedrsic_data.dataset import notebook

        rows = [(split, self.rows(split)) for split in self.subset.splits]
        return notebook.table(f"{self.id} of {self.subset.name}", ("split", "images"), rows)

    def __len__(self) -> int:
        return len(self.subset.splits)

    def __iter__(self) -> Iterator[datasets.Dataset]:
        return map(self.dataset, self.subset.splits)

    def __getitem__(self, which: str | int) -> datasets.Dataset:
        """The rows of a split, by its name or number; see ``dataset``."""
        return self.dataset(_name(which, self.subset.splits, f"{self.id}: split"))

    def rows(self, split: str) -> int:
        """Number of rows in a split."""
        return self.subset.rows(self.id, split)

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The client's rows of a split as one Arrow table.

        Args:
            split: ``"train"``, or a held-out split of the recipe.
            columns: Only these; None for all of ``schema.shard_schema``.

        Raises:
            UsageError: There is no such split or column.
            ManifestError: A shard is missing or does not hold the row groups it should.
        """
        batches = list(self.batches(split, rows=1 << 20, columns=columns))
        return pa.Table.from_batches(batches, schema=self.subset.schema(columns))

    def known(self, split: str) -> NDArray[np.bool_] | None:
        """Which labels of the client's rows are known: bool [rows, classes] in their order, or None if all are.

        Raises:
            UsageError: There is no such split.
            ManifestError: A shard is missing or does not hold the row groups it should.
        """
        if self.subset.entry.unknown is None:
            return None
        from fedrsic_data.dataset import unknown

        return unknown.known(self.read(split, ["labels_unknown"]).column(0), len(self.subset.classes))

    def batches(self, split: str, rows: int = 256, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The same rows in batches of at most ``rows``, a row group in memory at a time.

        Raises:
            UsageError: There is no such split or column, or ``rows`` is below 1.
            ManifestError: A shard is missing or does not hold the row groups it should.
        """
        if rows < 1:
            raise UsageError(f"rows={rows} should be at least 1")
        wanted = self.subset.schema(columns)
        for piece in self.subset.pieces(self.id, split):
            groups = range(piece.row_group, piece.row_group + piece.row_groups)
            with self.subset.shard(piece.file, images=piece.rows if _IMAGE in wanted.names else 0) as file:
                for group in groups:
                    table = file.read_row_group(group, columns=wanted.names, use_threads=False)
                    yield from self.subset.fitting(table, wanted, piece.file).to_batches(max_chunksize=rows)

    def dataset(self, split: str) -> datasets.Dataset:
        """The rows as a ``datasets.Dataset`` with Image and ClassLabel features.

        Raises:
            UsageError: There is no such split.
        """
        import datasets

        return datasets.Dataset(self.read(split))


def _name(which: str | int, names: Sequence[str], what: str) -> str:
    """The name that is meant by a name or a number.

    Raises:
        UsageError: It is neither, a slice for one.
        IndexError: There is no such number, which also ends an iteration.
    """
    if isinstance(which, str):
        return which
    try:
        return names[operator.index(which)]
    except TypeError:
        raise UsageError(f"{what} {which!r}: should be one name or one number") from None
    except IndexError:
        raise IndexError(f"{what} {which}: should be from 0 to {len(names) - 1}") from None


def _where(table: pa.Table, column: str, value: str) -> pa.Table:
    """The rows that have a value.

    It is compared with itself as the column has it: to make an Arrow scalar of a text costs an import of pandas,
    where that is installed, which is half the time that opening a dataset takes.
    """
    values = table.column(column)
    held = [one for one in pc.unique(values) if one.as_py() == value]
    return table.filter(pc.equal(values, held[0])) if held else table.slice(0, 0)


def countable(clients: pa.Table, classes: Sequence[str]) -> bool:
    """Whether rows of ``schema.CLIENTS_SCHEMA`` count what a subset of these classes can hold."""
    labels, domains = pc.list_flatten(clients.column("labels")), pc.list_flatten(clients.column("domains"))
    numbers = [clients.column("rows"), *(pc.list_flatten(clients.column(n)) for n in ("counts", "domain_counts"))]
    held = clients.filter(pc.is_valid(clients.column("file")))
    places = [held.column("row_group"), held.column("row_groups")]
    lengths = [pc.list_value_length(clients.column(n)) for n in ("labels", "counts", "domains", "domain_counts")]
    whole = not any(column.null_count for column in (labels, domains, *numbers, *lengths, *places))
    return (
        whole
        and lengths[0].equals(lengths[1])
        and lengths[2].equals(lengths[3])
        and not any(_outside(column, 2**40) for column in (*numbers, *places))
        and not _outside(labels, len(classes) - 1)
    )


def _outside(numbers: pa.ChunkedArray, most: int) -> bool:
    least_most = pc.min_max(numbers).as_py()
    return len(numbers) > 0 and not 0 <= least_most["min"] <= least_most["max"] <= most
