import pytest

from mmjax.evaluation.report_html import picture, shown, source, text


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (0.4217, "text_to_image/R@1", "42.2 %"),
        (0.0039, "R@1_chance", "0.4 %"),
        (0.5, "zero_shot/top1", "50.0 %"),
        (12.0, "median_rank", "12"),
        (123456.0, "", "123,456"),
        (0.123456, "loss", "0.1235"),
        (0.00001234, "rate", "1.23e-05"),
        (1234.5, "", "1,234"),
        (0.0, "rate", "0"),
    ],
)
def test_numbers_are_shown_for_people(value, name, expected):
    assert shown(value, name) == expected


def test_text_is_harmless_in_pages_and_attributes():
    assert text("<a b=\"c\" d='e'>&") == "&lt;a b=&quot;c&quot; d=&#x27;e&#x27;&gt;&amp;"
    assert text("a\x00b\ud800c\u202ed") == "a\ufffdb\ufffdc\ufffdd"


def test_only_base64_becomes_a_picture():
    assert source("QUJD") == "data:image/jpeg;base64,QUJD"
    for other in ('QUJD" onload="x', "", None, 3, "http://x.example", "QUJD\n"):
        assert source(other) is None
    assert "<img" not in picture({}, 4)
    assert "#4" in picture({}, 4)
