"""Shards that change or break: flipped bits, cuts, empty and missing shards."""

import io
import os
import random
import tarfile

import pytest

from mmjax.data.sources import array_record, base, folder, index, webdataset


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMJAX_CACHE", str(tmp_path / "cache"))


def records(count, seed=0):
    draw = random.Random(seed)
    return [
        {
            "__key__": f"{number:04d}",
            "jpg": draw.randbytes(draw.randrange(1, 900)),
            "txt": f"caption {number}".encode(),
        }
        for number in range(count)
    ]


def write(path, made):
    """Writes a tar; returns where the members' data lie as {byte: sample number}."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for record in made:
            for name in ("jpg", "txt"):
                member = tarfile.TarInfo(f"{record['__key__']}.{name}")
                member.size = len(record[name])
                archive.addfile(member, io.BytesIO(record[name]))
    with tarfile.open(path) as archive:
        return {
            byte: int(member.name.split(".")[0])
            for member in archive
            for byte in range(member.offset_data, member.offset_data + member.size)
        }


def read(source):
    """Each sample's record, or the cause that made it bad."""
    found, messages = [], []
    for position in range(len(source)):
        try:
            record = source[position]
            found.append({name: value for name, value in record.items() if name != "__shard__"})
        except base.BadSample as error:
            messages.append(error.message)
            found.append(error.cause)
    shards = {os.path.basename(message.split(":")[0]) for message in messages}
    assert shards <= {"a.tar", "a.array_record"}
    return found


def read_anew(make, path):
    """What a new run reads, or why it refuses to start."""
    try:
        return read(make(path))
    except ValueError as error:
        return str(error)


def flipped(raw, at, bit):
    return raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]


def overwrite(path, data):
    """Changes a file in place, as rot and careless copies do."""
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()


def test_every_bit_flipped_in_a_shard_that_is_open_is_noticed(tmp_path):
    made = records(25)
    path = tmp_path / "a.tar"
    places = write(path, made)
    raw, draw = path.read_bytes(), random.Random(1)
    source = webdataset.WebDataset(str(path))
    assert read(source) == made
    for _ in range(150):
        at = draw.choice(list(places))
        overwrite(path, flipped(raw, at, draw.randrange(8)))
        expected = [*made]
        expected[places[at]] = "checksum"
        assert read(source) == expected
    overwrite(path, raw)
    assert read(source) == made


def test_every_bit_flipped_between_two_runs_is_noticed(tmp_path):
    made = records(25)
    path = tmp_path / "a.tar"
    places = write(path, made)
    raw, draw = path.read_bytes(), random.Random(2)
    webdataset.WebDataset(str(path))
    for number in range(150):
        at = draw.choice(list(places))
        overwrite(path, flipped(raw, at, draw.randrange(8)))
        os.utime(path, (number, number))
        expected = [*made]
        expected[places[at]] = "checksum"
        assert read(webdataset.WebDataset(str(path))) == expected


def test_no_bit_flipped_anywhere_in_a_shard_gives_wrong_samples(tmp_path):
    made = records(6)
    path = tmp_path / "a.tar"
    write(path, made)
    raw, draw = path.read_bytes(), random.Random(3)
    webdataset.WebDataset(str(path))
    kept = (tmp_path / ("a.tar" + index.SUFFIX)).read_bytes()
    seen = set()
    for number in range(400):
        at = draw.randrange(len(raw))
        overwrite(path, flipped(raw, at, draw.randrange(8)))
        os.utime(path, (number, number))
        (tmp_path / ("a.tar" + index.SUFFIX)).write_bytes(kept)
        found = read_anew(webdataset.WebDataset, str(path))
        if isinstance(found, str):
            assert str(path) in found
            seen.add("refused")
            continue
        bad = [number for number in range(6) if found[number] != made[number]]
        assert [found[number] for number in bad] in ([], ["checksum"])
        seen.add("bad sample" if bad else "harmless")
    assert seen == {"refused", "bad sample", "harmless"}


