"""A dataset described in Croissant, the JSON-LD that search engines and loaders of datasets read.

Source:
    https://docs.mlcommons.org/croissant/docs/croissant-spec.html (1.0), and its extension for responsible AI,
    https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html (1.0).
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from wss_data.imaging.masks import mask_names
from wss_data.sharing.card_content import weaknesses
from wss_data.sharing.card_facts import Facts

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *(
                "citeAs",
                "column",
                "equivalentProperty",
                "extract",
                "field",
                "fileProperty",
                "fileObject",
                "fileSet",
                "format",
                "includes",
            ),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
            *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
        )
    },
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
"""The context that the specification gives; ``mlcroissant`` compares it."""

_FILES = {
    "images.csv": ("text/csv", "One line an image: where it is, the digest of its bytes, its licence and author."),
    "manifest.jsonl.gz": ("application/gzip", "The same list as `wss-data rebuild` reads it; with masks, if wanted."),
    "CREDITS.md": ("text/markdown", "Title, author, source and licence of each kept image, and what was changed."),
    "ledger.json": ("application/json", "What the masks learned from."),
}

_WHOLE_NUMBERS = ("width", "height")
_ADDRESSES = ("image_url", "page_url", "author_url", "license_url")


def croissant(facts: Facts, folder: Path, columns: tuple[str, ...], url: str | None = None) -> dict[str, Any]:
    """The description of a dataset whose card lies in ``folder``.

    The files are named relative to the description, with their digests. Two record sets: ``images``, the lines of
    ``images.csv``, and ``classes``, the meaning of the mask values.

    Args:
        facts: What is told.
        folder: Holds the files that are described.
        columns: Those of ``images.csv``.
        url: Where the dataset will be published, or ``None``.

    Returns:
        Plain values for JSON.
    """
    licences = [address or f"https://spdx.org/licenses/{name}.html" for name, address in facts.licences if name]
    published = facts.created.date().isoformat()
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": facts.name,
        "description": (
            f"{facts.images:,} web images of {len(facts.classes)} classes, {facts.kept:,} of them kept, with computed "
            "masks of the objects. The images are listed, not contained: each has its own licence."
        ),
        "version": "1.0.0",
        "datePublished": published,
        "keywords": ["semantic segmentation", "weakly supervised", *facts.spec.class_names],
        "isLiveDataset": True,
        "citeAs": f"{facts.name} ({facts.created.year}), made with wss.",
        **({"url": url} if url else {}),
        **({"license": sorted(set(licences))} if licences else {}),
        "rai:dataCollection": f"Searched for by class name at: {', '.join(sorted(facts.sources))}.",
        "rai:dataCollectionType": ["Web Scraping"],
        "rai:dataLimitations": weaknesses(facts),
        "rai:personalSensitiveInformation": [
            "Photographs may show people. Names of authors are listed, because the licences ask for them."
        ],
        "distribution": [_file(folder / name, *told) for name, told in _FILES.items()],
        "recordSet": [_classes(facts), _images(columns)],
    }
    if facts.retrieved:
        times = [moment.isoformat() for moment in facts.retrieved]
        described["rai:dataCollectionTimeframe"] = times
    return described


def _file(path: Path, encoding: str, description: str) -> dict[str, Any]:
    data = path.read_bytes()
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "description": description,
        "contentUrl": path.name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": encoding,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _classes(facts: Facts) -> dict[str, Any]:
    values = mask_names(facts.spec.class_names, facts.spec.ignore_index).items()
    return {
        "@type": "cr:RecordSet",
        "@id": "classes",
        "name": "classes",
        "description": "What the values of a mask mean.",
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/name"},
        "field": [
            _field("classes", "name", "sc:Text", "Name of the class."),
            _field("classes", "value", "sc:Integer", "Value of its pixels in a mask."),
        ],
        "data": [{"classes/name": name, "classes/value": value} for value, name in values],
    }


def _images(columns: tuple[str, ...]) -> dict[str, Any]:
    fields = []
    for name in columns:
        kind = "sc:Integer" if name in _WHOLE_NUMBERS else "sc:URL" if name in _ADDRESSES else "sc:Text"
        field = _field("images", name, kind, f"Column {name} of images.csv.")
        field["source"] = {"fileObject": {"@id": "images.csv"}, "extract": {"column": name}}
        if name == "class":
            field["references"] = {"field": {"@id": "classes/name"}}
        fields.append(field)
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "The images: where each is, and how to recognise it. Dropped ones are listed, too.",
        "key": {"@id": "images/image"},
        "field": fields,
    }


def _field(record_set: str, name: str, kind: str, description: str) -> dict[str, Any]:
    """A field of a record set. ``kind``: its data type."""
    identity = f"{record_set}/{re.sub(r'[^A-Za-z0-9_]', '_', name)}"
    return {"@type": "cr:Field", "@id": identity, "name": identity, "description": description, "dataType": kind}
