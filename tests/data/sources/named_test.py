"""Pictures found by their names."""

import pickle

import pytest

from mmjax.data.sources.named import NamedPictures, some


def test_pictures_of_shards_and_folders_are_named_alike(tmp_path, write_tar):
    files = {"in/a.png": b"A", "in/a.txt": b"said", "in/b.jpg": b"B"}
    shard = write_tar(tmp_path / "set" / "x.tar", files)
    folder = tmp_path / "folder"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    for path in (shard, str(folder), (shard,)):
        pictures = pickle.loads(pickle.dumps(NamedPictures(path)))
        assert [pictures.name(place) for place in range(len(pictures))] == ["a", "b"]
        assert pictures.read(0)[:2] == ("png", b"A")
        assert pictures.read(1)[:2] == ("jpg", b"B")
    assert NamedPictures(shard).read(1)[2] == {"__shard__": shard}
    assert NamedPictures(shard).fingerprint() != NamedPictures(str(folder)).fingerprint()


def test_a_place_without_pictures_is_refused(tmp_path, write_tar):
    with pytest.raises(ValueError, match="holds a member 'jpg;jpeg;png;webp'"):
        NamedPictures(write_tar(tmp_path / "x.tar", {"a.txt": b"said"}))
    with pytest.raises(FileNotFoundError):
        NamedPictures(str(tmp_path / "no.tar"))
    with pytest.raises(ValueError, match="is an address"):
        NamedPictures("gs://bucket/x.tar")


def test_some_names_are_the_first_five():
    assert some({3, 1, 2}) == "1, 2, 3"
    assert some(range(7)) == "0, 1, 2, 3, 4, ..."