def test_every_bit_flipped_in_an_array_record_file_is_noticed_or_harmless(tmp_path):
    made = records(40)
    path = str(tmp_path / "a.array_record")
    array_record.write_array_record(path, made)
    with open(path, "rb") as file:
        raw = file.read()
    packed = {number: raw.index(record["jpg"]) for number, record in enumerate(made)}
    draw = random.Random(4)
    for number in range(40):  # in a picture: noticed, and in this sample alone
        at = packed[number] + draw.randrange(len(made[number]["jpg"]))
        overwrite(path, flipped(raw, at, draw.randrange(8)))
        expected = [*made]
        expected[number] = "checksum"
        assert read(array_record.ArrayRecordSource(path)) == expected
    for _ in range(60):  # anywhere
        overwrite(path, flipped(raw, draw.randrange(len(raw)), draw.randrange(8)))
        found = read_anew(array_record.ArrayRecordSource, path)
        if isinstance(found, str):
            assert path in found
            continue
        assert all(got == wanted or isinstance(got, str) for got, wanted in zip(found, made))
        assert len(found) == 40


@pytest.mark.parametrize("indexed", [False, True])
def test_a_cut_shard_is_named_before_the_first_step(tmp_path, indexed):
    path = tmp_path / "a.tar"
    write(path, records(10))
    raw, draw = path.read_bytes(), random.Random(5)
    if indexed:
        webdataset.WebDataset(str(path))
    end = raw.rindex(b"caption 9") + 512
    members = [at for at in range(512, end, 512) if raw[at + 257 : at + 262] == b"ustar"]
    cuts = [*members, *(draw.randrange(1, end) for _ in range(100))]
    for cut in cuts:
        overwrite(path, raw[:cut])
        with pytest.raises(ValueError, match=r"a\.tar: .*(was cut|past the file's end)"):
            webdataset.WebDataset(str(path))


def test_a_shard_cut_while_it_is_read_loses_only_what_is_gone(tmp_path):
    made = records(10)
    path = tmp_path / "a.tar"
    places = write(path, made)
    source = webdataset.WebDataset(str(path))
    cut = min(byte for byte, number in places.items() if number == 6) + 1
    overwrite(path, path.read_bytes()[:cut])
    assert read(source) == [*made[:6], *["read"] * 4]


def test_a_shard_that_vanishes_makes_bad_samples_that_name_it(tmp_path):
    path = tmp_path / "a.tar"
    write(path, records(3))
    source = webdataset.WebDataset(str(path))
    os.remove(path)
    assert read(source) == ["read"] * 3


def test_an_empty_shard_is_named_before_the_first_step(tmp_path):
    for number in range(3):
        write(tmp_path / f"s-{number}.tar", records(2))
    hollow = io.BytesIO()
    with tarfile.open(fileobj=hollow, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("README"))
        folder_entry = tarfile.TarInfo("a.jpg")
        folder_entry.type = tarfile.DIRTYPE
        archive.addfile(folder_entry)
    for data, message in ((b"", "was cut"), (bytes(10240), "no samples"),
                          (hollow.getvalue(), "no samples")):  # fmt: skip
        overwrite(tmp_path / "s-1.tar", data)
        with pytest.raises(ValueError, match=rf"s-1\.tar: .*{message}"):
            webdataset.WebDataset(str(tmp_path / "s-{0..2}.tar"))


def test_a_missing_shard_is_named_before_the_first_step(tmp_path):
    for number in (0, 1, 3):
        write(tmp_path / f"s-00{number}.tar", records(2))
        array_record.write_array_record(str(tmp_path / f"s-00{number}.array_record"), records(2))
    for kind, source in (
        ("tar", webdataset.WebDataset),
        ("array_record", array_record.ArrayRecordSource),
    ):
        with pytest.raises(FileNotFoundError, match=rf"s-002\.{kind}, .*s-004\.{kind}"):
            source(str(tmp_path / f"s-{{000..004}}.{kind}"))
        with pytest.raises(FileNotFoundError, match=rf"t-\*\.{kind}"):
            source(str(tmp_path / f"t-*.{kind}"))
        assert len(source(str(tmp_path / f"s-*.{kind}"))) == 6
    with pytest.raises(FileNotFoundError, match="no folder"):
        folder.Folder(str(tmp_path / "nowhere"))


def test_a_cut_or_empty_array_record_file_is_named_before_the_first_step(tmp_path):
    path = tmp_path / "a.array_record"
    array_record.write_array_record(str(path), records(300))
    raw, draw = path.read_bytes(), random.Random(6)
    for cut in [
        0,
        1,
        100,
        len(raw) // 2,
        len(raw) - 1,
        *(draw.randrange(len(raw)) for _ in range(20)),
    ]:
        overwrite(path, raw[:cut])
        with pytest.raises(ValueError, match=r"a\.array_record is no sound ArrayRecord file"):
            array_record.ArrayRecordSource(str(path))
