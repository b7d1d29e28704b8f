import pytest

from mmjax.evaluation import templates


def test_every_template_of_ours_has_one_gap():
    for some in (templates.PLAIN, templates.PICTURE, templates.PHOTO, templates.DRAWING):
        templates.check(some)
        assert all(template.count("{}") == 1 for template in some)
        assert len(set(some)) == len(some)


def test_braces_in_a_name_mean_nothing():
    assert templates.fill("a {}.", "{0.__class__}") == "a {0.__class__}."


def test_own_templates_are_read_from_a_file(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("# of animals\na drawn {}\n\n  the {} 猫\n", encoding="utf-8")
    assert templates.read(path) == ("a drawn {}", "the {} 猫")


def test_templates_without_gap_or_without_any_are_refused(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("a cat\n")
    with pytest.raises(ValueError, match="'a cat' has no gap"):
        templates.read(path)
    with pytest.raises(ValueError, match="at least one"):
        templates.check(())
    with pytest.raises(
        ValueError, match=r"templates='a photo of a \{\}' is one text; give a tuple of them"
    ):
        templates.check("a photo of a {}")
