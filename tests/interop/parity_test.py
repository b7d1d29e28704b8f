"""Every stored reference, computed by ours and written back."""

import pathlib

import numpy as np
import pytest

from mmjax.interop import parity
from mmjax.interop.tensors import WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"
FOLDERS = sorted(path.parent for path in PUBLISHED.glob("*/meta.json"))


def test_there_are_references():
    assert FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_outputs_and_gradients_equal_the_reference(folder):
    theirs = parity.stored(folder)
    ours = parity.run(folder)
    assert set(ours) == set(theirs)
    beyond = [one for one in parity.differences(ours, theirs) if not one.within]
    assert not beyond


def test_a_number_beyond_the_bound_is_found_and_placed():
    theirs = {"x": np.ones((2, 3), np.float32), "y": np.zeros(2, np.float32)}
    ours = {"x": np.ones((2, 3), np.float32), "y": np.zeros(2, np.float32)}
    ours["x"][1, 2] += 4e-5
    first, second = parity.differences(ours, theirs)
    assert not first.within
    assert first.place == (1, 2)
    assert second.within
    ours["x"][1, 2] = np.nan
    assert not parity.differences(ours, theirs)[0].within
    assert not parity.differences({"y": ours["y"]}, theirs)[0].within


def test_a_reference_that_is_not_built_is_named(tmp_path):
    (tmp_path / "meta.json").write_text('{"reference_class": "a.b.Strange", "outputs": {}}')
    np.savez(tmp_path / "inputs.npz", x=np.zeros(1))
    with pytest.raises(WeightsError, match=r"Strange is not built; .*CLIPModel"):
        parity.run(tmp_path)
