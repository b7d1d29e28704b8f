"""The one-pass tar reader beside Python's own."""

import io
import random
import tarfile
import zlib

import pytest

from mmjax.data.sources import tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def write(path, files, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", FORMATS)
def test_names_places_and_checksums_are_those_of_tarfile(tmp_path, form):
    draw = random.Random(0)
    files = []
    for number in range(60):
        folder = "/".join("f" * draw.randrange(1, 40) for _ in range(draw.randrange(3)))
        name = f"{folder}/{number:03d}{'ü' * (number % 3)}.jpg".lstrip("/")
        files.append((name, draw.randbytes(draw.choice([0, 1, 511, 512, 513, 5000]))))
    if form != "ustar":  # which has no longer names
        files += [("long/" * 80 + "name.jpg", b"long"), ("x" * 300 + ".txt", b"longer")]
    path = str(tmp_path / "a.tar")
    write(path, files, FORMATS[form])
    with tarfile.open(path) as archive:
        expected = [
            (entry.name.encode(), entry.offset_data, entry.size, zlib.crc32(data))
            for entry, (_, data) in zip(archive.getmembers(), files)
        ]
    assert list(tar.scan(path)) == expected


def test_a_member_longer_than_a_chunk_is_read_whole(tmp_path):
    data = random.Random(1).randbytes((2 << 20) + 77)
    path = str(tmp_path / "a.tar")
    write(path, [("a.bin", data), ("b.txt", b"after")])
    found = list(tar.scan(path))
    assert [(size, crc) for _, _, size, crc in found] == [
        (len(data), zlib.crc32(data)),
        (5, zlib.crc32(b"after")),
    ]


def test_sizes_in_base_256_and_in_pax_headers_are_understood(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [("a.txt", b"hello"), ("b.txt", b"world")])
    raw = bytearray(path.read_bytes())
    raw[124:136] = b"\x80" + (5).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    path.write_bytes(raw)
    assert [size for _, _, size, _ in tar.scan(str(path))] == [5, 5]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size, member.pax_headers = 5, {"size": "5", "comment": "a=b\nc"}
        archive.addfile(member, io.BytesIO(b"hello"))
    assert [size for _, _, size, _ in tar.scan(str(path))] == [5]


def test_headers_of_the_oldest_form_are_understood(tmp_path):
    path = tmp_path / "a.tar"
    write(path, [("a.txt", b"hello")], tarfile.USTAR_FORMAT)
    raw = bytearray(path.read_bytes())
    raw[156:157], raw[257:265] = b"\0", bytes(8)
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    path.write_bytes(raw)
    assert [name for name, *_ in tar.scan(str(path))] == [b"a.txt"]


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh9"])
def test_a_compressed_shard_is_named_as_such(tmp_path, magic):
    path = tmp_path / "a.tar"
    path.write_bytes(magic + bytes(range(1, 255)) * 50)
    with pytest.raises(ValueError, match=r"a\.tar: is a (gzip|zstd|xz|bzip2) file"):
        list(tar.scan(str(path)))


def test_joined_tars_are_refused_since_all_but_the_first_would_be_lost(tmp_path):
    one, two, both = (tmp_path / f"{name}.tar" for name in ("one", "two", "both"))
    write(one, [("a.txt", b"1")])
    write(two, [("b.txt", b"2")])
    both.write_bytes(one.read_bytes() + two.read_bytes())
    with pytest.raises(ValueError, match=r"both\.tar.*data follow"):
        list(tar.scan(str(both)))


def test_a_global_header_may_comment_but_not_rename(tmp_path):
    path = tmp_path / "a.tar"
    for headers, fine in (({"comment": "made by hand"}, True), ({"path": "other.txt"}, False)):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
        if fine:
            assert [name for name, *_ in tar.scan(str(path))] == [b"a.txt"]
        else:
            with pytest.raises(ValueError, match="global header"):
                list(tar.scan(str(path)))
