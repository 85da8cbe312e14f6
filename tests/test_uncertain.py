"""The uncertain band from the engine to the loss: 255 on disk, neither foreground nor background everywhere."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from wss_data import cosegmentation, store
from wss_data.cosegmentation.base import Segmented
from wss_data.cosegmentation.folder import cosegment_folder
from wss_data.cosegmentation.quality import (
    border_contact,
    colour_contrast,
    connected_components,
    mask_quality,
    solidity,
)
from wss_data.errors import MaskError
from wss_data.imaging.images import write_jpeg
from wss_data.imaging.masks import (
    check_foreground,
    foreground_ratio,
    label_mask,
    read_mask,
    resize_mask,
    split_band,
    write_foreground,
    write_mask,
)
from wss_data.imaging.sheets import BAND_GREY, DatasetImage, cut_out, pair_tile
from wss_data.ledger import Ledger
from wss_data.runtime.home import dataset_folder
from wss_data.sharing.layouts import write_layout
from wss_data.sharing.layouts.base import Contents, ExportRow
from wss_data.spec import DatasetSpec, spec_from_dict
from wss_train.data import Augmentation, Batch, TrainingDraws, as_table, augment, check_training_table
from wss_train.engine.step import batch_losses
from wss_train.losses import at_one_resolution, classes_in_masks, segmentation_loss
from wss_train.metrics import ConfusionMatrix
from wss_train.models import ModelOutput
from wss_train.recipes import preset, with_values
from wss_train.training import train_generator

W, H = 96, 64
VOID = 255


class ToyEngine:
    """Red is foreground; green is the band, of which the mask itself says foreground, too."""

    name = "toy"
    ledger = Ledger()

    def __init__(self, uncertain_band: bool = False) -> None:
        self.uncertain_band = uncertain_band

    def fingerprint(self) -> str:
        return f"toy-{self.uncertain_band}"

    def segment_group(
        self, images: Sequence[np.ndarray], wanted: Collection[int] | None = None, workers: int | None = None
    ) -> Iterator[tuple[int, Segmented]]:
        for position in range(len(images)) if wanted is None else wanted:
            red, green = (images[position][..., channel] > 128 for channel in (0, 1))
            yield position, Segmented(red | green, 0.5, green if self.uncertain_band else None)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(cosegmentation.ENGINES, "toy", f"{__name__}:ToyEngine")


def strips(foreground: int, band: int, seed: int = 0) -> np.ndarray:
    """A red strip of ``foreground`` columns, a green one of ``band``, the rest dark; (H, W, 3), uint8."""
    image = np.zeros((H, W, 3), np.uint8)
    image[..., 2] = np.random.default_rng(seed).integers(0, 100, (8, 12)).repeat(8, 0).repeat(8, 1)
    image[:, :foreground, 0] = 230
    image[:, foreground : foreground + band, 1] = 230
    return image


COLUMNS = {"half": (48, 24), "small": (16, 48), "large": (72, 16), "lost": (0, 96)}
"""Columns of foreground and band, of 96. Fractions of the decided pixels: 2/3, 1/3, 9/10 and none."""

# ------------------------------------------------------------- on disk


def test_a_band_is_the_ignore_index_in_a_label_mask_whatever_the_mask_says_there():
    foreground, band = np.array([[True, True, False, False]]), np.array([[False, True, True, False]])
    assert label_mask(foreground, 7, band).tolist() == [[7, 255, 255, 0]]
    assert label_mask(foreground, 7, band, ignore_index=21).tolist() == [[7, 21, 21, 0]]
    assert label_mask(foreground, 7).tolist() == [[7, 7, 0, 0]]


def test_a_foreground_mask_with_a_band_holds_0_128_and_255_and_comes_back_as_it_was(tmp_path):
    foreground, band = np.array([[True, True, False, False]]), np.array([[False, True, True, False]])
    write_foreground(foreground, tmp_path / "mask.png", band)
    values = read_mask(tmp_path / "mask.png")
    assert values.tolist() == [[255, 128, 128, 0]]
    plain, found = split_band(values)
    assert plain.tolist() == [[255, 0, 0, 0]]
    assert found.tolist() == band.tolist()
    assert check_foreground(plain, (4, 1), "mask").tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("values", "class_index", "plain", "band"),
    [
        ([0, 255], 3, [0, 255], None),  # a foreground mask, not a label mask of which only the band is left
        ([0, 1], 1, [0, 255], None),
        ([0, 3], 3, [0, 255], None),
        ([0, 3, 255], 3, [0, 255, 0], [False, False, True]),
        ([0, 3, 255], None, [0, 255, 0], [False, False, True]),
        ([0, 1, 255], 3, [0, 1, 255], None),  # another class: left for check_foreground to refuse
        ([0, 3, 128], 3, [0, 3, 128], None),
        ([0, 128], 3, [0, 0], [False, True]),
        ([0, 128, 255], None, [0, 0, 255], [False, True, False]),
        ([0, 128, 255], 128, [0, 255, 0], [False, False, True]),  # class 128 is a class
        ([0, 1, 2, 255], None, [0, 1, 2, 255], None),
    ],
)
def test_three_kinds_of_masks_are_understood_and_nothing_else_is_guessed(values, class_index, plain, band):
    found, uncertain = split_band(np.array([values], np.uint8), class_index)
    assert found.tolist() == [plain]
    assert (None if uncertain is None else uncertain.tolist()) == (None if band is None else [band])


def test_another_ignore_index_is_understood_too():
    plain, band = split_band(np.array([[0, 3, 21]], np.uint8), 3, ignore_index=21)
    assert plain.tolist() == [[0, 255, 0]]
    assert band.tolist() == [[False, False, True]]


def test_who_forgets_to_take_the_band_out_is_refused_and_does_not_get_it_as_background():
    with pytest.raises(MaskError, match="0, 128, 255"):
        check_foreground(np.array([[0, 128, 255]], np.uint8), (3, 1), "mask")


def test_resizing_keeps_the_band_and_invents_no_value():
    mask = np.array([[0, 3, 255, 0]], np.uint8).repeat(2, 0)
    assert np.unique(resize_mask(mask, (13, 7))).tolist() == [0, 3, 255]


# ------------------------------------------------------------- shares and measures


def test_the_foreground_fraction_is_that_of_the_decided_pixels():
    foreground, band = np.array([[True, True, False, False]]), np.array([[False, True, True, False]])
    assert foreground_ratio(foreground) == 0.5
    assert foreground_ratio(foreground, band) == 0.5
    assert foreground_ratio(foreground, np.array([[False, False, True, True]])) == 1.0
    assert foreground_ratio(foreground, np.ones((1, 4), bool)) == 0.0
    assert foreground_ratio(label_mask(foreground, 3, band)) == foreground_ratio(foreground, band)


def disk(radius: float) -> np.ndarray:
    y, x = np.mgrid[:40, :40] - 20
    return x**2 + y**2 <= radius**2


def test_a_ring_of_uncertain_pixels_makes_a_disk_no_less_compact_and_no_less_of_one_colour():
    image = np.zeros((40, 40, 3), np.uint8)
    image[disk(12)] = (220, 60, 40)
    image[disk(12) & ~disk(9)] = (40, 220, 60)  # a colour of its own, on neither side
    plain = mask_quality(image, disk(9))
    quality = mask_quality(image, disk(12), disk(12) & ~disk(9))
    # The pixels between the disk's steps and its hull are of the ring: they do not count against it.
    assert quality.compactness == 1.0 >= plain.compactness
    assert quality.colour_contrast == 1.0
    assert quality.pieces == 1
    assert quality.uncertain == pytest.approx((disk(12) & ~disk(9)).mean())


def test_without_a_band_the_measures_are_what_they_were_and_none_is_uncertain():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    mask = disk(9) & ~disk(4)
    quality = mask_quality(image, mask)
    assert quality == mask_quality(image, mask, np.zeros((40, 40), bool))
    assert (quality.compactness, quality.pieces) == (solidity(mask), connected_components(mask))
    assert (quality.border_contact, quality.colour_contrast) == (border_contact(mask), colour_contrast(image, mask))
    assert quality.uncertain == 0.0


def test_what_a_band_cuts_in_two_is_one_piece():
    mask, band = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    mask[5:15, 2:18] = True
    band[:, 9:11] = True
    assert connected_components(mask & ~band) == 2
    assert connected_components(mask & ~band, band) == 1


def test_a_mask_of_which_nothing_is_decided_is_empty_and_no_error():
    everything = np.ones((20, 20), bool)
    quality = mask_quality(np.zeros((20, 20, 3), np.uint8), everything, everything)
    assert (quality.compactness, quality.pieces, quality.border_contact, quality.colour_contrast) == (0, 0, 0, 0)
    assert quality.uncertain == 1.0


def test_a_band_of_another_size_is_refused():
    with pytest.raises(ValueError, match="mask_quality wants"):
        mask_quality(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), bool), np.zeros((4, 5), bool))


# ------------------------------------------------------------- images and export


def test_a_cut_out_shows_the_band_in_grey_between_object_and_background():
    foreground, band = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    foreground[:, :8], band[:, 10:14] = True, True
    result = cut_out(np.zeros((20, 20, 3), np.uint8), foreground, band)
    assert result[10, 3].tolist() == [0, 0, 0]
    assert result[10, 12].tolist() == [BAND_GREY] * 3
    assert result[10, 17].min() > 150


def test_a_tile_says_that_it_shows_a_band_so_that_the_sheet_can_explain_the_grey(tmp_path):
    write_jpeg(strips(32, 32), tmp_path / "a.jpg")
    foreground, band = np.zeros((H, W), bool), np.zeros((H, W), bool)
    foreground[:, :48], band[:, 40:56] = True, True
    for ignore_index in (255, 21):
        write_mask(label_mask(foreground, 3, band, ignore_index), tmp_path / "a.png")
        row = DatasetImage("cat", str(tmp_path / "a.jpg"), str(tmp_path / "a.png"), 0.5, True, "", ignore_index)
        tile = pair_tile(row)
        assert tile.uncertain
        assert (tile.image == BAND_GREY).all(axis=2).any()
    write_mask(label_mask(foreground, 3), tmp_path / "a.png")
    assert not pair_tile(row).uncertain


def test_every_layout_exports_the_band_as_void(tmp_path):
    write_jpeg(strips(32, 32), tmp_path / "a.jpg")
    mask = np.repeat(np.array([[1, 255, 0, 0]], np.uint8), 4, axis=0)
    write_mask(mask, tmp_path / "a.png")
    row = ExportRow("a", tmp_path / "a.jpg", tmp_path / "a.png", ("cat",), "kept")
    for layout in ("voc", "folders"):
        write_layout(layout, Contents((row,), ("cat",), Ledger()), tmp_path / layout)
    for path in ("voc/SegmentationClass/a.png", "folders/masks/cat/a.png"):
        assert read_mask(tmp_path / path).tolist() == mask.tolist()


# ------------------------------------------------------------- the trainer


class GivenLogits(nn.Module):
    """A network whose logits are its parameters: their gradient is that of the loss alone."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pixels = nn.Parameter(torch.randn(shape))
        self.labels = nn.Parameter(torch.randn(shape[0], classes))

    def forward(self, images: torch.Tensor) -> ModelOutput:
        return ModelOutput(self.pixels, self.labels)


