"""Looking files up at addresses, in a store that now and then fails."""

import pytest

from mmjax.data.sources import addresses, retrying
from mmjax.data.sources.fetching import FetchError

URL = "flaky://set/s-0.tar"


@pytest.fixture
def troubled(flaky, monkeypatch):
    """Orders: the next so many calls of a kind end in a timeout."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    (flaky.root() / "set" / "more").mkdir(parents=True)
    for name in ("s-0.tar", "s-1.tar", "more/s-2.tar"):
        (flaky.root() / "set" / name).write_bytes(b"123456789")
    order = {}

    def troubling(kind):
        act = getattr(flaky.Flaky, kind)

        def call(self, *arguments, **options):
            if order.get(kind, 0) > 0:
                order[kind] -= 1
                raise TimeoutError
            return act(self, *arguments, **options)

        monkeypatch.setattr(flaky.Flaky, kind, call)

    for kind in ("ls", "_open"):
        troubling(kind)
    return order


@pytest.mark.parametrize(
    ("kind", "look"),
    [
        ("ls", lambda: [file.url for file in addresses.find(("flaky://set/s-*.tar",))]),
        ("ls", lambda: [file.url for file in addresses.find(("flaky://set/**/s-*.tar",))]),
        ("ls", lambda: addresses.look(URL)),
        ("ls", lambda: addresses.list_folder("flaky://set")),
        ("_open", lambda: addresses.read_small(URL, 4)),
    ],
)
def test_a_look_that_fails_for_a_while_costs_nothing_and_for_good_is_said(
    troubled, caplog, kind, look
):
    found = look()
    assert found
    troubled[kind] = 4
    assert look() == found
    assert "failed (TimeoutError); it is tried 5 times in all." in caplog.text
    troubled[kind] = 1000
    with pytest.raises(FetchError, match=r"^flaky://set.*, 5 times tried: TimeoutError$"):
        look()


def test_patterns_reach_as_deep_as_they_say(troubled):
    def found(*patterns):
        return [file.url.removeprefix("flaky://set/") for file in addresses.find(patterns)]

    assert found("flaky://set/s-?.tar") == ["s-0.tar", "s-1.tar"]
    assert found("flaky://set/*/s-[12].tar") == ["more/s-2.tar"]
    assert found("flaky://set/**/s-*.tar") == ["more/s-2.tar", "s-0.tar", "s-1.tar"]
    with pytest.raises(FileNotFoundError, match="Nothing is there"):
        found("flaky://none/*.tar")
    with pytest.raises(ValueError, match=r"^flaky://set/\*\*\.tar: Invalid pattern"):
        found("flaky://set/**.tar")


def test_a_small_file_that_comes_in_pieces_or_in_part_is_whole(flaky, monkeypatch):
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    (flaky.root() / "sizes.json").write_bytes(b"123456789")
    opened, cut = flaky.Flaky._open, [4, 9]

    def cutting(self, path, mode="rb", **options):
        file = opened(self, path, mode, **options)
        file = flaky.Slow(file.read()[: cut.pop(0)], 0)
        read = file.read
        file.read = lambda size=-1: read(min(size, 2))
        file.size = 9
        return file

    monkeypatch.setattr(flaky.Flaky, "_open", cutting)
    assert addresses.read_small("flaky://sizes.json", 100) == b"123456789"
    assert not cut
