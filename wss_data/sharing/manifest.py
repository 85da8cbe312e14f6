"""A dataset as a list without images, to be published: written, read and checked, built again.

JSON Lines, gzipped where the name ends in ``.gz``: a line for the dataset, and one for each image. Nothing of this
machine is in it: no path, no setting of a source, no key.
"""

import base64
import gzip
import json
import logging
import re
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wss_data import store
from wss_data.cosegmentation import PROGRAM_ENGINES
from wss_data.errors import SourceError, SpecError, shown
from wss_data.errors.text import is_clean
from wss_data.imaging.images import MAX_PIXELS
from wss_data.ledger import Ledger, LedgerEntry
from wss_data.reading import checked
from wss_data.reading.addresses import is_web_address
from wss_data.reading.checked import LONGEST_LINE
from wss_data.records import MANIFEST_SOURCE, Provenance, first_source, source_id_of, stem_of
from wss_data.runtime.files import check_outputs, expanded, output_path
from wss_data.spec import CosegmentationSpec, DatasetSpec, spec_from_dict
from wss_data.store.info import info_of
from wss_data.store.provenance import ImageRow, image_rows

if TYPE_CHECKING:
    from wss_data.store.types import Dataset

LOGGER = logging.getLogger(__name__)

FORMAT = "wss-manifest"
VERSION = 1  # goes up when an older reader would misunderstand a manifest
MANIFEST_FILE = "manifest.jsonl.gz"  # in every card, and in every export of a web dataset

_SHOWN = 5  # wrong lines, unknown fields: a sentence with more is not read
_MOST_WRONG = 1_000  # wrong lines after which the rest of the file says nothing new
_MOST_TEXTS = 100  # tags, opt-outs or unknown fields that are read
_MOST_IMAGES = 10**9  # the first line may promise; more is no count
_LARGEST_RATIO = 100  # bytes that a gzipped byte may become; hex digits, addresses and masks become far fewer
_PNG = b"\x89PNG\r\n\x1a\n"  # the signature, https://www.w3.org/TR/png/#5PNG-file-signature
# From ~, a drive or a slash on to the end, but not from the slashes of an address.
_LOCAL_PATH = re.compile(r"(?<![\w/:])(?:~|[A-Za-z]:)?[/\\](?=\S).*$|file:.*$", re.DOTALL)
_URLS = ("image_url", "page_url", "author_url", "license_url")
_TEXTS = ("title", "author", "license", "query")
_TAG = r"(dropped:)?\w[^:]{0,199}"  # a person's own words included
_LONGEST_ID = 1_000  # characters: a path of a source's own folder may be an identity
_LONGEST_PNG_HEAD = 1 << 17  # bytes: palette, transparency and texts of an editor are far below
# What the dataset is; sources, downloads and target are the builder's own.
_DEFINITION = ("classes", "background", "cosegmentation", "filters", "duplicates", "ignore_index", "longest_side")


@dataclass(frozen=True)
class ManifestMask:
    """A published mask: the bytes of a palette PNG, what made it, and its confidence in [0, 1] where known."""

    png: bytes
    method: str | None
    confidence: float | None


@dataclass(frozen=True)
class ManifestImage:
    """One image of a manifest; digests are hex."""

    class_name: str
    sha256: str  # of the original bytes
    phash: str | None  # of its looks, 64 bits
    size: tuple[int, int] | None  # the original's (width, height) in pixels
    provenance: Provenance  # where it was found first
    tags: tuple[str, ...] = ()  # kept, dropped:<reason>, or a person's own, from when the manifest was written
    verdict: str | None = None  # a person's: keep or drop
    mask: ManifestMask | None = None


@dataclass(frozen=True)
class Manifest:
    """A dataset as a list."""

    spec: DatasetSpec  # what it was built by, as far as that can be published; its source is the manifest
    ledger: Ledger  # what its masks were made from
    images: tuple[ManifestImage, ...]  # by class and digest
    # The engine that made its masks where that runs a program. `spec` asks for the usual engine then: what others name
    # to be run is not taken over.
    program: str | None = None
    unknown: Mapping[str, int] = field(default_factory=dict)  # fields that nobody reads -> first line that has them

    @property
    def unknown_note(self) -> str | None:
        """One line about the fields that were not read, or ``None``."""
        names = [f"{name} (line {line:,})" for name, line in self.unknown.items()]
        if not names:
            return None
        return f"Not read, because this version of wss does not know these fields: {_first(names, ', ')}."

    def warn_of_program(self) -> None:
        """Log that missing masks are made by the usual engine, where an external program had made the others."""
        if self.program is not None:
            LOGGER.warning(
                f"{self.spec.name}: its masks were made by a program (method '{self.program}'), which is not run here. "
                f"Masks that are missing are made by the method '{self.spec.cosegmentation.method}'."
            )


