"""CoOp's lists: which images of a set are in which split, and the names and the order of its classes.

A list is one JSON object with ``train``, ``val`` and ``test``, each a list of ``[path, label, class name]``; paths are
relative to the folder of images next to the file. Papers on prompts use these splits. They were drawn once, and no seed
gives them again (Zhou et al., "Learning to prompt for vision-language models", IJCV 2022, arXiv 2109.01134).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from fedrsic_data.errors import SourceError
from fedrsic_data.files.atomic import file_digest
from fedrsic_data.raw.containers import reading
from fedrsic_data.sources.classfolders import folders_below
from fedrsic_data.sources.own.listing import Listing

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class CoOpList:
    """A list of CoOp's.

    Attributes:
        file: Its name.
        folder: The folder of images next to it.
        images: Images in train, val and test.
    """

    file: str
    folder: str
    images: tuple[int, int, int]

    @property
    def splits(self) -> dict[str, int]:
        """Images of each split."""
        return dict(zip(SPLITS, self.images, strict=True))

    def find(self, path: Path) -> Path:
        """Its place at or below a folder, whose images are next to it.

        Raises:
            SourceError: It is not there, or its images are not.
        """
        with reading(path):
            below = folders_below(path) if path.is_dir() else []
            for folder in below:
                if (folder / self.file).is_file():
                    if not (folder / self.folder).is_dir():
                        raise SourceError(f"{folder / self.folder}: does not exist; {self.file} lists its images")
                    return folder / self.file
        raise SourceError(f"{path}: holds no {self.file}; give the folder that has it next to {self.folder}/")


def read(path: Path) -> tuple[Listing, tuple[str, ...]]:
    """The rows of a list, and its class names in the order of their labels.

    Raises:
        SourceError: It is no such list, or a label has two names.
    """
    with reading(path):
        stat, digest = path.stat(), file_digest(path)
        try:
            data = json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path}: not valid JSON ({error})") from None
    columns: dict[str, list[str]] = {"file": [], "label": [], "split": []}
    names: dict[int, str] = {}
    for split in SPLITS:
        rows = data.get(split) if isinstance(data, dict) else None
        if not isinstance(rows, list):
            raise SourceError(f"{path}: has no list {split!r}; CoOp's lists have train, val and test")
        for number, row in enumerate(rows):
            file, label, name = _checked(path, f"{split}[{number}]", row)
            if names.setdefault(label, name) != name:
                raise SourceError(f"{path}: {split}[{number}]: label {label} is {name!r}, and {names[label]!r} before")
            columns["file"].append(file)
            columns["label"].append(name)
            columns["split"].append(split)
    classes = tuple(names[label] for label in sorted(names))
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise SourceError(f"{path}: class {twice!r} has two labels; CoOp's lists have one for each class")
    table = {name: pa.array(texts, pa.string()) for name, texts in columns.items()}
    return Listing(path, table, digest, max(stat.st_mtime_ns, stat.st_ctime_ns)), classes


def _checked(path: Path, where: str, row: Any) -> tuple[str, int, str]:
    if (
        isinstance(row, list)
        and len(row) == 3
        and (type(row[0]), type(row[1]), type(row[2])) == (str, int, str)
        and all(row[i] and row[i].isprintable() for i in (0, 2))
    ):
        return row[0], row[1], row[2]
    raise SourceError(f"{path}: {where} is {str(row)[:60]}; expected [path, label, class name]")
