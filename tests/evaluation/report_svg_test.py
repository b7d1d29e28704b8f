import re
import xml.etree.ElementTree as xml

import pytest

from mmjax.evaluation.report_svg import MOST_POINTS, Line, chart, matrix


def drawn(figure):
    return xml.fromstring(re.search(r"<svg.*</svg>", figure).group())


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.0)],
        [(1, 5.0), (2, 5.0)],
        [(1, -3.0), (2, -3.0)],
        [(1, 1e-30), (9, 2e-30)],
        [(1, 1e30), (9, -1e30)],
        [(1, 0.1), (10, 0.7), (1000, 0.2)],
        [(step, step**0.5) for step in range(10_000)],
    ],
)
def test_every_curve_stays_inside_its_frame(points):
    image = drawn(chart("a", [Line("b", points)]))
    _, _, width, height = map(float, image.get("viewBox").split())
    coordinates = [
        tuple(map(float, pair.split(",")))
        for line in image.iter("polyline")
        for pair in line.get("points").split()
    ]
    assert 1 <= len(coordinates) <= MOST_POINTS
    for x, y in coordinates:
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_merged_points_keep_the_extremes_as_a_band():
    points = [(step, 1.0) for step in range(2000)]
    points[1234] = (1234, 9.0)
    image = drawn(chart("a", [Line("b", points)]))
    band = next(image.iter("polygon")).get("points").split()
    heights = [float(pair.split(",")[1]) for pair in band]
    assert max(heights) - min(heights) > 100


def test_a_level_is_dashed_and_told_in_the_legend():
    figure = chart("a", [Line("R@1", [(1, 0.5)], level=[(1, 0.01)])], "R@1")
    assert "R@1 50.0 % (chance 1.0 %)" in figure
    assert "stroke-dasharray" in figure


def test_nothing_to_draw_draws_nothing():
    assert chart("a", [Line("b", [])]) == ""


def test_a_matrix_has_a_cell_for_each_number_and_outlines_the_diagonal():
    image = xml.fromstring(
        matrix([[1.0, None], [0.5, 0.0]], lambda row, column, value: f"{row}<{column}", 0.0, 1.0)
    )
    cells = [one for one in image.iter("rect") if one.get("class") == "cell"]
    assert [cell.find("title").text for cell in cells] == ["0<0", "1<0", "1<1"]
    assert [float(cell.get("fill-opacity")) for cell in cells] == [1.0, 0.52, 0.04]
    assert sum(one.get("class") == "own" for one in image.iter("rect")) == 2
