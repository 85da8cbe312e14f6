"""The settings of the engine ``subcategories``; its other numbers are constants of the modules of their stages."""

from typing import Annotated

from wss_data.errors import CosegmentationError
from wss_data.reading.settings import Rule, settings


@settings("co-segmentation method 'subcategories'", CosegmentationError)
class SubcategorySettings:
    """What a user may set. Where no source is named, the default is that of the authors' public code."""

    seed: Annotated[int, Rule(ge=0, lt=2**31), "Seed of the samples that are drawn from large groups."] = 0
    # Both caps are ours: the cost would grow with the square of the group.
    images_cap: Annotated[int, Rule(ge=1, le=10**6), "Images that are searched, at most. Ours."] = 300
    exemplars_cap: Annotated[int, Rule(ge=1, le=10**5), "Exemplars, at most. Ours."] = 150
    search_levels: Annotated[int, Rule(ge=1, le=20), "S3 and S10: pyramid levels an octave."] = 10
    # Theirs is 0.5, for another background. Ours is the group's own: with 0.5 1 to 3 of 75 exemplars found ten boxes.
    exemplar_threshold: Annotated[float, Rule(ge=-100, le=100), "S2: least score of a box. Ours."] = 0.4
    top_count: Annotated[int, Rule(ge=2, le=1000), "S4: boxes that an exemplar needs and keeps."] = 10
    least_detections: Annotated[int, Rule(ge=1, le=10**4), "S7: least detections of a subcategory."] = 5
    detector_threshold: Annotated[float, Rule(ge=-100, le=100), "S9: least score of a box. Ours."] = 0.4
    empty_without_detection: Annotated[
        bool, "S10: empty mask where nothing is detected; if not, a soft prior in the S1 box."
    ] = True
    uncertain_band: Annotated[bool, "Whether to mark where soft map and mask disagree."] = False