def banded_batch() -> Batch:
    """Two masks of 8 x 8 px: class 1 and 2 in the left half, background in the right, a band of 4 columns between."""
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    masks[0, :, :4], masks[1, :, :4] = 1, 2
    masks[:, :, 2:6] = VOID
    return Batch(torch.zeros(2, 3, 8, 8), masks, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ("a", "b"))


def losses_and_gradient(network: GivenLogits, batch: Batch, **values: str) -> tuple[list[float], torch.Tensor]:
    recipe = with_values(preset("cpu"), {"multilabel_weight": 1.0, **values})
    network.zero_grad()
    losses = batch_losses(network(batch.images), batch, recipe, VOID)
    losses[0].backward()
    return [loss.item() for loss in losses], network.pixels.grad


@pytest.mark.parametrize("target", ["image_labels", "mask_classes"])
def test_a_band_changes_no_loss_from_its_pixels(target):
    classes = 3 if target == "mask_classes" else 2
    network, batch = GivenLogits((2, 3, 8, 8), classes), banded_batch()
    band = batch.masks == VOID

    before, gradient = losses_and_gradient(network, batch, loss_resolution="mask", branch_target=target)

    assert gradient.movedim(1, -1)[band].abs().max().item() == 0.0, "exactly"
    assert gradient.movedim(1, -1)[~band].abs().min().item() > 0.0
    # Whatever is predicted there, equations 1, 3 and 4 and the gradient elsewhere stay bit for bit.
    with torch.no_grad():
        network.pixels.movedim(1, -1)[band] = 1000 * torch.randn(int(band.sum()), 3)
    after, changed = losses_and_gradient(network, batch, loss_resolution="mask", branch_target=target)
    assert after == before
    assert torch.equal(changed, gradient)


