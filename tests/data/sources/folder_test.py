"""Folders of pictures, and tables that name pictures."""

import csv
import json
import os
import pickle

import pytest

from mmjax.data.sources import base, folder


@pytest.fixture
def pictures(tmp_path):
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for name, data in {
        "b.jpg": b"B",
        "b.txt": b"a b",
        "a.v2.PNG": b"A",
        "a.v2.json": b"{}",
        "sub/c.webp": b"C",
        "alone.txt": b"no picture",
        "README.md": b"?",
        ".hidden.jpg": b"?",
        "b.pkl": b"?",
    }.items():
        (root / name).write_bytes(data)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    return root


def test_a_folder_gives_pictures_with_the_captions_beside_them(pictures):
    source = folder.Folder(str(pictures))
    assert [source[position] for position in range(len(source))] == [
        {"__key__": "a.v2", "png": b"A", "json": b"{}"},
        {"__key__": "b", "jpg": b"B", "txt": b"a b"},
        {"__key__": "sub/c", "webp": b"C"},
    ]
    assert source.describe() == "a folder, 3 samples of jpg json png txt webp"
    assert pickle.loads(pickle.dumps(source))[1]["jpg"] == b"B"


def test_a_folder_without_pictures_or_without_being_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pictures"):
        folder.Folder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder"):
        folder.Folder(str(tmp_path / "elsewhere"))


def test_a_link_out_of_the_folder_is_refused(pictures, tmp_path):
    (pictures / "z.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(ValueError, match=r"z\.jpg is a link out of"):
        folder.Folder(str(pictures))


def test_a_link_made_later_is_not_followed(pictures, tmp_path):
    source = folder.Folder(str(pictures))
    os.remove(pictures / "b.jpg")
    (pictures / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(base.BadSample, match="link out of"):
        source[1]


def test_a_picture_that_vanished_is_a_bad_sample(pictures):
    source = folder.Folder(str(pictures))
    os.remove(pictures / "b.jpg")
    with pytest.raises(base.BadSample, match=r"missing: .*b\.jpg"):
        source[1]
    assert source[0]["png"] == b"A"


def test_a_pipe_in_place_of_a_picture_does_not_hang_the_reader(pictures):
    source = folder.Folder(str(pictures))
    os.remove(pictures / "b.jpg")
    os.mkfifo(pictures / "b.jpg")
    with pytest.raises(base.BadSample, match="format"):
        source[1]


def test_the_fingerprint_of_a_folder_follows_names_and_sizes(pictures):
    before = folder.Folder(str(pictures)).fingerprint()
    os.utime(pictures / "b.jpg", (1, 1))
    (pictures / "README.md").write_bytes(b"changed")
    assert folder.Folder(str(pictures)).fingerprint() == before
    (pictures / "b.jpg").write_bytes(b"BB")
    assert folder.Folder(str(pictures)).fingerprint() != before


ROWS = [
    {"image": "b.jpg", "title": 'größe, "quoted"\nand a second line', "n": "1"},
    {"image": "sub/c.webp", "title": "c", "n": "2"},
    {"image": "b.jpg", "title": "again", "n": "3"},
]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8")
    else:
        with open(path, "w", encoding="utf-8-sig", newline="") as file:
            dialect = "excel" if path.suffix == ".csv" else "excel-tab"
            writer = csv.DictWriter(file, rows[0], dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".tsv"])
def test_a_table_gives_pictures_rows_and_captions(pictures, ending):
    path = write(pictures / f"rows{ending}", ROWS)
    source = folder.Table(path, caption="title")
    assert [source[position] for position in range(3)] == [
        {"__key__": "b.jpg", "jpg": b"B", "json": ROWS[0], "txt": ROWS[0]["title"]},
        {"__key__": "sub/c.webp", "webp": b"C", "json": ROWS[1], "txt": "c"},
        {"__key__": "b.jpg", "jpg": b"B", "json": ROWS[2], "txt": "again"},
    ]
    assert "txt" not in folder.Table(path)[0]
    assert source.describe() == f"rows{ending}, 3 rows of image title n"
    copy = pickle.loads(pickle.dumps(source))
    assert copy[2]["txt"] == "again"
    assert copy.fingerprint() == source.fingerprint() != folder.Table(path).fingerprint()


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_a_table_without_pictures_gives_its_rows_by_line(tmp_path, ending):
    rows = [{"title": "a", "n": "1"}, {"title": "b", "n": "2"}]
    path = write(tmp_path / f"rows{ending}", rows)
    source = folder.Table(path, caption="title")
    first = 1 if ending == ".jsonl" else 2  # after the header
    assert [source[position] for position in range(2)] == [
        {"__key__": str(first), "json": rows[0], "txt": "a"},
        {"__key__": str(first + 1), "json": rows[1], "txt": "b"},
    ]
    assert folder.Table(path)[0] == {"__key__": str(first), "json": rows[0]}
    assert (
        source.describe()
        == f"rows{ending}, 2 rows of title n, without pictures (no column 'image')"
    )
    assert pickle.loads(pickle.dumps(source))[1] == source[1]
    with pytest.raises(ValueError, match="no text in column 'photo'; its columns are title, n"):
        folder.Table(path, image="photo")
    with pytest.raises(ValueError, match="no text in column 'caption'"):
        folder.Table(path, caption="caption")


def test_a_table_of_features_gives_lists_and_counts_blank_lines(tmp_path):
    rows = [{"image_features": [0.5, number], "text_features": [number]} for number in range(2)]
    text = "\n\n".join(map(json.dumps, rows))
    (tmp_path / "rows.jsonl").write_text(text)
    source = folder.Table(str(tmp_path / "rows.jsonl"))
    assert [source[position] for position in range(2)] == [
        {"__key__": "1", "json": rows[0]},
        {"__key__": "3", "json": rows[1]},
    ]


def test_a_table_may_lie_elsewhere_than_its_pictures(pictures, tmp_path):
    path = write(tmp_path / "rows.jsonl", ROWS)
    assert folder.Table(path, root=str(pictures))[0]["jpg"] == b"B"
    with pytest.raises(base.BadSample, match="missing"):
        folder.Table(path)[0]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd.jpg", "sub/../../secret.jpg", "a\0.jpg"]
)
def test_a_row_that_leads_out_of_the_folder_is_refused_before_anything_is_read(pictures, name):
    path = write(pictures / "rows.jsonl", [*ROWS, {"image": name, "title": "x"}])
    with pytest.raises(ValueError, match="line 4 leads out of the table's folder"):
        folder.Table(path)


