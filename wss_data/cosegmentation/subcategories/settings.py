"""All numbers of the engine ``subcategories``, in one flat record."""

from dataclasses import dataclass, fields
from typing import Any

from wss_data.cosegmentation.options import check_values
from wss_data.cosegmentation.subcategories.joint_cut import JointCutSettings
from wss_data.cosegmentation.subcategories.segment import SegmentSettings
from wss_data.errors import CosegmentationError

_WHOLE_NUMBERS = {
    "seed": (0, 2**31 - 1),
    "long_side": (64, 4096),
    "images_cap": (1, 1_000_000),
    "exemplars_cap": (1, 100_000),
    "background_images": (1, 10_000),
    "background_levels": (1, 20),
    "search_levels": (1, 20),
    "search_shortest_px": (16, 1000),
    "search_padding": (0, 10),
    "search_most": (1, 10_000),
    "top_count": (2, 1000),
    "drop_largest": (0, 1_000_000),
    "least_detections": (1, 10_000),
    "cut_components": (1, 20),
    "cut_rounds": (1, 50),
    "cut_least_px": (1, 100_000),
    "cut_grid_px": (8, 500),
    "cut_outside_px": (10, 1_000_000),
    "cut_average_px": (8, 1000),
    "cuts_cap": (1, 10_000),
    "detector_members": (1, 10_000),
    "picks_cap": (1, 100),
    "segment_components": (1, 20),
    "segment_rounds": (1, 50),
    "segment_grid_px": (16, 1000),
}
_NUMBERS = {
    "box_energy": (0.01, 1.0),
    "exemplar_threshold": (-100.0, 100.0),
    "search_nms": (0.0, 1.0),
    "top_least_size": (0.0, 1.0),
    "top_nms": (0.0, 1.0),
    "top_share": (0.01, 1.0),
    "link_overlap": (0.01, 1.0),
    "probe_iterations": (0.0, 1.0),
    "probe_similarity": (0.0, 1.0),
    "drop_share": (0.0, 1.0),
    "final_iterations": (0.0, 1.0),
    "final_similarity": (0.0, 1.0),
    "cut_smoothness": (0.0, 10_000.0),
    "cut_border_share": (0.0, 1.0),
    "cut_still_share": (0.0, 1.0),
    "cut_moving_share": (0.0, 1.0),
    "detector_threshold": (-100.0, 100.0),
    "pick_nms": (0.0, 1.0),
    "pick_count_share": (0.0, 1.0),
    "average_largest_share": (0.01, 1.0),
    "fallback_spread": (0.05, 10.0),
    "prior_peak": (0.5, 0.999),
    "prior_floor": (0.001, 0.4),
    "prior_mix": (0.0, 1.0),
    "segment_smoothness": (0.0, 10_000.0),
    "segment_location_weight": (0.0, 100.0),
    "segment_disk_px": (0.0, 100.0),
    "segment_border_share": (0.0, 1.0),
}
_SWITCHES = ("normalise_prior", "empty_without_detection", "uncertain_band")


