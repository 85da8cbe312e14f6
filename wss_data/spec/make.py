"""Make a definition: of class names, of a folder of images, or of what the caller has of these."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from wss_data.errors import SpecError, shown
from wss_data.errors.names import is_of_tool
from wss_data.reading.listing import require_text
from wss_data.runtime.files import expanded, is_ours, write_output
from wss_data.spec.names import BACKGROUND, DEFAULT_LIMIT, LONGEST_NAME
from wss_data.spec.read import read_spec, spec_from_dict
from wss_data.spec.types import DEFAULT_SOURCES, NAME, DatasetSpec, SourceSpec


def definition_asked_for(
    spec: DatasetSpec | str | Path | None = None,
    images: str | Path | None = None,
    classes: Sequence[str] | None = None,
    name: str | None = None,
    limit: int | None = None,
    queries: Mapping[str, Sequence[str]] | None = None,
) -> DatasetSpec:
    """The definition that is read, or made of class names or a folder; arguments as those of ``build``.

    Raises:
        SpecError: If it is wrong, or arguments are given that do not go together.
    """
    if classes is not None:
        if spec is not None or images is not None:
            raise SpecError("class names take the place of a definition and of a folder of images; give one of them.")
        return spec_from_classes(classes, name, queries, limit)
    if limit is not None or queries is not None:
        raise SpecError("a limit and queries go with class names alone; a definition has its own inside.")
    if spec is None:
        if images is None:
            raise SpecError(
                "give class names (wss-data build --classes cat dog), a definition (wss-data build drawn) or a folder "
                "of images (wss-data build --images FOLDER)."
            )
        folder = expanded(images).absolute()
        return with_images(spec_from_folder(folder, name or folder.name), folder)
    if name is not None:
        raise SpecError("a name goes with class names or --images alone; a definition has its name inside.")
    spec = spec if isinstance(spec, DatasetSpec) else read_spec(spec)
    return spec if images is None else with_images(spec, images)


def spec_from_classes(
    classes: Sequence[str],
    name: str | None = None,
    queries: Mapping[str, Sequence[str]] | None = None,
    limit: int | None = None,
) -> DatasetSpec:
    """Make a definition of class names: each is searched for by its name at the sources that need no key.

    Args:
        classes: Names, such as ``traffic light``; blanks become ``_`` in the class's name, not in its query.
        name: Name of the dataset; by default that of its classes, the first three of many.
        queries: Class -> further queries; those of ``background`` find images that show no class.
        limit: Most images to take for each class from each source; by default ``DEFAULT_LIMIT``.

    Raises:
        SpecError: If a name is empty, a path or a file, or becomes that of another class; if a query is for no class.
    """
    where = "class names"
    if isinstance(classes, str) or not classes or not all(isinstance(word, str) for word in classes):
        raise SpecError(f"{where}: found {shown(classes)}, expected a list of names, such as ['cat', 'dog'].")
    typed: dict[str, str] = {}  # name of a class -> as it was typed
    for word in (" ".join(word.split()) for word in classes):
        if word.endswith((".yaml", ".yml")):
            raise SpecError(f"{where}: {shown(word)} is the file of a definition; give class names or a definition.")
        if not NAME.fullmatch(key := word.replace(" ", "_")):
            raise SpecError(
                f"{where}: {shown(word)} cannot be one; letters a to z, digits, blanks, '_' and '-' are possible, a "
                f"letter or digit first, {LONGEST_NAME} at most. Other words are queries: --query NAME=WORDS."
            )
        if key in typed:
            raise SpecError(f"{where}: '{typed[key]}' and '{word}' are one class, {key}; give one of them.")
        typed[key] = word
    more = {"_".join(key.split()): list(words) for key, words in (queries or {}).items()}
    if unknown := [key for key in more if key not in (*typed, BACKGROUND)]:
        known = ", ".join((*typed, BACKGROUND))
        raise SpecError(f"{where}: there are queries for {shown(unknown[0])}, expected one of: {known}.")
    rest = [f"and-{len(typed) - 3}-more"] if len(typed) > 3 else []
    value = {
        "name": name or "-".join([*list(typed)[:3], *rest]),
        "classes": [
            {"index": index, "name": key, "queries": list(dict.fromkeys([key.replace("_", " "), *more.get(key, [])]))}
            for index, key in enumerate(typed, start=1)
        ],
        "background": more.get(BACKGROUND, []),
        "sources": [asdict(replace(source, limit=limit or DEFAULT_LIMIT)) for source in DEFAULT_SOURCES],
    }
    return spec_from_dict(value, where)


def spec_from_folder(images: str | Path, name: str) -> DatasetSpec:
    """Make a definition of a folder of images: its class folders, sorted by name, become the classes.

    Args:
        images: Folder that holds one folder of images a class, and perhaps ``background``, whose images show none;
            hidden folders, those that begin with ``_`` and a tool's own (``@eaDir``) are left out.
        name: Name of the dataset.

    Raises:
        SpecError: If there is no such folder, or no class folder in it.
    """
    folder = require_text(expanded(images), "the images")
    if not folder.is_dir():
        raise SpecError(f"{folder}: there is no such folder of images.")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_of_tool(p.name))
    background = [name for name in found if name == BACKGROUND]
    if not (classes := [name for name in found if name != BACKGROUND]):
        raise SpecError(f"{folder}: no class folder found. Wanted: one folder a class, as in {folder}/cat/1.jpg.")
    source = {"name": "folder", "options": {"path": str(folder.absolute())}}
    value = {"name": name, "classes": classes, "background": background, "sources": [source]}
    return spec_from_dict(value, str(folder))


def with_images(spec: DatasetSpec, images: str | Path) -> DatasetSpec:
    """The definition with its images taken from a folder, whatever sources it names."""
    limit = next((source.limit for source in spec.sources if source.name == "folder"), None)
    folder = SourceSpec("folder", limit, {"path": str(expanded(images).absolute())})
    return replace(spec, sources=(folder,))


def keep_definition(spec: DatasetSpec, path: Path) -> None:
    """Write a definition that was made from class names to a file, so that it can be changed and built again.

    Raises:
        SpecError: If the file was changed since, and says something else.
    """
    if path.exists() and not is_ours(path):
        if read_spec(path) != spec:
            raise SpecError(
                f"{path}: was changed since it was made from class names, and says something else than these. Build it "
                f"as it is (wss-data build {shlex.quote(str(path))}), or give the class names another --name."
            )
        return
    plain = DatasetSpec(spec.name, spec.classes).to_dict()
    value = {key: item for key, item in spec.to_dict().items() if key in ("name", "classes") or item != plain.get(key)}
    head = "# Made from class names. Change it and build it again:\n#   wss-data build"
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    write_output(path, f"{head} {shlex.quote(str(path))}\n{text}")
