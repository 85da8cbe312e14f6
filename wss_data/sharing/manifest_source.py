"""A published manifest as a source: each image from where it was found first, checked against what it was."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

from wss_data.errors import SourceError
from wss_data.records import MANIFEST_SOURCE, source_id_of
from wss_data.retrieval.sources.base import Hit, Pages, SourceState
from wss_data.runtime.files import expanded
from wss_data.sharing.manifest import read_manifest
from wss_data.spec import ClassSpec


class ManifestSource:
    """Offers the images of a manifest (``path``), with the provenance that they were published with."""

    name = MANIFEST_SOURCE
    local = False

    def __init__(self, path: str | Path | None = None) -> None:
        if path is None:
            raise SourceError(
                "source 'manifest' needs a manifest. Give it as options: {path: FILE} in the definition, "
                "or build with `wss-data rebuild FILE`."
            )
        self.path = expanded(path)
        self._manifest = read_manifest(self.path, masks=False)

    def state(self) -> SourceState:
        """Ready: the file was read and checked."""
        return SourceState("ready", f"{len(self._manifest.images):,} images listed in {self.path}.")

    def search(self, wanted: ClassSpec, limit: int | None, pages: Pages) -> Iterator[Hit]:
        """Yield the images of one class in the manifest's order; those without an address are left out.

        Raises:
            SourceError: If the manifest has no such class.
        """
        if wanted.name not in self._manifest.spec.group_names:
            raise SourceError(
                f"{self.path}: class '{wanted.name}' is not in the manifest. "
                f"Its classes: {', '.join(self._manifest.spec.group_names)}."
            )
        images = (image for image in self._manifest.images if image.class_name == wanted.name)
        for image in islice((image for image in images if image.provenance.image_url), limit):
            # The first source stays readable in the identity: `flickr:123`.
            provenance = replace(image.provenance, source=self.name, source_id=source_id_of(image.provenance))
            yield Hit(wanted.name, provenance, None, image.sha256, image.phash)