def test_a_row_whose_link_leads_out_is_a_bad_sample(pictures, tmp_path):
    (pictures / "z.jpg").symlink_to(tmp_path / "secret.jpg")
    (pictures / "outside").symlink_to(tmp_path)
    rows = [{"image": "z.jpg"}, {"image": "outside/secret.jpg"}, {"image": "b.jpg"}]
    source = folder.Table(write(pictures / "rows.jsonl", rows))
    for position in (0, 1):
        with pytest.raises(base.BadSample, match="link out of"):
            source[position]
    assert source[2]["jpg"] == b"B"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image": "b.jpg"}\n{"image": ', "line 2 is not JSON"),
        ("[" * 100_000, "line 1 is not JSON"),
        ('["b.jpg"]', "line 1 is a list"),
        ('{"image": "b.jpg"}\n{"picture": "b.jpg"}', "no text in column 'image'; .* are picture"),
        ('{"n": 1}\n{"image": "b.jpg"}', "line 2 has a column 'image', the first row has none"),
        ('{"image": 5}', "no text in column 'image'"),
        ('{"image": "b.exe"}', "a picture is a jpg, jpeg, png, webp"),
        ("", "holds no rows"),
    ],
)
def test_a_damaged_table_is_refused_with_the_line(pictures, text, message):
    (pictures / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        folder.Table(str(pictures / "rows.jsonl"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"image,title\nb.jpg\n", "line 2 has another number of columns"),
        (b"image,title\nb.jpg,x,y\n", "line 2 has another number of columns"),
        (b"image\nb\xff.jpg\n", "UTF-8"),
        (b"image\n" + b"x" * 200_000 + b"\n", "line 2 names 'xxx"),
    ],
)
def test_a_damaged_csv_is_refused(pictures, data, message):
    (pictures / "rows.csv").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        folder.Table(str(pictures / "rows.csv"))


def test_other_kinds_of_tables_and_addresses_are_refused(pictures):
    (pictures / "rows.xlsx").touch()
    with pytest.raises(ValueError, match=r"\.jsonl"):
        folder.Table(str(pictures / "rows.xlsx"))
    with pytest.raises(FileNotFoundError, match="no file"):
        folder.Table(str(pictures / "no.csv"))
    for make in (folder.Table, folder.Folder):
        with pytest.raises(ValueError, match="address"):
            make("https://example.org/rows.csv")


def test_a_name_with_a_lone_surrogate_is_a_bad_sample(pictures):
    (pictures / "rows.jsonl").write_text('{"image": "\\ud800.jpg"}')
    with pytest.raises(base.BadSample, match=r"ud800\.jpg"):
        folder.Table(str(pictures / "rows.jsonl"))[0]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", 'image,caption\na.jpg,"one\nb.jpg,two\n', "unexpected end|is no"),
        ("t.tsv", 'image\tcaption\na.jpg\t"one\nb.jpg\t"two" three\n', "expected after"),
        ("t.csv", "image,caption,caption\na.jpg,one,two\n", "column 'caption' is there 2 times"),
        ("t.jsonl", '{"image": "a.jpg", "image": "b.jpg"}\n', "column 'image' is there 2 times"),
    ],
)
def test_what_a_table_says_in_two_ways_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folder.Table(str(tmp_path / name))


def test_a_long_caption_of_a_csv_is_read_and_a_stray_quote_has_its_place(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(f"caption,label\nshort,1\n{'w' * 1_000_000},2\n")
    assert len(folder.Table(str(table))[1]["json"]["caption"]) == 1_000_000
    table.write_text('caption,label\nshort,1\n"quoted" dog,2\n')
    with pytest.raises(ValueError, match=r"a\.csv cannot be read as a UTF-8 table after line 2"):
        folder.Table(str(table))
