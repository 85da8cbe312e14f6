"""Step 4: the FiftyOne dataset: fields, tags, saved views, open, import, export.

The only door to FiftyOne, and ``connection`` is the first module that imports it:
when it is first needed, never with the package, because that takes seconds and, with
some settings, starts a database.

===========  =====================================================================
module       holds
===========  =====================================================================
connection   FiftyOne itself, connected to the database that it shall use
datasets     make, open and list datasets
appearance   the fields, mask names, colours and saved views that a new one is given
moved        files that were moved with the folder of WSS_HOME, found again
info         what belongs to us beside the samples: definition, ledgers, filter
web          images and masks of a web dataset; filter; masks made elsewhere
mask_fields  several masks of an image: compared, adopted, kept as history
descriptors  what images show, as vectors: a map, search, odd ones
ranking      how suspicious each mask is
verdicts     a person's verdicts, and the choice of images to train on
screening    repeats, ambiguous images, placeholders, leaks into an evaluation split
target       the target dataset; masks that a model made
tables       plain values for training
app          the FiftyOne App
server       its server, as a process of its own
guard        which requests that server answers
peer         whose program sends a request
companion    a process that ends with the view
plugins      our plugin for the App, beside the user's
worker       runs in the background what the App is told to run there
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
    kind_of,
    mark_filter_stale,
    mask_ledger,
    passed_over,
    set_drops,
    set_ledger,
    set_passed_over,
)
from wss_data.store.mask_fields import adopt_masks, compare_masks, declare_mask_field
from wss_data.store.moved import find_moved_files
from wss_data.store.ranking import rank_masks
from wss_data.store.screening import LeakReport, ScreenReport, evaluation_splits, leaks, screen, screened
from wss_data.store.tables import example_table
from wss_data.store.target import import_report, import_target, set_target_masks, target_summary
from wss_data.store.verdicts import (
    CHOSEN,
    act_told,
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

__all__ = [
    "BEFORE_IMPORT",
    "CHOSEN",
    "GROUND_TRUTH",
    "IMPORTED",
    "MASKS",
    "ODD_VIEW",
    "DatasetRow",
    "Embedded",
    "Kind",
    "LeakReport",
    "MaskValues",
    "Member",
    "ScreenReport",
    "act_told",
    "add_records",
    "adopt_masks",
    "applied_filters",
    "apply_filter",
    "check_name",
    "choose_for_training",
    "class_names",
    "compare_masks",
    "create_or_open",
    "dataset_exists",
    "declare_mask_field",
    "definition",
    "drops",
    "embed",
    "evaluation_splits",
    "example_table",
    "filters_to_apply",
    "find_images",
    "find_moved_files",
    "group_members",
    "import_masks",
    "import_report",
    "import_target",
    "judge",
    "kind_of",
    "leaks",
    "list_datasets",
    "mark_filter_stale",
    "mask_ledger",
    "open_dataset",
    "passed_over",
    "rank_masks",
    "restore_verdicts",
    "screen",
    "screened",
    "set_descriptors",
    "set_drops",
    "set_gone",
    "set_ledger",
    "set_masks",
    "set_passed_over",
    "set_target_masks",
    "take_over_verdicts",
    "target_name",
    "target_summary",
    "undo_verdict",
    "verdict_acts",
    "view_in_app",
]
