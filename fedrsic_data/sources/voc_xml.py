"""One annotation file as PASCAL VOC has them, read without document types and entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Annotation:
    """An image's annotation.

    Attributes:
        filename: The image's name, as far as the file says it; often that of another machine.
        objects: ``name`` and ``difficult`` of each object, as far as it has them.
    """

    filename: str
    objects: Sequence[Mapping[str, str]]


def read(data: bytes) -> Annotation:
    """Reads an annotation file.

    Only ``<object>`` directly below the root count: the ``<part>`` of a person has a ``<name>``, too.

    Raises:
        ValueError: It is no such file, or it declares a document type, and with that entities; the message says it.
    """
    from defusedxml import ElementTree, common

    try:
        root = ElementTree.fromstring(data, forbid_dtd=True)
    except ElementTree.ParseError as error:
        raise ValueError(f"not valid XML ({error})") from None
    except common.DefusedXmlException:
        raise ValueError("declares a document type, which VOC annotations never do") from None
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag[:80]}>, not <annotation>")
    objects = [_texts(one, f"object {at}", "name", "difficult") for at, one in enumerate(root.findall("object"), 1)]
    return Annotation(_texts(root, "it", "filename").get("filename", ""), objects)


def _texts(element: Any, where: str, *wanted: str) -> dict[str, str]:
    """The texts of some elements directly below one, each of which may be there once."""
    found: dict[str, str] = {}
    for child in element:
        if child.tag in wanted:
            if child.tag in found:
                raise ValueError(f"{where} has two of <{child.tag}>")
            found[child.tag] = (child.text or "").strip()
    return found
