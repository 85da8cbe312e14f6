import random
import time

import cv2
import numpy as np
import pytest

from wss_data.filtering import duplicates
from wss_data.filtering.duplicates import (
    Screened,
    find_leaks,
    find_repeats,
    hash_values,
    laid_over,
    likeness,
    look_at,
    near_pairs,
    thumbnail,
)
from wss_data.imaging.images import decode_image, encode_jpeg, read_image, resize_longest_side
from wss_data.retrieval.decode_pool import perceptual_hash


def slow_pairs(hashes, max_distance):
    """The definition, one pair after the other."""
    values = [int(value) for value in hashes]
    return [
        (i, j, (values[i] ^ values[j]).bit_count())
        for i in range(len(values))
        for j in range(i + 1, len(values))
        if (values[i] ^ values[j]).bit_count() <= max_distance
    ]


def test_near_pairs_are_those_of_the_slow_definition_across_block_borders():
    chance = np.random.default_rng(0)
    hashes = chance.integers(0, 2**64, 200, dtype=np.uint64)
    hashes[[3, 70, 199]] = hashes[5] ^ np.uint64(0b101)
    hashes = np.concatenate([hashes, np.tile(hashes[:20], 110)])  # more than one block of columns
    some = hashes[:300]
    pairs = near_pairs(some, 4)
    assert list(zip(*(part.tolist() for part in pairs), strict=True)) == slow_pairs(some, 4)
    assert len(near_pairs(hashes, 4).first) == len(slow_pairs(hashes, 4))


@pytest.mark.parametrize("max_distance", [0, 2, 5, 8])
@pytest.mark.parametrize("same", [True, False])
def test_many_hashes_are_looked_up_and_give_the_pairs_that_comparing_all_gives(max_distance, same, monkeypatch):
    monkeypatch.setattr(duplicates, "CANDIDATES", 500)  # in chunks
    chance = np.random.default_rng(max_distance)
    hashes = chance.integers(0, 2**64, 1500, dtype=np.uint64)
    for _ in range(8):
        hashes[200:800] ^= np.uint64(1) << chance.integers(0, 64, 600).astype(np.uint64)
    hashes[800:1400] = hashes[200:800]
    hashes[1400:] = hashes[0] ^ np.uint64(chance.integers(0, 2**21))  # one part alike, the others the same
    others = hashes if same else chance.permutation(hashes)[:1000]

    compared, looked_up = (
        sorted({(i, j, n) for part in find(hashes, others, max_distance, same) for i, j, n in zip(*part, strict=True)})
        for find in (duplicates._compared, duplicates._looked_up)
    )

    assert looked_up == [pair for pair in compared if not same or pair[0] < pair[1]]
    assert len(looked_up) > 500


def test_the_time_for_hashes_grows_with_their_number_and_not_with_its_square():
    def seconds(count: int) -> float:
        hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64)
        start = time.thread_time()
        near_pairs(hashes, 8)
        return time.thread_time() - start

    assert min(seconds(80_000) for _ in range(2)) < 8 * max(seconds(20_000) for _ in range(2))


def test_pairs_with_another_set_are_all_combinations():
    hashes = np.array([0b0000, 0b1111], np.uint64)
    pairs = near_pairs(hashes, 1, against=np.array([0b0001, 0b1111, 0b0000], np.uint64))
    assert [part.tolist() for part in pairs] == [[0, 0, 1], [0, 2, 1], [1, 0, 0]]


def test_no_images_have_no_pairs():
    assert near_pairs(hash_values([]), 6).first.tolist() == []


def test_a_flat_image_is_like_no_other_not_even_another_flat_one():
    white, grey = np.full((100, 80, 3), 255, np.uint8), np.full((100, 80, 3), 90, np.uint8)
    assert float((thumbnail(white) * thumbnail(grey)).sum()) == 0.0


def test_a_thumbnail_is_like_that_of_the_same_image_brighter():
    picture = np.kron(np.random.default_rng(0).integers(0, 180, (6, 8, 3), np.uint8), np.ones((20, 20, 1), np.uint8))
    same = (thumbnail(picture) * thumbnail(picture + 40)).sum()
    assert same == pytest.approx(1.0, abs=0.05)


