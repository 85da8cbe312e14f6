"""A dataset described in Croissant, the JSON-LD that search engines and loaders of datasets read.

Written by hand: ``mlcroissant`` needs as many lines to say the same, and brings pandas and rdflib into every install.
The tests have it read what is written here.

Source:
    https://docs.mlcommons.org/croissant/docs/croissant-spec.html (1.0), and its extension for responsible AI,
    https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html (1.0).
"""

import hashlib
from pathlib import Path
from typing import Any

from wss_data.imaging.masks import mask_names
from wss_data.sharing.card_content import Facts, weaknesses

_TERMS = """
citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset jsonPath
key md5 parentField path recordSet references regex repeated replace samplingRate separator source subField transform
"""

# The context that the specification gives; `mlcroissant` compares it, order included.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}

_FILES = {
    "images.csv": ("text/csv", "One line an image: where it is, the digest of its bytes, its licence and author."),
    "manifest.jsonl.gz": ("application/gzip", "The same list as `wss-data rebuild` reads it; with masks, if wanted."),
    "CREDITS.md": ("text/markdown", "Title, author, source and licence of each kept image, and what was changed."),
    "ledger.json": ("application/json", "What the masks learned from."),
}

_KINDS = {  # of the columns that are no text
    **dict.fromkeys(("width", "height"), "sc:Integer"),
    **dict.fromkeys(("image_url", "page_url", "author_url", "license_url"), "sc:URL"),
}


def croissant(facts: Facts, folder: Path, columns: tuple[str, ...], url: str | None = None) -> dict[str, Any]:
    """The description of a dataset whose card lies in ``folder``, as plain values for JSON.

    Two record sets: ``images``, the lines of ``images.csv`` with its ``columns``, and ``classes``, the meaning of the
    mask values. ``url``: where the dataset will be published.
    """
    licences = {address or f"https://spdx.org/licenses/{name}.html" for name, address in facts.licences if name}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": facts.name,
        "description": (
            f"{len(facts.rows):,} web images of {len(facts.spec.classes)} classes, {len(facts.kept):,} of them kept, "
            "with computed masks of the objects. The images are listed, not contained: each has its own licence."
        ),
        "version": "1.0.0",
        "datePublished": facts.created.date().isoformat(),
        "keywords": ["semantic segmentation", "weakly supervised", *facts.spec.class_names],
        "isLiveDataset": True,  # addresses die and images change: the same list gives others later
        "citeAs": f"{facts.name} ({facts.created.year}), made with wss.",
        **({"url": url} if url else {}),
        **({"license": sorted(licences)} if licences else {}),
        "rai:dataCollection": f"Searched for by class name at: {', '.join(sorted(facts.sources))}.",
        "rai:dataCollectionType": ["Web Scraping"],
        "rai:dataLimitations": weaknesses(facts),
        "rai:personalSensitiveInformation": [
            "Photographs may show people. Names of authors are listed, because the licences ask for them."
        ],
        "distribution": [_file(folder / name) for name in _FILES],
        "recordSet": [_classes(facts), _images(columns)],
        **({"rai:dataCollectionTimeframe": [at.isoformat() for at in facts.retrieved]} if facts.retrieved else {}),
    }


def _file(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    encoding, description = _FILES[path.name]
    return {
        **_named("cr:FileObject", path.name, description),
        "contentUrl": path.name,
        "contentSize": f"{len(data)} B",
        "encodingFormat": encoding,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _classes(facts: Facts) -> dict[str, Any]:
    values = mask_names(facts.spec.class_names, facts.spec.ignore_index).items()
    return {
        **_named("cr:RecordSet", "classes", "What the values of a mask mean."),
        "dataType": "sc:Enumeration",
        "key": {"@id": "classes/name"},
        "field": [
            {**_named("cr:Field", "classes/name", "Name of the class."), "dataType": "sc:Text"},
            {**_named("cr:Field", "classes/value", "Value of its pixels in a mask."), "dataType": "sc:Integer"},
        ],
        "data": [{"classes/name": name, "classes/value": value} for value, name in values],
    }


def _images(columns: tuple[str, ...]) -> dict[str, Any]:
    fields = []
    for name in columns:
        field = _named("cr:Field", f"images/{name}", f"Column {name} of images.csv.")
        field["dataType"] = _KINDS.get(name, "sc:Text")
        field["source"] = {"fileObject": {"@id": "images.csv"}, "extract": {"column": name}}
        if name == "class":
            field["references"] = {"field": {"@id": "classes/name"}}
        fields.append(field)
    meaning = "The images: where each is, and how to recognise it. Dropped ones are listed, too."
    return {**_named("cr:RecordSet", "images", meaning), "key": {"@id": "images/image"}, "field": fields}


def _named(kind: str, identity: str, description: str) -> dict[str, Any]:
    return {"@type": kind, "@id": identity, "name": identity, "description": description}