@dataclass(frozen=True)
class SubcategorySettings:
    """Every number of the engine. Where no source is named, the value is that of the authors' public code.

    Args:
        seed: Of the samples that are drawn from large groups; all else is without chance.
        long_side: Larger images are shrunk to this longer side, pixels. Ours: the images of the method have 340.
        images_cap: Images of a group that are searched; a larger group is sampled. Ours, for speed.
        exemplars_cap: Images whose seed box becomes an exemplar, at most. Ours, for speed.
        box_energy: S1, share of the edge energy that the seed box holds, [0, 1].
        background_images: S2, images that teach the background's statistics, at most. Ours.
        background_levels: S2, pyramid levels an octave for it.
        exemplar_threshold: S2, score from which on an exemplar detects. Theirs is 0.5, for another background; ours
            comes from the group itself, and 0.5 left 1 to 3 of 75 exemplars with ten boxes.
        search_levels: S3, pyramid levels an octave.
        search_shortest_px: S3, shortest side of the coarsest level, pixels.
        search_padding: S3, cells of nothing around each level, by which a box may reach beyond the image. How many
            is ours.
        search_nms: S3, largest intersection over own area between one template's boxes, [0, 1].
        search_most: S3, boxes kept of one template on one image, at most. Ours.
        top_count: S4, best boxes of an exemplar over all images.
        top_least_size: S4, smallest longer share of the image that a box spans, [0, 1].
        top_nms: S4, as ``search_nms``.
        top_share: S4, share of the exemplars that is kept, [0, 1].
        link_overlap: S5, smallest intersection over union of boxes that are one detection.
        probe_iterations: S6, share of the exemplars merged in any case; see ``merge_exemplars``.
        probe_similarity: S6, merging goes on above this similarity.
        drop_share: S6, share of the detections that small clusters may lose; see ``without_small_clusters``.
        drop_largest: S6, a larger cluster is never dropped.
        final_iterations: S7, as ``probe_iterations``.
        final_similarity: S7, as ``probe_similarity``.
        least_detections: S7, a subcategory has at least so many detections.
        cut_components: S8, see ``JointCutSettings``; these nine likewise.
        cut_smoothness: As above.
        cut_rounds: As above.
        cut_border_share: As above.
        cut_least_px: As above.
        cut_still_share: As above.
        cut_moving_share: As above.
        cut_grid_px: As above.
        cut_outside_px: As above.
        cut_average_px: As above.
        cuts_cap: S8, exemplars of a subcategory that are cut, best first, at most. Ours, for speed.
        detector_members: S9, detections that a subcategory's template is the mean of, at most. Ours.
        detector_threshold: S9, score from which on a subcategory detects. Ours.
        pick_nms: S10, see ``pick_detections``.
        pick_count_share: S10, as above.
        picks_cap: S10, picks an image, best first, at most. Ours, for speed.
        average_largest_share: S10, an average mask with more foreground says nothing, [0, 1].
        fallback_spread: S10, the soft centred prior where there is no average mask; half sides of the S1 box. Ours.
        empty_without_detection: S10, whether an image on which nothing was detected gets an empty mask, as in theirs;
            otherwise the soft centred prior, and confidence 0.
        normalise_prior: S10, whether a location prior is stretched to ``prior_floor`` .. ``prior_peak``. Ours.
        prior_peak: See ``normalised``.
        prior_floor: See ``normalised``.
        prior_mix: S10, share of what is known without the group (centre, border saliency) in the location prior's
            log-odds, [0, 1]; 0 is the authors' method. Ours.
        segment_components: S11, see ``SegmentSettings``; these seven likewise.
        segment_smoothness: As above.
        segment_location_weight: As above.
        segment_rounds: As above.
        segment_disk_px: As above.
        segment_border_share: As above.
        segment_grid_px: As above.
        uncertain_band: Whether to mark where the soft map and the mask disagree.

    Raises:
        CosegmentationError: If a value is of the wrong kind or out of its range.
    """

    seed: int = 0
    long_side: int = 340
    images_cap: int = 300
    exemplars_cap: int = 150
    box_energy: float = 0.99
    background_images: int = 40
    background_levels: int = 5
    exemplar_threshold: float = 0.4
    search_levels: int = 10
    search_shortest_px: int = 40
    search_padding: int = 1
    search_nms: float = 0.5
    search_most: int = 10
    top_count: int = 10
    top_least_size: float = 0.5
    top_nms: float = 0.5
    top_share: float = 0.8
    link_overlap: float = 0.5
    probe_iterations: float = 0.8
    probe_similarity: float = 0.2
    drop_share: float = 0.2
    drop_largest: int = 70
    final_iterations: float = 0.5
    final_similarity: float = 0.6
    least_detections: int = 5
    cut_components: int = 5
    cut_smoothness: float = 50.0
    cut_rounds: int = 6
    cut_border_share: float = 0.8
    cut_least_px: int = 50
    cut_still_share: float = 0.01
    cut_moving_share: float = 0.1
    cut_grid_px: int = 48
    cut_outside_px: int = 2000
    cut_average_px: int = 200
    cuts_cap: int = 10
    detector_members: int = 40
    detector_threshold: float = 0.4
    pick_nms: float = 0.5
    pick_count_share: float = 0.7
    picks_cap: int = 3
    average_largest_share: float = 0.8
    fallback_spread: float = 0.45
    empty_without_detection: bool = True
    normalise_prior: bool = False
    prior_peak: float = 0.95
    prior_floor: float = 0.02
    prior_mix: float = 0.0
    segment_components: int = 5
    segment_smoothness: float = 50.0
    segment_location_weight: float = 1.0
    segment_rounds: int = 5
    segment_disk_px: float = 3.0
    segment_border_share: float = 0.4
    segment_grid_px: int = 100
    uncertain_band: bool = False

    def __post_init__(self) -> None:
        check_values(self, _WHOLE_NUMBERS, _NUMBERS, _SWITCHES)
        if self.prior_floor >= self.prior_peak:
            raise CosegmentationError(
                f"co-segmentation option prior_floor is {self.prior_floor}; less than prior_peak, "
                f"{self.prior_peak}, is wanted."
            )

    @property
    def cut(self) -> JointCutSettings:
        """The joint cut's settings."""
        return JointCutSettings(**self._of("cut_", JointCutSettings))

    @property
    def segment(self) -> SegmentSettings:
        """The last cut's settings."""
        return SegmentSettings(**self._of("segment_", SegmentSettings))

    def _of(self, prefix: str, settings: type) -> dict[str, Any]:
        return {field.name: getattr(self, prefix + field.name) for field in fields(settings)}
