"""The Croissant description of a published dataset, for tools that find datasets by their metadata.

Format: https://docs.mlcommons.org/croissant/docs/croissant-spec.html, version 1.0.
"""

from __future__ import annotations

from typing import Any

from fedrsic_data.dataset import schema
from fedrsic_data.dataset.manifest import File, Manifest, Plan, SubsetEntry

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "equivalentProperty": "cr:equivalentProperty",
    "samplingRate": "cr:samplingRate",
}
_PARQUET = "application/x-parquet"
_UNKNOWN = "https://github.com/mlcommons/croissant/issues/80"  # replaces the digest of a whole repository
_REPO = "repo"


def describe(built: Manifest, repo: str) -> dict[str, Any]:
    """The metadata as JSON values: the plan and the clients, and the images of every subset unless it is a reference.

    Args:
        built: What is published.
        repo: ``user/name``.
    """
    url = f"https://huggingface.co/datasets/{repo}"
    subsets = {} if built.reference else built.subsets
    tables: dict[str, tuple[File | Plan, Any]] = {
        "plan": (built.plan, built.plan_schema),
        "clients": (built.clients, schema.CLIENTS_SCHEMA),
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": built.name,
        "description": built.recipe.title or built.name,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "url": url,
        "license": [f"{source.title}: {source.licence}" for source in built.sources.values()],
        "citeAs": "; ".join(source.citation for source in built.sources.values()),
        "keywords": ["federated learning", *(["sample data"] if built.recipe.sample is not None else [])],
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": _REPO,
                "name": _REPO,
                "contentUrl": url,
                "encodingFormat": "git+https",
                "sha256": _UNKNOWN,
            },
            *(_file(name, file) for name, (file, _) in tables.items()),
            *(_files(name, subset) for name, subset in subsets.items()),
        ],
        "recordSet": [
            *(
                {
                    "@type": "cr:RecordSet",
                    "@id": f"{name}-table",
                    "name": f"{name}-table",
                    "field": [
                        _column(f"{name}-table", name, field.name, "sc:Text") for field in columns if _flat(field)
                    ],
                }
                for name, (_, columns) in tables.items()
            ),
            *(_records(name, subset) for name, subset in subsets.items()),
        ],
    }


def _flat(field: Any) -> bool:
    return str(field.type) == "string"


def _file(name: str, file: File | Plan) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": file.path,
        "containedIn": {"@id": _REPO},
        "contentUrl": file.path,
        "encodingFormat": _PARQUET,
        "contentSize": f"{file.bytes} B",
        "sha256": file.sha256,
    }


def _files(name: str, subset: SubsetEntry) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-shards",
        "name": f"{name}-shards",
        "containedIn": {"@id": _REPO},
        "encodingFormat": _PARQUET,
        "includes": [f"{name}/{split}/*.parquet" for split in dict.fromkeys(shard.split for shard in subset.shards)],
    }


def _records(name: str, subset: SubsetEntry) -> dict[str, Any]:
    shards = f"{name}-shards"
    image = _column(name, shards, "image", "sc:ImageObject", kind="fileSet")
    image["source"]["transform"] = {"jsonPath": "bytes"}
    labels = "labels" if subset.multi_label else "label"
    many = {"repeated": True} if subset.multi_label else {}
    lists = [*(["labels_unknown"] if subset.unknown is not None else []), *(["fine_labels"] if subset.fine else [])]
    more = (_column(name, shards, column, "sc:Integer", kind="fileSet") | {"repeated": True} for column in lists)
    texts = (
        _column(name, shards, column, "sc:Text", kind="fileSet") for column in ("client_id", "sample_id", "domain")
    )
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"{labels}: {', '.join(f'{i} {c}' for i, c in enumerate(subset.classes))}",
        "field": [image, _column(name, shards, labels, "sc:Integer", kind="fileSet") | many, *more, *texts],
    }


def _column(records: str, source: str, column: str, of: str, kind: str = "fileObject") -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": column,
        "dataType": of,
        "source": {kind: {"@id": source}, "extract": {"column": column}},
    }