@dataclass(frozen=True)
class WrittenManifest:
    """What was written, and where; prints as one or two lines."""

    path: Path
    listed: tuple[ManifestImage, ...]
    images: int  # listed
    masks: int  # inside
    without_url: int  # listed, but without an address on the web: nobody can fetch them again

    def __str__(self) -> str:
        lines = [f"{self.images:,} images listed in {self.path}, {self.masks:,} masks and no image inside."]
        if self.without_url:
            lines.append(
                f"{self.without_url:,} of them have no address on the web (files of this machine, say), and none is "
                "written: nobody can fetch them from this manifest."
            )
        return "\n".join(lines)


def write_manifest(
    dataset: "Dataset", path: Path | str, masks: bool = False, rows: Sequence[ImageRow] | None = None
) -> WrittenManifest:
    """Write the manifest of a web dataset; byte by byte the same for the same dataset.

    Args:
        dataset: A web dataset.
        path: Gzipped if it ends in ``.gz``; either whole or not there.
        masks: Whether the co-segmentation masks are written, too.
        rows: Its ``image_rows``, where the caller has read them.

    Raises:
        StoreError: If it is no web dataset.
    """
    path = expanded(path)
    check_outputs([path])
    rows = image_rows(dataset, "listed in a manifest") if rows is None else rows
    definition = info_of(dataset)["definition"]
    listed = tuple(_public_image(row, masks) for row in rows)
    inside = sum(image.mask is not None for image in listed)
    without_url = sum(image.provenance.image_url is None for image in listed)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": definition["name"],
        "created": dataset.created_at.replace(tzinfo=UTC, microsecond=0).isoformat(),
        "classes": [item["name"] for item in definition["classes"]],
        "images": len(listed),
        "images_without_url": without_url,
        "definition": public_definition(definition),
        "ledger": public_ledger(store.mask_ledger(dataset, store.MASKS)).to_dict(),
    }
    with output_path(path) as temporary, temporary.open("wb") as raw:
        # Neither name nor time of writing inside: the same dataset gives the same bytes.
        zipped = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) if path.name.endswith(".gz") else None
        with zipped or nullcontext(raw) as file:
            for line in (header, *map(_line, listed)):
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    return WrittenManifest(path, listed, len(listed), inside, without_url)


def _public_image(row: ImageRow, masks: bool) -> ManifestImage:
    """What may be published of an image."""
    at = row.provenance
    source, source_id = first_source(at)
    # Neither a path of this machine nor what a reader would refuse: the digest is as good an identity.
    if not is_clean(source_id) or len(source_id) > _LONGEST_ID or _LOCAL_PATH.match(source_id):
        source_id = row.sha256[:20]
    urls: dict[str, Any] = {key: _public_url(getattr(at, key)) for key in _URLS}
    mask = None
    if masks and row.mask_path and Path(row.mask_path).is_file():
        mask = ManifestMask(Path(row.mask_path).read_bytes(), row.mask_method, row.confidence)
    return ManifestImage(
        row.class_name,
        row.sha256,
        row.phash,
        row.original_size,
        replace(at, source=source, source_id=source_id, **urls),
        # A person's own tags, too, as far as a reader takes them: `a:b` would make the whole manifest unreadable.
        tuple(sorted(tag for tag in row.tags if is_clean(tag) and re.fullmatch(_TAG, tag))),
        row.verdict,
        mask,
    )


def _public_url(text: str | None) -> str | None:
    """The address if others can use it: on the web, and without a name and password before the host."""
    if not text or not is_web_address(text) or "@" in text.split("/")[2]:
        return None
    return text