def test_the_loss_is_the_mean_over_the_decided_pixels_alone():
    network, batch = GivenLogits((2, 3, 8, 8), 2), banded_batch()
    decided = [*range(2), *range(6, 8)]
    (_, segmentation, _), _ = losses_and_gradient(network, batch, loss_resolution="mask")
    alone = segmentation_loss(network.pixels[..., decided], batch.masks[..., decided])
    assert segmentation == pytest.approx(alone.item(), rel=1e-6)


@pytest.mark.parametrize("resolution", ["mask", "stride"])
def test_a_coarse_logit_that_touches_only_band_pixels_learns_nothing(resolution):
    # 8 cells of 4 px a row; cells 2 to 5 lie in the band, and 3 and 4 reach no pixel beyond it when they grow.
    network, fine = GivenLogits((2, 3, 8, 8), 2), banded_batch()
    masks = fine.masks.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    batch = Batch(torch.zeros(2, 3, 32, 32), masks, fine.labels, fine.ids)
    _, gradient = losses_and_gradient(network, batch, loss_resolution=resolution)
    assert gradient[..., 3:5].abs().max().item() == 0.0
    assert gradient[..., :2].abs().min().item() > 0.0


def test_a_band_that_hides_a_whole_class_shows_no_class_and_no_background():
    masks = torch.tensor([[[VOID, VOID], [2, VOID]]])
    assert classes_in_masks(masks, 4).tolist() == [[0, 0, 1, 0]]