def blobs(seed):
    """An image of soft shapes. Shape (200, 300, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 255, (10, 15, 3), np.uint8)
    return cv2.resize(coarse, (300, 200), interpolation=cv2.INTER_CUBIC)


def test_a_crop_is_alike_once_it_is_laid_over_and_another_image_is_not():
    whole, crop = thumbnail(blobs(0)), thumbnail(blobs(0)[8:-8, 12:-12])
    assert likeness(whole, crop) < 0.9
    assert likeness(whole, laid_over(whole, crop)) > 0.95
    assert likeness(whole, laid_over(whole, thumbnail(blobs(1)))) < 0.9
    flat = thumbnail(np.full((50, 50, 3), 255, np.uint8))
    assert likeness(flat, laid_over(flat, flat)) == 0.0
    assert likeness(whole, laid_over(whole, flat)) == 0.0


def image(name, class_name="cat", phash=0, sha256=None, pixels=100, wanted=False):
    return Screened(name, name, class_name, sha256 or name, f"{phash:016x}", name, pixels, wanted)


def alike(_path):
    """Every image looks like every other: hashes alone decide."""
    return np.tile(np.array([1, -1], np.float32) / 64, (64, 32))


def tags(found):
    return {key: (finding.tag.removeprefix("dropped:"), finding.duplicate_of) for key, finding in found.items()}


def test_of_copies_the_one_with_the_most_pixels_stays():
    images = [image("small", pixels=50), image("large", phash=0b11, pixels=200), image("other", phash=2**40 - 1)]
    assert tags(find_repeats(images, 6, (), alike)) == {"small": ("near_duplicate", "large")}
    assert find_repeats(images, 1, (), alike) == {}
    assert find_repeats(images, None, (), alike) == {}


def test_of_copies_the_one_that_a_person_wants_stays():
    images = [image("small", pixels=50, wanted=True), image("large", pixels=200)]
    assert tags(find_repeats(images, 6, (), alike)) == {"large": ("near_duplicate", "small")}


def test_a_copy_of_a_copy_that_is_no_copy_of_what_stays_stays():
    images = [image("a", phash=0, pixels=3), image("b", phash=0b111, pixels=2), image("c", phash=0b111111, pixels=1)]
    assert tags(find_repeats(images, 3, (), alike)) == {"b": ("near_duplicate", "a")}


def test_an_image_found_for_two_classes_is_left_out_of_both():
    images = [image("1", "cat", sha256="same"), image("2", "cow", sha256="same", phash=2**50), image("3", "cow", 2**33)]
    assert tags(find_repeats(images, None, (), alike)) == {"1": ("ambiguous", "1"), "2": ("ambiguous", "1")}


def test_a_near_copy_in_another_class_outweighs_one_in_its_own():
    images = [image("1", "cat", pixels=9), image("2", "cat", pixels=8), image("3", "cow", pixels=7)]
    assert {tag for tag, _ in tags(find_repeats(images, 6, (), alike)).values()} == {"ambiguous"}


def test_placeholders_go_whatever_they_are_like():
    images = [image("1", sha256="gone"), image("2", sha256="fine")]
    assert tags(find_repeats(images, 6, {"gone"}, alike)) == {"1": ("placeholder", None)}


def test_the_result_does_not_depend_on_the_order():
    chance = random.Random(0)
    images = [
        image(str(n), chance.choice(["cat", "cow"]), chance.choice([0, 1, 3, 2**20, 2**21]), pixels=n)
        for n in range(20)
    ]
    wanted = tags(find_repeats(images, 1, (), alike))
    for _ in range(5):
        chance.shuffle(images)
        assert tags(find_repeats(images, 1, (), alike)) == wanted


def test_leaks_are_found_by_bytes_and_by_looks():
    images = [
        image("same bytes", sha256="val", phash=2**63 - 1),
        image("same looks", phash=1),
        image("other", phash=255),
    ]
    split = [image("v1", sha256="val", phash=2**30), image("v2", phash=0)]
    found = find_leaks(images, split, 2, alike)
    assert tags(found) == {"same bytes": ("leak", "v1"), "same looks": ("leak", "v2")}
    assert find_leaks(images, split, 2, lambda path: None).keys() == {"same bytes"}


def test_a_split_of_which_only_the_digests_of_bytes_are_known_is_compared_by_bytes():
    images = [image("same bytes", sha256="val"), image("other")]
    digest_alone = Screened("1", "line 1", "", "val", "", "", 0)
    assert tags(find_leaks(images, [digest_alone], 4, alike)) == {"same bytes": ("leak", "line 1")}


def test_images_of_one_outline_with_other_details_are_not_taken_for_copies():
    """As side views of two motorbikes on white: the hashes may agree, the thumbnails do not."""
    chance = np.random.default_rng(0)

    def bike():
        picture = np.full((128, 128, 3), 255, np.uint8)
        picture[32:96, 24:104] = np.kron(chance.integers(20, 140, (8, 10, 1), np.uint8), np.ones((8, 8, 3), np.uint8))
        return picture

    one, two = bike(), bike()
    assert float((thumbnail(one) * thumbnail(two)).sum()) > 0.7, "or it shows nothing"
    pictures = {"one": thumbnail(one), "two": thumbnail(two), "one again": thumbnail(cv2.resize(one, (90, 90)))}
    images = [image(name, pixels=1000 - len(name)) for name in pictures]
    assert tags(find_repeats(images, 4, (), pictures.get)) == {"one again": ("near_duplicate", "one")}


@pytest.mark.data
@pytest.mark.parametrize("max_distance", [4, 8])
def test_copies_of_real_photographs_are_found_and_different_photographs_are_not(test_data, max_distance):
    """500 images: exact, resized and JPEG quality 50 copies: 100 %, >= 95 %, >= 95 %; false positives <= 0.5 %."""
    paths = sorted((test_data / "caltech_web" / "images").glob("*/*.jpg"))
    paths += sorted((test_data / "web_wild6" / "images").glob("*/*.jpg"))
    paths = random.Random(0).sample(paths, 500)
    images, stored = [], {}

    def add(picture, name, digest):
        stored[name] = thumbnail(resize_longest_side(picture, 340))
        images.append(Screened(name, name, "thing", digest, perceptual_hash(picture), name, picture.shape[0]))

    for path in paths:
        picture = read_image(path)
        height, width = picture.shape[:2]
        half = cv2.resize(picture, (max(16, width // 2), max(16, height // 2)), interpolation=cv2.INTER_CUBIC)
        worse = decode_image(encode_jpeg(picture, quality=50), path.name)
        add(picture, f"original {path}", str(path))
        add(picture, f"exact {path}", str(path))
        add(half, f"resized {path}", f"half {path}")
        add(worse, f"quality {path}", f"worse {path}")
    originals = [i for i in images if i.name.startswith("original")]
    wrong = find_repeats(originals, max_distance, (), stored.get)
    known = {"BACKGROUND_Google_image_0072.jpg", "BACKGROUND_Google_image_0149.jpg"}  # the same image, looked at
    wrong = {name for name in wrong if name.rpartition("/")[2] not in known}
    assert len(wrong) <= 0.005 * 500

    for kind, share in (("exact", 1.0), ("resized", 0.95), ("quality", 0.95)):
        copies = [i for i in images if i.name.startswith(kind)]
        found = find_repeats(originals + copies, max_distance, (), stored.get)
        right = sum(f"original {path}" in found or f"{kind} {path}" in found for path in paths)
        assert right >= share * len(paths), kind


@pytest.mark.data
def test_the_known_near_duplicates_of_the_web_animals_are_found(test_data):
    images = []
    for path in sorted((test_data / "web_animals" / "images").glob("*/*.jpg")):
        phash = perceptual_hash(read_image(path))
        images.append(Screened(str(path), path.name, path.parent.name, str(path), phash, str(path), 1))
    found = find_repeats(images, 4, (), look_at)
    print(*sorted(f"{f.distance} {name} is {f.duplicate_of}" for name, f in found.items()), sep="\n")
    assert 28 <= len(found) <= 40
