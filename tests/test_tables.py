"""Lists and tables of people, whatever program and system wrote them; names, labels and annotations in them."""

import os
from pathlib import Path
from random import Random
from unicodedata import normalize

import numpy as np
import pytest
from limits import bare_loops
from PIL import Image
from test_targets import H, W, definition, layout

from wss_data.errors import SourceError
from wss_data.imaging.images import write_jpeg
from wss_data.reading.labels import ClassWords, read_annotation, read_label_table
from wss_data.reading.lists import image_name, read_list
from wss_data.reading.tables import MAX_BYTES, decode_text, lines_of, read_table, read_text
from wss_data.target.voc import read_voc_layout

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
MARK = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}
WORDS = ClassWords(("bird", "cow", "traffic light"))


def write(path, text, encoding="utf-8"):
    path.write_bytes(MARK.get(encoding, b"") + text.encode(encoding))
    return path


def labels(path):
    return read_label_table(path, ClassWords(("bird", "cow", "traffic light"))).labels


# Text


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_in_any_marked_encoding_and_with_any_line_ends(tmp_path, encoding, end):
    path = write(tmp_path / "a.txt", end.join(["Kühe 1", "", "x "]), encoding)
    assert lines_of(read_text(path)) == ["Kühe 1", "", "x"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a\nStraße\n".encode("cp1252"), "line 2: not UTF-8 text, the byte 0xDF .* Windows-1252"),
        ("a\r\nb\rStraße".encode("cp1252"), "line 3: not UTF-8"),
        ("図書\n".encode("shift_jis"), "line 1: not UTF-8"),
        ("a,b\n".encode("utf-16-le"), "no text, it holds zero bytes.*byte order mark"),
        (b"\xff\xfea", "marked as UTF-16, but no text"),
        (b"\xff\xfe\0\0abc", "marked as UTF-32, but no text"),
        (b"\x1f\x8b\x08\0rest", "no text, it holds zero bytes. An archive must be unpacked"),
        (b"\xef\xbb\xbfa\0b", "no text, it holds zero bytes"),
        (b"a" * (MAX_BYTES + 1), "more than 64 MB"),
    ],
)
def test_what_is_no_text_is_refused_by_its_encoding_and_line(data, words):
    with pytest.raises(SourceError, match=rf"^x\.csv[:,] ?{words}"):
        decode_text(data, "x.csv")


def test_letters_that_python_takes_for_line_ends_are_parts_of_a_line():
    assert lines_of("a\x0bb\x0cc\x1cd\x85e\u2028f") == ["a\x0bb\x0cc\x1cd\x85e\u2028f"]


