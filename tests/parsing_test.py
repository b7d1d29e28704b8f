"""Values as typed: what each type takes, and that none, inf and nan pass only where they may."""

import re

import pytest

from mmjax.parsing import parse_value


@pytest.mark.parametrize(
    ("text", "current", "kind", "value"),
    [
        ("3", 1, int, 3),
        ("3e6", 1, int, 3_000_000),
        ("-inf", 1.0, float, float("-inf")),
        ("No", True, bool, False),
        ("none", "a", str, "none"),
        ("(3, [4])", (1, 2), tuple, (3, (4,))),
        ("a,b", ("x",), tuple, ("a", "b")),
    ],
)
def test_a_text_is_read_by_the_type_of_what_it_replaces(text, current, kind, value):
    read = parse_value(text, current, kind)
    assert read == value
    assert type(read) is kind


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e999", "2.5", "none", ""])
def test_what_is_no_whole_number_is_refused_for_an_int(text):
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no whole number")):
        parse_value(text, 1, int)


@pytest.mark.parametrize(("current", "kind"), [(1, int), (1.0, float), (True, bool), ((1,), tuple)])
def test_none_is_a_value_only_of_what_may_be_none(current, kind):
    assert parse_value("None", current, kind, optional=True) is None
    assert parse_value("none", None, kind) is None
    if kind is not tuple:
        with pytest.raises(ValueError, match="'none' is no"):
            parse_value("none", current, kind)
