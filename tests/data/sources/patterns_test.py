"""Globs, braces and refused addresses."""

import pytest

from mmjax.data.sources import patterns


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("a-000.tar", "a-001.tar", "a-002.tar", "b-000.tar", "a-000.tar.idx", "odd[1].tar"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("a-000.tar", ["a-000.tar"]),
        ("a-*.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("a-{000..002}.tar", ["a-000.tar", "a-001.tar", "a-002.tar"]),
        ("{b,a}-000.tar", ["b-000.tar", "a-000.tar"]),
        ("{a,b}-{000..000}.tar", ["a-000.tar", "b-000.tar"]),
        (("b-*.tar", "a-{001..001}.tar"), ["b-000.tar", "a-001.tar"]),
        ("odd[1].tar", ["odd[1].tar"]),
        ("./a-00[12].tar", ["./a-001.tar", "./a-002.tar"]),
    ],
)
def test_patterns_name_files_in_the_order_written_and_then_by_name(folder, path, names):
    assert patterns.expand(path) == tuple(names)


def test_files_of_another_kind_are_left_out_of_globs(folder):
    assert patterns.expand("a-000*", leave_out=(".idx",)) == ("a-000.tar",)


def test_the_home_folder_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert patterns.expand("~/b-000.tar") == (f"{folder}/b-000.tar",)


def test_a_pattern_that_matches_nothing_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"c-\*\.tar"):
        patterns.expand(("a-*.tar", "c-*.tar"))


def test_every_number_that_a_range_lacks_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"2 of the files.*a-003\.tar, a-004\.tar"):
        patterns.expand("a-{000..004}.tar")


def test_a_file_named_twice_is_refused(folder):
    with pytest.raises(ValueError, match="twice"):
        patterns.expand(("a-000.tar", "a-*.tar"))


@pytest.mark.parametrize("path", ["", (), ("a-000.tar", "")])
def test_no_path_is_refused(folder, path):
    with pytest.raises(ValueError, match="No files"):
        patterns.expand(path)


@pytest.mark.parametrize("path", ["a-{2..0}.tar", "a-{0..x}.tar", "{a,{b,c}}-000.tar"])
def test_wrong_braces_are_refused(folder, path):
    with pytest.raises(ValueError, match=r"range|braces inside braces"):
        patterns.expand(path)


def test_a_range_of_a_thousand_million_files_is_refused_at_once(folder):
    with pytest.raises(ValueError, match="more than 100,000"):
        patterns.expand("a-{0..999}{0..999}{0..999}.tar")


@pytest.mark.parametrize(
    ("text", "patterns_found"),
    [
        ("a b/x-*.tar", ("a b/x-*.tar",)),
        (" a b/x-{0..1}.tar\n", ("a b/x-{0..1}.tar",)),
        ("a b/x-{0..2}.tar", ("a b/x-{0..2}.tar",)),
        ("a b/x-0.tar", ("a b/x-0.tar",)),
        ("~/a b/x-?.tar", ("~/a b/x-?.tar",)),
        ("a-000.tar b-*.tar", ("a-000.tar", "b-*.tar")),
        ("a-000.tar  no\tb-*.tar", ("a-000.tar", "no", "b-*.tar")),
        ("a-*.tar", ("a-*.tar",)),
    ],
)
def test_a_text_is_split_at_spaces_unless_the_whole_of_it_finds_files(
    folder, monkeypatch, text, patterns_found
):
    monkeypatch.setenv("HOME", str(folder))
    (folder / "a b").mkdir()
    for number in range(2):
        (folder / "a b" / f"x-{number}.tar").touch()
    assert patterns.split(text) == patterns_found


def test_a_file_that_a_range_in_a_folder_with_spaces_lacks_is_named(folder):
    (folder / "a b").mkdir()
    (folder / "a b" / "x-0.tar").touch()
    with pytest.raises(FileNotFoundError, match=r"for 1 of the files.*: a b/x-1\.tar"):
        patterns.expand(patterns.split("a b/x-{0..1}.tar"))
