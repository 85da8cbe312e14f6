"""Step 4: the FiftyOne dataset: fields, tags, saved views, open, import, export.

Only here and in ``plugin`` is FiftyOne imported. ``connection`` imports it when it is first needed, never with the
package: that takes seconds and, with some settings, starts a database. Each name is loaded when it is first used.
"""

from typing import TYPE_CHECKING

from wss_data.runtime.lazy import names_when_used

if TYPE_CHECKING:
    from wss_data.store import connection, info, mask_fields
    from wss_data.store.app import view_in_app
    from wss_data.store.appearance import ODD_VIEW, bring_up_to_date
    from wss_data.store.catalogue import DatasetRow, dataset_exists, list_datasets
    from wss_data.store.datasets import (
        check_name,
        check_place,
        create_or_open,
        find_moved_files,
        open_dataset,
        target_name,
    )
    from wss_data.store.descriptors import embed, set_descriptors
    from wss_data.store.info import (
        BEFORE_IMPORT,
        GROUND_TRUTH,
        IMPORTED,
        MASKS,
        applied_filters,
        class_names,
        definition,
        drops,
        filters_to_apply,
        group_names,
        info_of,
        kind_of,
        mark_filter_stale,
        mask_ledger,
        set_ledger,
        update,
    )
    from wss_data.store.label_fields import import_field, make_instances
    from wss_data.store.mask_fields import (
        adopt_masks,
        check_new_field,
        compare_masks,
        declare_mask_field,
        set_model_masks,
    )
    from wss_data.store.screening import ScreenReport, evaluation_splits, leaks, screen, screened
    from wss_data.store.tables import example_table, image_table, mask_array
    from wss_data.store.target import (
        check_mask_field,
        import_report,
        import_target,
        set_predictions,
        set_target_masks,
        target_summary,
    )
    from wss_data.store.upkeep import delete_dataset, rename_dataset
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
        in_groups,
        set_gone,
        set_masks,
    )

__getattr__, __dir__, __all__ = names_when_used(__name__, __file__)
