"""Arrays that somebody else wrote: usual ones are read, damaged and hostile ones refused."""

import io
import struct
import zipfile

import numpy as np
import pytest

from mmjax.data.arrays import Npz, numbers, read_npy
from mmjax.data.places import Reader
from mmjax.data.sources.base import BadSample


def npy(array, **how):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **how)
    return file.getvalue()


def npz(packed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def cause(function, *given):
    with pytest.raises(BadSample) as caught:
        function(*given)
    return caught.value.cause


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "|u1", "|b1"])
def test_arrays_of_numbers_are_read_as_they_were_written(version, kind):
    array = np.arange(6).reshape(2, 3).astype(kind)
    for written in (array, np.asfortranarray(array), array[0, 0], array[:0]):
        made = read_npy(npy(written, version=version), "x")
        assert made.dtype == written.dtype
        np.testing.assert_array_equal(made, written)


@pytest.mark.parametrize("packed", [False, True])
def test_each_array_of_an_npz_is_found_by_its_name(packed):
    made = Npz(npz(packed, a=np.arange(3), b=np.eye(2)), "x")
    assert made.names == ("a", "b")
    np.testing.assert_array_equal(made.get("a"), np.arange(3))
    np.testing.assert_array_equal(made.get("b"), np.eye(2))
    assert made.get("c") is None


def test_a_place_reads_npz_and_json_alike_and_names_what_it_found():
    record = {"__key__": "7", "npz": npz(a=np.arange(3)), "json": b'{"x": [1, 2]}'}
    reader = Reader(record)
    place, value = reader.find("a_from", "npy;npz:b;npz:a")
    assert place == "npz:a"
    np.testing.assert_array_equal(value, np.arange(3))
    assert reader.find("a_from", "json:x") == ("json:x", [1, 2])
    with pytest.raises(BadSample, match=r"a_from='npz:b', found npz:a, json:x") as caught:
        reader.find("a_from", "npz:b")
    assert caught.value.cause == "missing"


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], np.eye(2), npy(np.eye(2))])
def test_arrays_lists_and_files_are_numbers(value):
    assert numbers(value, "x").shape == (2, 2)


@pytest.mark.parametrize(
    "value",
    ["text", b"\xff\xd8JPEG", [[1], [2, 3]], ["a"], {"a": 1}, None, [1, None]],
    ids=lambda value: type(value).__name__,
)
def test_what_holds_no_numbers_is_a_bad_sample(value):
    assert cause(numbers, value, "x") == "format"


def claiming(shape):
    """A header of any shape before eight bytes."""
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 62, 1 << 62), (-2,), (-1, -2), (3,), (1,)])
def test_a_header_that_claims_another_size_reserves_nothing(shape):
    assert read_npy(claiming((2,)), "x").shape == (2,)
    assert cause(read_npy, claiming(shape), "x") == "format"


def test_objects_texts_and_records_are_refused():
    for wrong in (np.array(["a"]), np.zeros(2, [("a", "<f4")]), np.zeros(2, complex)):
        assert cause(read_npy, npy(wrong), "x") == "format"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"
    pickled = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"cos\nsystem\n."
    assert cause(read_npy, pickled, "x") == "format"


def test_every_cut_and_every_changed_byte_is_a_bad_sample_or_changes_nothing():
    whole = npz(True, a=np.arange(4, dtype=np.float32))
    wanted = np.arange(4, dtype=np.float32)

    def read(data):
        return Npz(data, "x").get("a")

    np.testing.assert_array_equal(read(whole), wanted)
    bad = 0
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x10
        for data in (whole[:place], bytes(changed)):
            try:
                made = read(data)
            except BadSample:
                bad += 1
            else:
                assert made is None or np.array_equal(made, wanted)
    assert bad > len(whole)


def test_an_array_that_unpacks_to_too_much_is_not_unpacked(monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.npy", bytes(1 << 20))
    monkeypatch.setattr("mmjax.data.arrays._LARGEST", 1 << 19)
    assert cause(Npz(file.getvalue(), "x").get, "a") == "too_large"


@pytest.mark.parametrize(
    "header",
    [b"{'descr': '<f4'", b"{[]: 1, 'a': 2}", b"{1: 2, 'a': 3}", b"{'descr': (), 'shape': (2,)}"],
)
def test_a_header_that_is_no_header_is_a_bad_sample(header):
    for version in (b"\x01\x00", b"\x03\x00"):
        size = struct.pack("<H" if version[0] == 1 else "<I", len(header) + 1)
        data = b"\x93NUMPY" + version + size + header + b"\n" + bytes(8)
        assert cause(read_npy, data, "x") == "format"


def test_shapes_that_no_array_can_have_are_bad_samples():
    for shape in ((0, 10**30), (1,) * 70 + (2,)):
        assert cause(read_npy, claiming(shape), "x") == "format"


def test_a_member_packed_otherwise_or_larger_than_it_claims_is_not_unpacked():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as made:
        made.writestr("a.npy", npy(np.zeros(1 << 20, np.float32)))
    assert cause(Npz(file.getvalue(), "x").get, "a") == "format"
    whole = npz(True, a=np.zeros(1 << 20, np.float32))
    size, small = struct.pack("<I", 4 * (1 << 20) + 128), struct.pack("<I", 200)
    assert whole.count(size) == 2  # before the member and in the directory
    assert cause(Npz(whole.replace(size, small), "x").get, "a") in ("format", "checksum")
    broken = bytearray(whole)
    broken[whole.rindex(b"PK\x01\x02") + 6] = 99  # the version that is needed to unpack it
    assert cause(Npz, bytes(broken), "x") == "format"
