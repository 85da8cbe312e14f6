"""Images that are on disk already, in one folder a class."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from wss_data.errors import ImageError, SourceError
from wss_data.images import list_images
from wss_data.records import Provenance
from wss_data.sources.base import Hit
from wss_data.spec import ClassSpec


class FolderSource:
    """Takes images from ``<path>/<class>/``, sorted by name.

    Args:
        path: The folder that holds one folder a class, named as the class.

    Raises:
        SourceError: If there is no such folder, or none was given.
    """

    name = "folder"

    def __init__(self, path: str | Path | None = None) -> None:
        if path is None:
            raise SourceError(
                "source 'folder' needs a folder of images, one folder a class inside. "
                "Give it with --images FOLDER, or as options: {path: FOLDER} in the definition."
            )
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise SourceError(f"{self.path}: there is no such folder of images.")

    def search(self, wanted: ClassSpec, limit: int | None) -> Iterator[Hit]:
        """Yield the images of one class in the order of their names.

        Raises:
            SourceError: If the class has no folder.
        """
        folder = self.path / wanted.name
        if not folder.is_dir():
            found = sorted(p.name for p in self.path.iterdir() if p.is_dir())
            raise SourceError(
                f"{folder}: class '{wanted.name}' has no folder. "
                f"Folders found in {self.path}: {', '.join(found) if found else 'none'}."
            )
        for path in list_images(folder)[:limit]:
            identity = f"{wanted.name}/{path.relative_to(folder).as_posix()}"
            yield Hit(
                class_name=wanted.name,
                provenance=Provenance(
                    source=self.name, source_id=identity, query=wanted.name, image_url=path.absolute().as_uri()
                ),
                read=partial(_read, path),
            )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path}: the image cannot be opened ({error.strerror}).") from error