def test_a_file_that_cannot_be_opened_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        read_text(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(SourceError, match=r"cannot be read .it is no plain file"):
            read_text(path)


# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_is_read_with_any_separator_encoding_and_line_end(tmp_path, separator, encoding, end):
    rows = [["Classes", " IMAGE ", "note"], ["bird", '"a ""b"""', "ü"], [], ["cow", "b"], ["", "", ""]]
    path = write(tmp_path / "a.csv", end.join(separator.join(row) for row in rows), encoding)

    columns, found = read_table(path, ("image", "classes"), "x,bird")

    assert columns == ["classes", "image", "note"]
    assert [(row.line, row.cells) for row in found] == [
        (2, {"classes": "bird", "image": 'a "b"', "note": "ü"}),
        (4, {"classes": "cow", "image": "b", "note": ""}),
    ], "empty lines are none, a missing cell is empty"


def test_the_first_line_that_excel_writes_for_itself_is_no_row(tmp_path):
    _, rows = read_table(write(tmp_path / "a.csv", "sep=;\r\nimage;classes\r\nx;cow\r\n"), ("image",), "x")
    assert [(row.line, row.cells["image"]) for row in rows] == [(3, "x")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"names the columns \(none\); image and classes are wanted"),
        ("image classes\nx cow\n", "names the columns image classes;"),
        ("image,classes,Image\n", "names 'image' twice"),
        ('image,classes\nx,"cow\ny,cow\n', r"line \d: no readable CSV .*quotes in pairs"),
        (f"image,classes\nx,{'c' * 200_000}\n", "line 2: no readable CSV"),
        ('image,classes\n"x"y,cow\n', "line 2: no readable CSV"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path, text, words):
    with pytest.raises(SourceError, match=words):
        read_table(write(tmp_path / "a.csv", text), ("image", "classes"), "x,cow")


# Labels


@pytest.mark.parametrize("columns", [",", ";", "\t"])
@pytest.mark.parametrize("between", [" ", "; ", ";", ", ", ",", "\t", "|", " | ", "  "])
@pytest.mark.parametrize("quote", ["", '"'])
def test_no_label_is_lost_however_the_classes_are_parted(tmp_path, columns, between, quote):
    cell = f"{quote}{between.join(['bird', 'cow'])}{quote}"
    path = write(tmp_path / "a.csv", f"image{columns}classes\na{columns}{cell}\nb{columns}cow\n")
    assert labels(path) == {"a": {"bird", "cow"}, "b": {"cow"}}


@pytest.mark.parametrize(
    ("cell", "classes"),
    [
        ("traffic light", {"traffic light"}),
        ("cow traffic light bird", {"cow", "traffic light", "bird"}),
        ("Traffic  Light;COW", {"traffic light", "cow"}),
        ("", set()),
        ("background cow", {"background", "cow"}),
    ],
)
def test_a_class_of_two_words_is_one_class_and_capitals_do_not_matter(tmp_path, cell, classes):
    assert labels(write(tmp_path / "a.csv", f"image,classes\na,{cell}\n")) == {"a": classes}


def test_two_classes_that_differ_in_capitals_alone_stay_two():
    words = ClassWords(("Cow", "cow"))
    assert words.several("cow") == {"cow"} and words.several("Cow") == {"Cow"}
    assert words.several("COW") == set() and words.unknown == {"COW": 1}


@pytest.mark.parametrize(
    "cell",
    ["x", " x ", "x.jpg", "x.JPG", "./x.jpeg", "JPEGImages/x.jfif", "JPEGImages\\x.jpg", "/data/V OC/x.png", '"x"'],
)
def test_an_image_is_named_with_or_without_folder_suffix_and_blanks(tmp_path, cell):
    assert labels(write(tmp_path / "a.csv", f"image,classes\n{cell},cow\n")) == {"x": {"cow"}}
    assert read_list(write(tmp_path / "a.txt", f"{cell.strip(chr(34))}\n")).names == ("x",)


@pytest.mark.parametrize("name", ["..", "../x", "a/../x.jpg", "..\\x", ".", "folder/", "/"])
def test_a_name_that_leads_out_of_its_folder_or_nowhere_is_refused_with_its_line(tmp_path, name):
    with pytest.raises(SourceError, match=r"a\.txt, line 2: .* is no name of an image"):
        read_list(write(tmp_path / "a.txt", f"good\n{name}\n"))
    with pytest.raises(SourceError, match=r"a\.csv, line 3: .* is no name of an image"):
        labels(write(tmp_path / "a.csv", f"image,classes\ngood,cow\n{name},cow\n"))


def test_a_dot_in_a_name_is_no_suffix():
    assert image_name("no. 7", "") == "no. 7" and image_name("a.b.jpg", "") == "a.b"
    assert image_name("a.png", "", {"a.png"}) == "a.png", "a file a.png.jpg has that name"


def test_words_that_are_no_class_are_reported_with_their_number_and_the_nearest_class():
    words = ClassWords(("bird", "cow"), ("person",))
    for cell in ("brid", "brid, cow", "BRID person", "zzz"):
        words.several(cell)
    assert words.note() == (
        "labels: 4 words are no class of the definition: 'brid' (2 times; nearest: bird), 'BRID' (once; nearest: "
        "bird), 'zzz' (once)."
    )
    assert ClassWords(("bird",)).note() is None


def test_more_cells_than_columns_are_refused_where_they_could_be_anything(tmp_path):
    with pytest.raises(SourceError, match=r"line 2: 1 cells more than columns, such as 'b'"):
        labels(write(tmp_path / "a.csv", "image,classes,split\nx,cow,a,b\n"))


def test_rows_that_say_nothing_of_a_listed_image_are_counted_and_named(tmp_path):
    rows = "t1,cow\nt1,cat\nt2,\n,cow\nother,cow\nv1,cat\nJPEGImages/t9.jpg,cat\n"
    layout(tmp_path, labels=rows + "t2,brid\n")

    found = read_voc_layout(tmp_path, definition())

    assert found.records[0].labels == ("cow", "cat")
    assert found.counts == (
        "image_labels.csv: 2 of 8 rows name an image that no list has, the first is other in line 6.",
        "image_labels.csv: 2 of 8 rows name an image again; their classes are joined.",
        "image_labels.csv: 1 of 8 rows name no class, the first is line 4.",
        "image_labels.csv: 1 of 8 rows name no image and are left out, the first is line 5.",
    )
    assert found.notes == ("labels: 1 word is no class of the definition: 'brid' (once; nearest: bird).",)


def test_where_no_row_fits_the_words_say_so(tmp_path):
    layout(tmp_path, labels="x1,cow\nx2,cat\n")
    with pytest.raises(
        SourceError, match=r"Its labels name: cat, cow\. image_labels\.csv: 2 of 2 rows name an image that"
    ):
        read_voc_layout(tmp_path, definition())


def test_a_table_that_is_as_it_should_be_leaves_no_note(tmp_path):
    found = read_voc_layout(layout(tmp_path), definition())
    assert found.notes == () and found.counts == (), "bird is known by the masks' classes, which is no misspelling"


# Lists

COPIES = ["photo", "photo (1)", "photo (2)", "photo 1", "photo 0", "a.jpg copy", "# 7"]


@pytest.mark.parametrize("line", ["{}\n", "{}\r\n", "  {}  \r", "{}.jpg\n", "JPEGImages/{}.JPG\n", "img\\{}.jpg\n"])
def test_names_with_spaces_are_read_whole_where_there_are_such_images(tmp_path, line):
    names = [name for name in COPIES if "#" not in name or line.startswith("{}\n")]
    path = write(tmp_path / "a.txt", "".join(line.format(name) for name in names))
    assert read_list(path, {*COPIES, "a"}).names == tuple(names)


@pytest.mark.parametrize(
    "line",
    ["/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "{0} {0}", "{0}.jpg {0}.png", "{0}.jpg 12,34,56,78,0"]
    + ["JPEGImages/{0}.jpg\tMasks/{0}_mask.png", "{0}.jpg  # checked"],
)
@pytest.mark.parametrize("known", [(), {"x", "photo (1)"}])
def test_of_an_image_and_its_mask_the_image_is_taken(tmp_path, line, known):
    path = write(tmp_path / "a.txt", "".join(f"{line.format(name)}\n" for name in ("x", "photo (1)")))
    assert read_list(path, known).names == ("x", "photo (1)")


def test_a_list_of_one_class_leaves_out_the_images_without_it(tmp_path):
    found = read_list(write(tmp_path / "cow_train.txt", "a  1\nb -1\nc  0\n\nb2 -1\n"))
    assert found.names == ("a", "c"), "0 is an image where the class is hard to see, which shows it all the same"
    assert found.notes == ["cow_train.txt: 2 images are marked -1 (the list's class is absent) and left out."]
    with pytest.raises(SourceError, match="marks every image with -1"):
        read_list(write(tmp_path / "none.txt", "a -1\n"))


def test_repeated_lines_are_counted_and_comments_are_none(tmp_path):
    found = read_list(write(tmp_path / "a.txt", "# made by hand\na\nb\na.jpg\n\nimg/b\n"))
    assert found.names == ("a", "b")
    assert found.notes == ["a.txt: 2 lines name an image again, which counts once."]


def test_lists_tables_and_files_meet_whether_their_letters_are_composed_or_not(tmp_path):
    listed, on_disk = normalize("NFC", "Kühe_1"), normalize("NFD", "Kühe_1")
    layout(tmp_path, train=(listed, "t2"), val=("v1",), labels=f"{normalize('NFD', listed)},cow\nt2,cat\nv1,cat\n")
    (tmp_path / "JPEGImages" / f"{listed}.jpg").rename(tmp_path / "JPEGImages" / f"{on_disk}.jpg")
    (tmp_path / "SegmentationClass" / "v1.png").rename(tmp_path / "SegmentationClass" / "v1.PNG")

    first, _, third = read_voc_layout(tmp_path, definition()).records

    assert first.image_path.name == f"{on_disk}.jpg" and first.image_path.is_file() and first.labels == ("cow",)
    assert third.mask_path is not None and third.mask_path.is_file(), "a mask may have its suffix in capitals, too"


# Two files of one name


def picture(mode, path):
    Image.new(mode, (W, H)).save(path)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
@pytest.mark.parametrize("grey", [False, True])
def test_a_photograph_is_distinguished_from_the_mask_beside_it(tmp_path, mode, grey):
    layout(tmp_path)
    if grey:
        picture("L", tmp_path / "JPEGImages" / "v1.jpg")
    picture(mode, tmp_path / "JPEGImages" / "v1.png")

    found = read_voc_layout(tmp_path, definition())

    assert found.records[2].image_path.name == "v1.jpg"
    assert "1 names have several files, such as v1.jpg and v1.png; the photographs, such as v1.jpg, w" in found.notes[0]


def test_two_files_of_one_name_are_refused_where_either_may_be_the_photograph(tmp_path):
    layout(tmp_path)
    picture("L", tmp_path / "JPEGImages" / "t1.jpg")
    picture("RGB", tmp_path / "JPEGImages" / "t1.png")  # a grey photograph and a coloured mask, or a mask as JPEG
    with pytest.raises(SourceError, match=r"t1\.jpg and t1\.png have one name"):
        read_voc_layout(tmp_path, definition())
    (tmp_path / "JPEGImages" / "t1.jpg").unlink()
    picture("P", tmp_path / "JPEGImages" / "t1.bmp")
    assert read_voc_layout(tmp_path, definition()).records[0].image_path.name == "t1.png"
    picture("L", tmp_path / "SegmentationClass" / "v1.PNG")
    with pytest.raises(SourceError, match=r"v1\.PNG and v1\.png have one name"):
        read_voc_layout(tmp_path, definition())


def test_files_beside_the_images_of_a_target_are_counted_and_no_name_ends_the_import(tmp_path):
    layout(tmp_path)
    for name in ("a.heic", ".hidden.jpg", os.fsdecode(b"v\xf6gel.jpg")):
        write_jpeg(np.zeros((H, W, 3), np.uint8), tmp_path / "x.jpg")
        (tmp_path / "x.jpg").rename(tmp_path / "JPEGImages" / name)
    (words,) = read_voc_layout(tmp_path, definition()).counts
    assert words.startswith("JPEGImages: 3 files passed over (")
    assert all(f"1 {kind}" in words for kind in (".heic", "hidden or of a tool", "with a name that is not UTF-8"))


def test_files_that_are_no_masks_or_annotations_are_counted_too(tmp_path):
    layout(tmp_path, labels=None)
    (tmp_path / "Annotations").mkdir()
    annotation(tmp_path / "Annotations" / "t1.xml", "utf-8", "cow")
    (tmp_path / "Annotations" / "t2.json").write_text("{}")
    (tmp_path / "SegmentationClass" / "v1.jpg").write_bytes(b"")
    assert read_voc_layout(tmp_path, definition()).counts == (
        "SegmentationClass: 1 file passed over (1 .jpg).",
        "Annotations: 1 file passed over (1 .json).",
    )


def test_blanks_around_the_name_of_a_file_do_not_part_it_from_its_row(tmp_path):
    layout(tmp_path)
    (tmp_path / "JPEGImages" / "t1.jpg").rename(tmp_path / "JPEGImages" / "t1 .jpg")
    assert read_voc_layout(tmp_path, definition()).records[0].image_path.is_file()


# Annotations


def annotation(path, encoding, *names, codec=None):
    objects = "".join(f"<object><name>{name}</name><part><name>head</name></part></object>" for name in names)
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<annotation><folder>文</folder>{objects}</annotation>'
    path.write_bytes(text.encode(codec or encoding))
    return path


@pytest.mark.parametrize(
    "encoding", ["utf-8", "UTF-8", "gb2312", "GBK", "gb18030", "shift_jis", "euc-jp", "utf-16", "utf-8-sig"]
)
def test_an_annotation_is_read_in_the_encoding_that_it_declares(tmp_path, encoding):
    path = annotation(tmp_path / "a.xml", encoding, "bird", " Cow ", "")
    assert read_annotation(path, WORDS) == {"bird", "cow"}


@pytest.mark.parametrize(
    ("declared", "codec"), [("utf-16", "utf-8"), ("utf-8", "utf-16"), ("utf-8", "utf-16-le"), ("punycode", "utf-8")]
)
def test_the_bytes_of_an_annotation_count_more_than_what_it_declares(tmp_path, declared, codec):
    assert read_annotation(annotation(tmp_path / "a.xml", declared, "bird", codec=codec), WORDS) == {"bird"}


BOMB = '<!DOCTYPE a [<!ENTITY x "ha">' + "".join(
    f'<!ENTITY x{i} "{f"&x{i - 1 if i else str()};" * 10}">' for i in range(10)
)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'<?xml version="1.0" encoding="utf-8mb4"?><a/>', "encoding utf-8mb4 that it declares"),
        (b'<?xml version="1.0" encoding="gb2312"?><a>\xff\xff</a>', "encoding gb2312 that it declares"),
        (b'<?xml version="1.0" encoding="zlib_codec"?><a/>', "encoding zlib_codec"),
        (b"<a>\xff</a>", "encoding utf-8"),
        (b"", "no element found"),
        (b"no XML", "syntax error"),
        (b"<a><object>", "no element found"),
        ((BOMB + "]><a><object><name>&x9;</name></object></a>").encode(), "defines entities"),
        (b"<a>" * (2 << 20), "more than 4,194,304 bytes"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_named_in_one_sentence(tmp_path, data, words):
    path = tmp_path / "x.xml"
    path.write_bytes(data)
    with bare_loops(500), pytest.raises(SourceError, match=rf"x\.xml: .*{words}"):
        read_annotation(path, WORDS)
    with pytest.raises(SourceError, match=r"cannot be read"):
        read_annotation(tmp_path, WORDS)


def test_an_annotation_nested_a_hundred_thousand_deep_ends_in_a_sentence_or_without_a_class(tmp_path):
    path = tmp_path / "x.xml"
    path.write_bytes(b"<a>" * 100_000 + b"</a>" * 100_000)
    assert read_annotation(path, WORDS) == set()


def test_annotations_are_found_with_capital_suffixes_and_their_unknown_names_are_reported(tmp_path):
    layout(tmp_path, labels=None)
    (tmp_path / "Annotations").mkdir()
    annotation(tmp_path / "Annotations" / "t1.XML", "utf-8", "cow")
    annotation(tmp_path / "Annotations" / "t2.xml", "utf-8", "catt")
    found = read_voc_layout(tmp_path, definition())
    assert found.records[0].labels == ("cow",) and found.records[1].labels == ()
    assert found.notes == ("labels: 1 word is no class of the definition: 'catt' (once; nearest: cat).",)


# Anything


GOOD = (
    b'image,classes\nJPEGImages/x.jpg,"bird, cow"\ny;cow|bird\n',
    "image;classes\r\nKühe 1;traffic light\r\n".encode("utf-16"),
    b"photo (1)\n/JPEGImages/x.jpg /Masks/x.png\n# a comment\na -1\n",
    b'<?xml version="1.0" encoding="gb2312"?><annotation><object><name>cow</name></object></annotation>',
)
ODD = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\r",
    b"\n",
    b"..",
    b"/",
    b"\\",
    b"-1",
    b"#",
    b"<!ENTITY",
    b"\xf6",
    b"&x;",
    b";" * 99,
)


def test_four_thousand_mutated_files_are_read_or_refused_with_a_sentence(tmp_path):
    random, path, refused = Random(13), tmp_path / "a", 0
    for _ in range(1000):
        data = bytearray(random.choice(GOOD))
        for _ in range(random.randint(1, 6)):
            at = random.randrange(len(data) + 1)
            data[at : at + random.randrange(4)] = random.choice([*ODD, random.randbytes(3)])
        path.write_bytes(data)
        for read in (labels, read_list, lambda path: read_table(path), lambda path: read_annotation(path, WORDS)):
            try:
                read(path)
            except SourceError as error:
                assert str(error).startswith(str(path)) and len(str(error)) < 600
                refused += 1
    assert 1000 < refused < 4000