def _line(image: ManifestImage) -> dict[str, Any]:
    """The line of an image; what is not known is left out."""
    at, mask = image.provenance, image.mask
    line = {
        "class": image.class_name,
        "sha256": image.sha256,
        "phash": image.phash,
        "size": image.size,
        **{key: getattr(at, key) for key in ("source", "source_id", *_URLS, *_TEXTS)},
        "retrieved_at": at.retrieved_at.isoformat() if at.retrieved_at else None,
        "opt_outs": at.opt_outs,
        "tags": image.tags,
        "verdict": image.verdict,
        "mask": mask and {**asdict(mask), "png": base64.b64encode(mask.png).decode()},
    }
    return {key: value for key, value in line.items() if value not in (None, ())}


def public_definition(definition: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a definition that say what the dataset is, without what belongs to this machine."""
    return {
        key: public_cosegmentation(definition[key]) if key == "cosegmentation" else public_values(definition[key])
        for key in _DEFINITION
        if key in definition
    }


def public_cosegmentation(value: Mapping[str, Any]) -> dict[str, Any]:
    """Engine and options without paths of this machine; of an engine that runs a program, never the command line."""
    if value.get("method") not in PROGRAM_ENGINES:
        return public_values(value)
    options = value.get("options")
    known = options.get("supervision") if isinstance(options, Mapping) else None
    return {"method": value["method"], "options": {} if known is None else {"supervision": known}}


def public_values(value: Any) -> Any:
    """Plain values without paths of this machine.

    >>> public_values({"precision": "float32", "weights": "~/weights.pt", "parts": ["a", "../b"]})
    {'precision': 'float32', 'parts': ['a']}
    """
    if isinstance(value, Mapping):
        return {key: public_values(item) for key, item in value.items() if not _is_local(item)}
    if isinstance(value, (list, tuple)):
        return [public_values(item) for item in value if not _is_local(item)]
    return value


def _is_local(value: Any) -> bool:
    return isinstance(value, str) and (_LOCAL_PATH.match(value) is not None or ".." in re.split(r"[/\\]", value))


def public_ledger(ledger: Ledger) -> Ledger:
    """The ledger without paths of this machine."""
    return Ledger(
        tuple(LedgerEntry(_LOCAL_PATH.sub("a folder", e.what), e.supervision, e.used_for) for e in ledger.entries)
    )


def read_manifest(path: Path | str, masks: bool = True) -> Manifest:
    """Read a manifest, gzipped or not, and check every line of it. ``masks``: whether masks are read, too.

    Raises:
        SourceError: If there is no such file, a newer version of wss wrote it, it is cut off, or lines are wrong; these
            are named by their numbers.
    """
    path = expanded(path)
    if not path.is_file():
        raise SourceError(f"{path}: there is no such manifest.")
    number = 0
    wrong: list[str] = []
    unknown: dict[str, int] = {}
    images: dict[tuple[str, str], ManifestImage] = {}
    identities: set[tuple[str, str]] = set()
    try:
        with _opened(path) as file:
            header, number = _values(file.readline(LONGEST_LINE + 1)), 1
            manifest, expected = _read_header(header, path)
            unknown |= dict.fromkeys(_unknown(header, _HEADER, "definition", _DEFINITION), number)
            left = LONGEST_LINE + _LARGEST_RATIO * path.stat().st_size
            while data := file.readline(LONGEST_LINE + 1):
                number += 1
                left -= len(data)
                if left < 0 or len(wrong) == _MOST_WRONG:
                    wrong.append(f"line {number}: the file goes on for more than is read; is it a manifest?")
                    break
                try:
                    value = _values(data)
                    image = _read_image(value, manifest.spec, masks)
                    # The stem: it names the files, so that two digests that begin alike would share one.
                    key, identity = (image.class_name, stem_of(image.sha256)), source_id_of(image.provenance)
                    if key in images or (image.class_name, identity) in identities:
                        raise ValueError(f"class '{image.class_name}' has the image {identity} twice")
                    if len(images) == expected:
                        raise ValueError(f"more images than the {expected:,} that the first line promises")
                    images[key] = image
                    identities.add((image.class_name, identity))
                    for name in _unknown(value, _FIELDS, "mask", ManifestMask.__dataclass_fields__):
                        if len(unknown) < _MOST_TEXTS:
                            unknown.setdefault(name, number)
                except ValueError as error:
                    wrong.append(f"line {number}: {error}")
                    if len(data) > LONGEST_LINE:
                        break  # what follows is the rest of that line
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise SourceError(f"{path}, after line {number}: the file cannot be read ({error}). Get it again.") from error
    except ValueError as error:
        raise SourceError(f"{path}, line 1: {error}. Is it a manifest of `wss-data manifest`?") from error
    if wrong:
        raise SourceError(f"{path}: {len(wrong)} bad lines. {_first(wrong, '; ')}. Nothing was built.")
    if len(images) != expected:
        raise SourceError(
            f"{path}: {len(images):,} images are listed, the first line promises {expected:,}. "
            "The file was cut off or edited; get it again."
        )
    listed = sorted(images.values(), key=lambda image: (manifest.spec.class_index(image.class_name), image.sha256))
    return replace(manifest, images=tuple(listed), unknown=unknown)


def _first(texts: Sequence[str], between: str) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{between.join(texts[:_SHOWN])}{more}"


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"  # the name may say otherwise
    return gzip.open(path, "rb") if zipped else path.open("rb")  # type: ignore[return-value]


def _values(data: bytes) -> dict[str, Any]:
    if len(data) > LONGEST_LINE:
        # One byte more than allowed was read, so that a line without end is never held in memory.
        raise ValueError(f"longer than {LONGEST_LINE:,} bytes")
    return checked.an_object(checked.parse_json(data))


def _unknown(value: Mapping[str, Any], known: Sequence[str], part: str, of_part: Any) -> list[str]:
    """Fields that nobody reads, of ``value`` and of its part."""
    inner = value.get(part)
    names = checked.unknown_keys(inner, of_part) if isinstance(inner, Mapping) else []
    return [*checked.unknown_keys(value, known), *(f"{part}.{name}" for name in names)]


_HEADER = ("format", "version", "name", "created", "classes", "images", "images_without_url", "definition", "ledger")


def _read_header(value: dict[str, Any], path: Path) -> tuple[Manifest, int]:
    """The manifest without its images, and how many it promises."""
    if value.get("format") != FORMAT:
        raise ValueError(f"format is {shown(value.get('format'))}, '{FORMAT}' is wanted")
    version = checked.whole(value.get("version"), "version", 1)
    if version > VERSION:
        raise SourceError(
            f"{path}: the manifest has version {version}, this version of wss reads up to {VERSION}. Update wss."
        )
    images = checked.whole(value.get("images"), "images", 0, _MOST_IMAGES)
    definition = value.get("definition")
    if not isinstance(definition, Mapping):
        raise ValueError("'definition' is missing")
    kept = {key: definition[key] for key in _DEFINITION if key in definition}
    source = {"name": MANIFEST_SOURCE, "options": {"path": str(path.absolute())}}
    try:
        if isinstance(kept.get("cosegmentation"), Mapping):
            # A path in it would be read here, a command run: it is held to what a manifest of ours says.
            kept["cosegmentation"] = public_cosegmentation(kept["cosegmentation"])
        # Names become folders here, so that they are checked as those of a definition are.
        spec = spec_from_dict({"name": value.get("name"), **kept, "sources": [source]}, "definition")
    except (SpecError, TypeError, RecursionError) as error:  # the last two: by values that no definition has
        raise ValueError(str(error).rstrip(".")) from error
    if value.get("classes") != list(spec.class_names):
        raise ValueError(f"classes are {shown(value.get('classes'))}, the definition has {list(spec.class_names)}")
    try:
        ledger = Ledger.from_dict(value.get("ledger") or {"entries": []})
    except ValueError as error:
        raise ValueError(f"the ledger cannot be read ({error})") from error
    # Whoever publishes a manifest does not choose what runs here: the usual engine stands in for a program.
    program = spec.cosegmentation.method if spec.cosegmentation.method in PROGRAM_ENGINES else None
    if program is not None:
        spec = replace(spec, cosegmentation=CosegmentationSpec())
    checked.moment(value.get("created"), "created")
    return Manifest(spec, ledger, (), program), images


def _only(right: Callable[[Any], object], wanted: str) -> Callable[[Any, str], Any]:
    """A reader of values that a function finds right."""

    def read(value: Any, name: str) -> Any:
        if not right(value):
            raise ValueError(f"{name} is {shown(value)}, {wanted}")
        return value

    return read


def _text_like(pattern: str, wanted: str) -> Callable[[Any, str], str]:
    return _only(lambda value: isinstance(value, str) and re.fullmatch(pattern, value), wanted)


_digest = _text_like("[0-9a-f]{64}", "lower-case hex digits are wanted")
# No colon: it stands between source and identity in what a rebuild calls an image.
_source = _text_like("[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", "the name of a source is wanted, without ':'")
_tag = _text_like(_TAG, "kept, dropped:<reason> or a word of your own is wanted")
_address = _only(lambda url: isinstance(url, str) and is_web_address(url), "an http or https address is wanted")
_few = _only(
    lambda v: isinstance(v, list) and len(v) <= _MOST_TEXTS, f"a list of at most {_MOST_TEXTS} texts is wanted"
)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [0]
    return all(type(n) is int and n > 0 for n in sides) and prod(sides) <= MAX_PIXELS  # `type`: True is an int, too


_size = _only(_is_size, f"width and height in pixels are wanted, of an image of at most {MAX_PIXELS:,} pixels")
# Fields of an image that may be missing, and who reads them.
_PROVENANCE: dict[str, Callable[[Any, str], Any]] = {
    **dict.fromkeys(_TEXTS, checked.text),
    **dict.fromkeys(_URLS, _address),
    "retrieved_at": checked.moment,
    "opt_outs": lambda value, name: tuple(checked.text(text, name) for text in _few(value, name)),
}
_IMAGE: dict[str, Callable[[Any, str], Any]] = {
    "phash": _text_like("[0-9a-f]{16}", "lower-case hex digits are wanted"),
    "size": lambda value, name: tuple(_size(value, name)),
    "tags": lambda value, name: tuple(_tag(checked.text(text, name), name) for text in _few(value, name)),
    "verdict": _text_like("keep|drop", "keep or drop is wanted"),
}
_FIELDS = ("class", "sha256", "source", "source_id", *_IMAGE, *_PROVENANCE, "mask")


def _read_image(value: dict[str, Any], spec: DatasetSpec, masks: bool) -> ManifestImage:
    class_name = value.get("class")
    if class_name not in spec.group_names:
        raise ValueError(f"class {shown(class_name)} is not one of {', '.join(spec.group_names)}")
    sha256, source = _digest(value.get("sha256"), "sha256"), _source(value.get("source"), "source")
    source_id = checked.identity(value.get("source_id"), "source_id", _LONGEST_ID)
    where, known = (
        {key: read(value[key], key) for key, read in readers.items() if value.get(key) is not None}
        for readers in (_PROVENANCE, _IMAGE)
    )
    if masks and value.get("mask") is not None:
        known["mask"] = _read_mask(value["mask"], spec.longest_side)
    provenance = Provenance(source, source_id, **where)
    return ManifestImage(class_name, sha256, known.pop("phash", None), known.pop("size", None), provenance, **known)


def _read_mask(value: Any, longest_side: int) -> ManifestMask:
    if not isinstance(value, Mapping) or not isinstance(value.get("png"), str):
        raise ValueError(f"mask is {shown(value)}, 'png' in base64 is wanted")
    method, confidence = value.get("method"), value.get("confidence")
    if confidence is not None:
        confidence = checked.number(confidence, "confidence of the mask", 0, 1)
    try:
        # Nobody's palette PNG is larger than its pixels and palette by much.
        png = base64.b64decode(value["png"][: 2 * longest_side**2 + _LONGEST_PNG_HEAD], validate=True)
    except ValueError as error:  # binascii.Error is one; so is text beyond ASCII
        raise ValueError(f"the mask is no base64 ({error})") from error
    if not png.startswith(_PNG) or len(png) < 33:  # signature (8 bytes) and the chunk IHDR (25), which holds the size
        raise ValueError("the mask is no PNG")
    size = struct.unpack(">II", png[16:24])
    if not all(1 <= side <= longest_side for side in size):
        raise ValueError(f"the mask has {size[0]:,}x{size[1]:,} pixels, at most {longest_side:,} a side are wanted")
    return ManifestMask(png, None if method is None else checked.text(method, "method"), confidence)


def renamed(spec: DatasetSpec, name: str | None) -> DatasetSpec:
    """The definition under another name, if there is one; a ``SpecError`` if it cannot be a dataset's."""
    return spec if name is None else spec_from_dict({**spec.to_dict(), "name": name})