def test_the_band_stays_a_band_through_scaling_mirroring_padding_and_sampling():
    mask = label_mask(np.ones((40, 60), bool), 3, np.tile(np.arange(60) >= 30, (40, 1)))
    recipe = with_values(preset("cpu"), {"long_side": 48, "crop": 32})
    for scale, flip in ((0.5, False), (1.0, True), (1.5, False)):
        _, indices = augment(np.zeros((40, 60, 3), np.uint8), mask, Augmentation(scale, flip, 0.5, 0.5), recipe)
        assert set(np.unique(indices)) == {3, VOID}
        _, sampled = at_one_resolution(torch.zeros(1, 4, 4, 4), torch.from_numpy(indices)[None], "stride")
        assert set(sampled.unique().tolist()) == {3, VOID}


def test_in_a_truth_the_band_counts_in_no_metric():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([[1, 255, 0, 255]], np.uint8), np.array([[1, 2, 0, 0]], np.uint8))
    assert matrix.counts.sum() == 2
    assert matrix.mean_iou == 1.0


# ------------------------------------------------------------- from the engine to the trainer


def test_a_folder_of_masks_holds_the_band_at_the_images_own_size_and_counts_it_as_neither(tmp_path, toy):
    (tmp_path / "in" / "cow").mkdir(parents=True)
    for name, columns in COLUMNS.items():
        picture = Image.fromarray(strips(*columns)).resize((4 * W, 4 * H), Image.Resampling.NEAREST)
        picture.save(tmp_path / "in" / "cow" / f"{name}.png")

    def run(out: Path, band: bool):
        return cosegment_folder(tmp_path / "in", out, "toy", {"uncertain_band": band}, workers=1, progress=False)

    summary = run(tmp_path / "out", True)

    assert summary.kept == {"cow": 2}
    mask = read_mask(tmp_path / "out" / "cow" / "half.png")
    assert mask.shape == (4 * H, 4 * W)
    assert np.unique(mask).tolist() == [0, 128, 255]
    shares = [line.split(",")[4] for line in (tmp_path / "out" / "scores.csv").read_text().splitlines()[1:]]
    assert np.array(shares, float) == pytest.approx([2 / 3, 0.9, 0.0, 1 / 3], abs=0.01)
    # The setting is part of the fingerprint: asked for masks without a band, the engine makes new ones.
    again = run(tmp_path / "out", False)
    assert again.made == 4
    assert np.unique(read_mask(tmp_path / "out" / "cow" / "half.png")).tolist() == [0, 255]


