"""Dataset definitions: their types, and how one is read or made."""

from typing import TYPE_CHECKING

from wss_data.runtime.lazy import names_when_used

if TYPE_CHECKING:
    from wss_data.spec.make import definition_asked_for, keep_definition, spec_from_classes, spec_from_folder
    from wss_data.spec.names import BACKGROUND, DEFAULT_LIMIT, DEFINITION_FILE, MAX_CLASSES
    from wss_data.spec.read import definitions_folder, list_definitions, read_filters, read_spec, spec_from_dict
    from wss_data.spec.types import (
        DEFAULT_SOURCES,
        ClassSpec,
        CosegmentationSpec,
        DatasetSpec,
        DownloadSpec,
        DuplicateSpec,
        FilterSpec,
        SourceSpec,
        TargetSpec,
    )

__getattr__, __dir__, __all__ = names_when_used(__name__, __file__)
