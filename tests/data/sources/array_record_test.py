"""ArrayRecord files and the records in them."""

import os
import pickle
import random
import struct
import zlib

import numpy as np
import pytest
from array_record.python import array_record_module

from mmjax.data.sources import array_record, base


def records(count=40, seed=0):
    draw = random.Random(seed)
    return [
        {
            "__key__": f"key-{number}",
            "jpg": draw.randbytes(draw.randrange(2000)),
            "txt": f"größe {number}\ud800",
            "json": {"number": number, "list": [1, None, "x"]},
        }
        for number in range(count)
    ]


def test_what_is_packed_is_unpacked():
    for record in records():
        assert array_record.unpack(array_record.pack(record)) == record
    assert array_record.unpack(array_record.pack({})) == {"__key__": ""}


def test_notes_of_a_source_are_not_packed():
    record = {"__key__": "a", "__shard__": "/somewhere/x.tar", "txt": b"1"}
    assert array_record.unpack(array_record.pack(record)) == {"__key__": "a", "txt": b"1"}


def test_an_array_is_refused():
    with pytest.raises(TypeError, match="ndarray"):
        array_record.pack({"image": np.zeros((2, 2, 3), np.uint8)})


def test_every_flipped_bit_of_a_record_is_noticed():
    data = array_record.pack({"__key__": "a", "jpg": bytes(range(100)), "txt": "caption"})
    for at in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[at // 8] ^= 1 << at % 8
        with pytest.raises(ValueError, match="record"):
            array_record.unpack(bytes(damaged))
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="record"):
            array_record.unpack(data[:cut])


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}",
        b'{"key": "a", "members": [["jpg", 10, "b"]]}',
        b'{"key": "a", "members": [["jpg", "3", "b"]]}',
        b'{"key": "a", "members": [["jpg", 3, "pickle"]]}',
        b'{"key": "a", "members": [["txt", 3, "s", 1]]}',
        b"[" * 100_000,
    ],
)
def test_a_header_that_does_not_fit_is_refused(header):
    rest = struct.pack("<I", len(header)) + header + b"\xff\xfe\xfd"
    with pytest.raises(ValueError, match=r".+"):
        array_record.unpack(b"mmr1" + struct.pack("<I", zlib.crc32(rest)) + rest)


def test_files_are_read_at_random_in_their_order(tmp_path):
    made = records()
    assert array_record.write_array_record(str(tmp_path / "a.array_record"), made[:15]) == 15
    array_record.write_array_record(str(tmp_path / "b.array_record"), made[15:])
    source = array_record.ArrayRecordSource(str(tmp_path / "*.array_record"))
    order = random.Random(1).sample(range(40), 40)
    assert [source[position] for position in order] == [made[position] for position in order]
    assert source.describe() == "2 files, 40 samples of jpg txt json"
    copy = pickle.loads(pickle.dumps(source))
    assert copy[17] == made[17]
    assert copy.fingerprint() == source.fingerprint()
    for position in (-1, 40):
        with pytest.raises(IndexError, match="40"):
            source[position]
    assert sorted(os.listdir(tmp_path)) == ["a.array_record", "b.array_record"]


def test_any_source_is_converted(tmp_path):
    class Made(base.Source):
        def __len__(self) -> int:
            return 25

        def __getitem__(self, position: int) -> base.Record:
            return records()[position]

        def fingerprint(self) -> str:
            return ""

        def describe(self) -> str:
            return ""

    files = array_record.convert(Made(), str(tmp_path / "train"), records_per_file=10)
    assert [os.path.basename(file) for file in files] == [
        f"train-0000{number}-of-00003.array_record" for number in range(3)
    ]
    source = array_record.ArrayRecordSource(tuple(files))
    assert [source[position] for position in range(25)] == records()[:25]


def test_the_fingerprint_follows_content(tmp_path):
    prints = set()
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        array_record.write_array_record(str(folder / "a.array_record"), records(seed=seed))
        prints.add(array_record.ArrayRecordSource(str(folder / "a.array_record")).fingerprint())
    assert len(prints) == 2


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = str(tmp_path / "a.array_record")
    array_record.write_array_record(path, records())
    with pytest.raises(TypeError, match="set"):
        array_record.write_array_record(path, [*records(), {"bad": {1, 2}}])
    with pytest.raises(ValueError, match="no records"):
        array_record.write_array_record(path, [])
    assert len(array_record.ArrayRecordSource(path)) == 40
    assert os.listdir(tmp_path) == ["a.array_record"]


def test_records_of_another_form_are_refused_at_the_start(tmp_path):
    path = str(tmp_path / "a.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1")
    writer.write(b"\x0a\x10 a tf.train.Example")
    writer.close()
    with pytest.raises(ValueError, match=r"a\.array_record holds records of another form.*TFDS"):
        array_record.ArrayRecordSource(path)