def definition(name: str, images: Path, **values) -> DatasetSpec:
    return spec_from_dict(
        {
            "name": name,
            "classes": ["cat", "cow"],
            "sources": [{"name": "folder", "options": {"path": str(images)}}],
            "duplicates": {"max_distance": None},
            "cosegmentation": {"method": "toy", "options": {"uncertain_band": True}},
            **values,
        }
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Four cats and four cows, named as ``COLUMNS``."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, class_name in enumerate(("cat", "cow")):
        for position, (name, columns) in enumerate(COLUMNS.items()):
            write_jpeg(strips(*columns, seed=10 * number + position), folder / class_name / f"{name}.jpg")
    return folder


def named(dataset, field: str) -> dict[str, object]:
    """Class and name of each photograph -> its value."""
    values = zip(*dataset.values(["provenance.source_id", field]), strict=True)
    return {str(Path(source_id).with_suffix("")): value for source_id, value in values}


def test_a_build_with_a_band_writes_it_filters_by_decided_pixels_and_trains(database, tmp_path, images, toy):
    from wss_data import build

    dataset = build(definition("band", images), workers=1, progress=False)

    masks = {key: read_mask(path) for key, path in named(dataset, "cosegmentation.mask_path").items()}
    assert np.unique(masks["cow/half"]).tolist() == [0, 2, VOID]
    assert (masks["cat/half"] == VOID).mean() == pytest.approx(24 / 96, abs=0.02)
    assert np.unique(masks["cow/lost"]).tolist() == [VOID]
    ratios = named(dataset, "foreground_ratio")
    assert [ratios[f"cow/{name}"] for name in COLUMNS] == pytest.approx([2 / 3, 1 / 3, 0.9, 0.0], abs=0.02)
    assert named(dataset, "quality.uncertain")["cow/small"] == pytest.approx(48 / 96, abs=0.02)
    tags = named(dataset, "tags")
    # Of all pixels, small would be 1/6 (dropped) and large 3/4 (kept).
    assert [tags[f"cat/{name}"] for name in COLUMNS] == [
        ["kept"],
        ["kept"],
        ["dropped:too_large"],
        ["dropped:too_small"],
    ]
    assert dataset.default_mask_targets["#e0e0c0"] == "ignore", "the App names it"
    assert (dataset_folder("band") / "pictures" / "cosegmentation_cow.png").is_file()

    table = as_table(dataset.match_tags("kept"), "cosegmentation")
    summary = check_training_table(table)
    assert summary.images_masked == {"cat": 2, "cow": 2}
    recipe = with_values(
        preset("cpu"),
        {"weights": "none", "head_channels": 8, "long_side": 40, "crop": 32, "batch": 2, "generator_iterations": 2},
    )
    example = TrainingDraws(table, recipe)[0]
    assert set(example.mask.unique().tolist()) <= {0, 1, 2, VOID}
    run = train_generator(table, tmp_path / "run", recipe, device="cpu", workers=0, progress=False)
    assert (run / "model.safetensors").is_file()


def test_a_published_mask_keeps_its_band_in_a_dataset_built_from_the_manifest(database, tmp_path, images, toy):
    from wss_data import build
    from wss_data.sharing.manifest import read_manifest, write_manifest
    from wss_data.sharing.rebuild import take_over

    first = build(definition("band-published", images, ignore_index=21), workers=1, progress=False)
    write_manifest(first, tmp_path / "band.jsonl", masks=True)
    plain = {"method": "toy", "options": {"uncertain_band": False}}
    copy = build(definition("band-copied", images, ignore_index=21, cosegmentation=plain), workers=1, progress=False)
    assert named(copy, "quality.uncertain")["cow/half"] == 0.0

    assert take_over(copy, read_manifest(tmp_path / "band.jsonl")) == (8, 0)

    for field in ("foreground_ratio", "quality.uncertain", "quality.compactness", "quality.pieces"):
        assert named(copy, field) == pytest.approx(named(first, field)), field


def test_a_dataset_made_before_there_was_a_band_takes_one(database, images, toy):
    from wss_data import build

    spec = definition("band-old", images, cosegmentation={"method": "toy"})
    dataset = build(spec, workers=1, progress=False)
    dataset.delete_sample_field("quality.uncertain")

    dataset = build(definition("band-old", images), workers=1, progress=False)

    assert {quality.uncertain > 0 for quality in dataset.values("quality")} == {True}
    assert store.apply_filter(dataset, dry_run=True).kept == 4


def test_masks_are_made_again_where_the_definition_gives_void_another_index(database, images, toy):
    from wss_data import build

    for ignore_index in (255, 21):
        dataset = build(definition("band-void", images, ignore_index=ignore_index), workers=1, progress=False)
        masks = named(dataset, "cosegmentation.mask_path")
        assert np.unique(read_mask(masks["cow/half"])).tolist() == sorted([0, 2, ignore_index])
        assert check_training_table(as_table(dataset.match_tags("kept"), "cosegmentation")).images == 4
