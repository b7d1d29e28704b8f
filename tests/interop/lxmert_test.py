"""LXMERT's file: which heads it holds, what is refused, a folder whole and written back."""

import json
import pathlib

import numpy as np
import pytest

import mmjax
from mmjax.interop.export import export_weights
from mmjax.interop.families.lxmert import FAMILY
from mmjax.interop.reading import fill
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"
ALL = ("masked_lm", "matching", "regions", "answer")


def config(folder="lxmert_pretrain", **fields):
    return {**json.loads((PUBLISHED / folder / "config.json").read_text()), **fields}


def arrays(folder):
    tensors = Safetensors([PUBLISHED / folder / "state.safetensors"])
    return {name: tensors.get(name) for name in tensors.names()}


@pytest.mark.parametrize(
    ("folder", "heads"), [("lxmert", ()), ("lxmert_pretrain", ALL), ("lxmert_vqa", ("answer",))]
)
def test_the_file_tells_which_heads_there_are(folder, heads):
    named = config(folder, architectures=["LxmertForPreTraining"])
    assert fill(FAMILY, named, Arrays(arrays(folder))).model.heads == heads


def test_tasks_that_were_left_out_have_no_head():
    fields = {"task_obj_predict": False, "task_qa": False}
    kept = {
        name: array
        for name, array in arrays("lxmert_pretrain").items()
        if not name.startswith(("answer_head.", "obj_predict_head."))
    }
    model = fill(FAMILY, config(**fields), Arrays(kept)).model
    assert model.heads == ("masked_lm", "matching")
    assert FAMILY.model(FAMILY.expressed(model)) == model
    one = FAMILY.model(config(architectures=["LxmertForPreTraining"], visual_attr_loss=False))
    assert one.region_outputs == (("object", 6), ("feature", 10))


def test_what_the_format_cannot_express_is_refused_with_its_fields():
    model = FAMILY.model(config(architectures=["LxmertForPreTraining"]))
    with pytest.raises(WeightsError, match=r"heads=\('reasoning',\)"):
        FAMILY.expressed(model.clone(heads=("reasoning",)))
    with pytest.raises(WeightsError, match=r"image\.mlp_dim=99"):
        FAMILY.expressed(model.clone(image=model.image.clone(mlp_dim=99)))
    with pytest.raises(WeightsError, match="tie_word_embeddings=False is not built"):
        FAMILY.model(config(tie_word_embeddings=False))


def test_a_folder_is_loaded_and_written_with_all_published_names(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config()))
    weights = PUBLISHED / "lxmert_pretrain" / "state.safetensors"
    (source / "model.safetensors").write_bytes(weights.read_bytes())
    loaded = mmjax.load(source)
    export_weights(loaded, tmp_path / "out", "hf")
    written = Safetensors([tmp_path / "out" / "model.safetensors"])
    theirs = arrays("lxmert_pretrain")
    assert set(written.names()) == set(theirs) - {"cls.predictions.decoder.weight"}
    for name in written.names():
        np.testing.assert_array_equal(written.get(name), theirs[name])
    assert mmjax.load(tmp_path / "out").model == loaded.model
