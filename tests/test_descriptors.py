"""Descriptors of images: which are odd, and what the App is given."""

import numpy as np
import pytest
from builders import make_web

from wss_data import store
from wss_data.commands.cli import main
from wss_data.cosegmentation.common import CommonEngine
from wss_data.errors import StoreError
from wss_data.filtering.oddness import network_name, oddness
from wss_data.store import ODD_VIEW
from wss_data.store.descriptors import DESCRIPTOR, MAP, NETWORK, ODDNESS, SIMILAR


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_an_image_without_neighbours_is_odd_and_a_small_group_far_from_the_mean_is_not():
    found = oddness(on_a_circle(0, 1, 2, 3, 4, 90, 91, 92, 200), neighbours=2)
    assert found.argmax() == 8
    assert found[:8].max() < 0.001


def test_oddness_is_the_mean_distance_to_the_nearest_ones():
    vectors = on_a_circle(0, 60, 90)
    by_hand = [1 - (0.5 + 0) / 2, 1 - (0.5 + 3**0.5 / 2) / 2, 1 - (0 + 3**0.5 / 2) / 2]
    np.testing.assert_allclose(oddness(vectors, neighbours=10), by_hand, atol=1e-6)
    np.testing.assert_allclose(oddness(vectors, neighbours=1), [0.5, 1 - 3**0.5 / 2, 1 - 3**0.5 / 2], atol=1e-6)


def test_an_image_that_is_alone_in_its_class_is_neither_odd_nor_usual():
    assert np.isnan(oddness(on_a_circle(10))).all()


# ------------------------------------------------------------- in the database


def described(name: str):
    """Three cats, two of them alike, and a cow; described by another network."""
    dataset = make_web(name)
    keys = dict(zip((sha[0] for sha in dataset.values("sha256")), dataset.values("id"), strict=True))
    vectors = dict(zip("1234", on_a_circle(0, 5, 90, 45).astype(np.float16), strict=True))
    store.set_descriptors(dataset, {keys[digit]: vector for digit, vector in vectors.items()}, "another network")
    return dataset


def test_the_app_gets_a_map_and_a_search_from_stored_descriptors_without_a_network(database):
    dataset = described("embed-stored")
    told = store.embed(dataset, progress=False)
    assert str(told) == "4 images on the map (tsne), all described already."
    assert set(dataset.list_brain_runs()) == {MAP, SIMILAR}
    assert dataset.load_brain_results(MAP).points.shape == (4, 2)
    assert dataset.values(DESCRIPTOR)[0].dtype == np.float16

    first = dataset.match({"sha256": "1" * 64}).first()
    alike = dataset.sort_by_similarity(first.id, k=2, brain_key=SIMILAR).values("sha256")
    assert [sha[0] for sha in alike] == ["1", "2"]
    index = dataset.load_brain_results(SIMILAR)
    index.find_duplicates(thresh=0.01)
    assert len(index.duplicate_ids) == 1, "images 1 and 2 lie 5 degrees apart: 0.004"


def test_odd_images_come_first_in_a_view_and_one_that_is_alone_has_no_number(database):
    dataset = described("embed-odd")
    store.embed(dataset, method="pca", progress=False)
    assert [sha[0] for sha in dataset.load_saved_view(ODD_VIEW).values("sha256")] == ["3", "1", "2"]
    assert dataset.values(ODDNESS)[3] is None


def test_images_that_no_engine_described_are_described_once_all_by_one_network(database, capsys):
    dataset = make_web("embed-rest")
    some = dataset.values("id")[:1]
    store.set_descriptors(dataset, {some[0]: np.ones(2, np.float16)}, "another network")
    assert main(["embed", "embed-rest", "--workers", "1"]) == 0
    assert "4 of them looked at now" in capsys.readouterr().out
    dataset.reload()
    assert set(dataset.values(NETWORK)) == {network_name()}
    assert len({vector.shape for vector in dataset.values(DESCRIPTOR)}) == 1
    assert store.embed(dataset, progress=False).described == 0


def test_an_image_whose_file_is_gone_is_left_out_of_the_map(database, tmp_path):
    dataset = make_web("embed-gone")
    sample = dataset.first()
    sample["filepath"] = str(tmp_path / "gone.jpg")
    sample.save()
    assert store.embed(dataset, workers=1, progress=False).images == 3


def test_an_image_that_cannot_be_read_is_not_compared_by_what_another_network_saw_of_it(database, tmp_path):
    dataset = described("embed-mixed")
    dataset.match({"sha256": "4" * 64}).set_values("filepath", [str(tmp_path / "gone.jpg")])
    dataset.match({"sha256": "1" * 64}).set_values(NETWORK, [None])  # a new image: all are described anew
    told = store.embed(dataset, workers=1, progress=False)
    assert (told.images, told.described) == (3, 3)
    assert dataset.match({"sha256": "4" * 64}).values(ODDNESS) == [None]


def test_without_a_readable_image_there_is_a_sentence_and_no_map(database, tmp_path):
    dataset = make_web("embed-lost")
    dataset.set_values("filepath", [str(tmp_path / f"{i}.jpg") for i in range(4)])
    with pytest.raises(StoreError, match="0 of 4 images can be read"):
        store.embed(dataset, workers=1, progress=False)


def test_the_engine_and_a_later_look_name_the_same_network():
    assert [entry.what for entry in CommonEngine().ledger.entries] == [network_name()]


def test_what_cannot_be_embedded_is_refused(database):
    from builders import definition

    empty = store.create_or_open(definition("embed-empty"), "web")
    with pytest.raises(StoreError, match="at least 3"):
        store.embed(empty)
    with pytest.raises(StoreError, match="tsne or pca"):
        store.embed(described("embed-method"), method="umap")


@pytest.mark.data
def test_wrong_images_among_photographs_of_an_animal_are_odd(test_data):
    """Twenty cats and four images of nothing in particular: three of these are among the four oddest."""
    from wss_data.cosegmentation.base import ImageFiles
    from wss_data.filtering.oddness import describe_images
    from wss_data.imaging.images import list_images

    cats = list_images(test_data / "web_animals" / "images" / "cat")[:20]
    noise = list_images(test_data / "caltech_web" / "images" / "_noise")[:4]
    vectors = np.stack(list(describe_images(ImageFiles([*cats, *noise], 340), workers=1)))
    assert sum(position >= 20 for position in np.argsort(-oddness(vectors, 5))[:4]) >= 3
