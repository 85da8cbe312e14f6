"""Step 4: the FiftyOne dataset: fields, tags, saved views, open, import, export.

Only here and in ``plugin`` is FiftyOne imported. ``connection`` imports it when it is first needed, never with the
package: that takes seconds and, with some settings, starts a database.

===========  =====================================================================
module       holds
===========  =====================================================================
connection   FiftyOne itself, connected to the database that it shall use
info         what belongs to us beside the samples: definition, ledgers, filter
datasets     make, open and list datasets
appearance   the fields, mask names, colours and saved views that a new one is given
moved        files that were moved with the folder of WSS_HOME, found again
web          images and masks of a web dataset; filter; masks made elsewhere
mask_fields  several masks of an image: compared, adopted, kept as history
descriptors  what images show, as vectors: a map, search, odd ones
verdicts     a person's verdicts, and the choice of images to train on
screening    repeats, ambiguous images, placeholders, leaks into an evaluation split
target       the target dataset; masks that a model made
provenance   all that is known of each image, in one go
tables       plain values for training
interchange  FiftyOne's own layout: written whole, and added from
app          the FiftyOne App, its server behind our guard, and the background worker
===========  =====================================================================
"""

from wss_data.store.app import view_in_app
from wss_data.store.datasets import (
    DatasetRow,
    check_name,
    create_or_open,
    dataset_exists,
    list_datasets,
    open_dataset,
    target_name,
)
from wss_data.store.descriptors import ODD_VIEW, Embedded, embed, set_descriptors
from wss_data.store.info import (
    BEFORE_IMPORT,
    GROUND_TRUTH,
    IMPORTED,
    MASKS,
    Kind,
    applied_filters,
    class_names,
    definition,
    drops,
    filters_to_apply,
    info_of,
    kind_of,
    mark_filter_stale,
    mask_ledger,
    set_ledger,
    update,
)
from wss_data.store.mask_fields import adopt_masks, compare_masks, declare_mask_field
from wss_data.store.moved import find_moved_files
from wss_data.store.screening import LeakReport, ScreenReport, evaluation_splits, leaks, screen, screened
from wss_data.store.tables import example_table
from wss_data.store.target import import_report, import_target, set_target_masks, target_summary
from wss_data.store.verdicts import (
    CHOSEN,
    choose_for_training,
    find_images,
    judge,
    restore_verdicts,
    take_over_verdicts,
    undo_verdict,
    verdict_acts,
)
from wss_data.store.web import (
    MaskValues,
    Member,
    add_records,
    apply_filter,
    group_members,
    import_masks,
    set_gone,
    set_masks,
)
