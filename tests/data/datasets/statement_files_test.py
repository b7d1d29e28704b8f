"""Files of statements, one JSON object a line."""

import pytest

from mmjax.data.datasets.statement_files import statements


def test_labels_are_read_in_both_files_spellings(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(
        '{"sentence": "a", "identifier": "1-0", "label": "True"}\n\n'
        '{"sentence": "a", "identifier": "1-1", "label": "false"}\n'
        '{"sentence": "b", "identifier": "2-0"}\n'
    )
    found = statements(str(path))
    assert {name: row.get("label") for name, row in found.items()} == {
        "1-0": True,
        "1-1": False,
        "2-0": None,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1 is not JSON"),
        ("[]", "no text 'sentence'"),
        ('{"sentence": "a"}', "no text 'identifier'"),
        ('{"sentence": "a", "identifier": "1", "label": "maybe"}', "neither true nor false"),
        ('{"sentence": "a", "identifier": "1"}\n' * 2, "line 2: identifier '1' was there before"),
        ("\n", "holds no statements"),
    ],
)
def test_other_layouts_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        statements(str(tmp_path / "x.json"))
