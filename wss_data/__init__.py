"""From class names to an image dataset with masks, kept in FiftyOne.

::

    import wss_data

    dataset = wss_data.build("drawn")           # a fiftyone.Dataset; resumable
    target = wss_data.import_target("drawn")    # what the final model is trained and scored on
    kept = dataset.match_tags("kept")           # any FiftyOne view works

Importing this package loads neither FiftyOne (no database is started) nor torch: each public name is loaded when it is
first used. The command ``wss-data`` calls these names and nothing else.
"""

from typing import TYPE_CHECKING

from wss_data.runtime import moved_modules
from wss_data.runtime.lazy import names_when_used
from wss_data.runtime.openmp import short_spins
from wss_data.runtime.version import __version__ as __version__

if TYPE_CHECKING:
    from wss_data import pipeline, spec, store
    from wss_data.cosegmentation.compare import compare_saliency
    from wss_data.cosegmentation.folder import cosegment_folder
    from wss_data.cosegmentation.score import score_folder
    from wss_data.errors import WssError
    from wss_data.pipeline import build, cosegment_again
    from wss_data.retrieval.sources import list_sources, source_state
    from wss_data.runtime.parallel import workers_on
    from wss_data.sharing.attribution import write_attribution
    from wss_data.sharing.card import write_card
    from wss_data.sharing.export import export_dataset
    from wss_data.sharing.forget import forget
    from wss_data.sharing.hub import push_to_hub
    from wss_data.sharing.import_dataset import import_dataset
    from wss_data.sharing.manifest import write_manifest
    from wss_data.sharing.rebuild import rebuild
    from wss_data.spec import (
        DatasetSpec,
        SourceSpec,
        read_filters,
        read_spec,
        spec_from_classes,
        spec_from_dict,
        spec_from_folder,
    )
    from wss_data.store import (
        apply_filter,
        delete_dataset,
        embed,
        example_table,
        import_field,
        import_masks,
        import_target,
        list_datasets,
        make_instances,
        mask_array,
        open_dataset,
        rename_dataset,
        view_in_app,
    )

short_spins()  # before anything loads torch
__getattr__, __dir__, __all__ = names_when_used(__name__, __file__)
