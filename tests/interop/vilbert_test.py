"""ViLBERT's two releases: what the file tells, what is refused, files whole and written back."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

import mmjax
from mmjax.interop.export import export_weights
from mmjax.interop.families.vilbert import FAMILY
from mmjax.interop.reading import fill
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError
from mmjax.models.fusion.vilbert import EARLIER, TWELVE

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"


def config(folder="vilbert_tasks", **fields):
    return {**json.loads((PUBLISHED / folder / "config.json").read_text()), **fields}


def arrays(folder):
    tensors = Safetensors([PUBLISHED / folder / "state.safetensors"])
    return {name: tensors.get(name) for name in tensors.names()}


def test_heads_release_and_numbers_of_answers_are_read_off_the_file():
    plain = config()
    del plain["task_specific_tokens"]  # as in the release's own json
    later = fill(FAMILY, plain, Arrays(arrays("vilbert_tasks"))).model
    assert (later.heads, later.answers, later.scene_answers) == (TWELVE, 31, 17)
    earlier = fill(FAMILY, config(), Arrays(arrays("vilbert_beta_tasks"))).model
    assert (earlier.heads, earlier.answers, earlier.scaled_answers) == (EARLIER, 15, True)


def test_names_of_several_devices_and_of_old_norms_are_read():
    found = arrays("vilbert_pretrain")
    old = {
        f"module.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): array
        for name, array in found.items()
    }
    one, other = (fill(FAMILY, config(), Arrays(x)).read for x in (found, old))
    assert set(one.arrays) == set(other.arrays)
    for path, array in one.arrays.items():
        np.testing.assert_array_equal(other.arrays[path], array)
    assert len(one.aside) == 2 * 4  # two bridges, each with two layers that are not called


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dynamic_attention": True}, "dynamic_attention=True is not built"),
        ({"fusion_method": "sum"}, "fusion_method='sum' is not built; 'mul' is"),
        ({"t_biattention_id": [0, 2]}, r"t_biattention_id=\[0, 2\] of 3 layers is not built; the"),
        ({"t_biattention_id": [0, 1, 2]}, "with a layer of text before them"),
        ({"v_biattention_id": [2]}, "are not equally many"),
        ({"architectures": ["BertForVLogit"]}, "BertForVLogit is not built; BertModel"),
    ],
)
def test_what_is_not_built_is_refused(fields, message):
    with pytest.raises(WeightsError, match=message):
        FAMILY.model(config(**fields))


@pytest.mark.parametrize("folder", ["vilbert_tasks", "vilbert_beta_tasks"])
def test_a_folder_is_loaded_and_written_with_all_names_of_the_release(tmp_path, folder):
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config(folder)))
    weights = PUBLISHED / folder / "state.safetensors"
    (source / "model.safetensors").write_bytes(weights.read_bytes())
    loaded = mmjax.load(source)
    export_weights(loaded, tmp_path / "out", "hf")
    written = Safetensors([tmp_path / "out" / "model.safetensors"])
    theirs = arrays(folder)
    assert set(written.names()) == set(theirs)
    for name, array in theirs.items():
        np.testing.assert_array_equal(written.get(name), array)
    again = mmjax.load(tmp_path / "out")
    assert again.model == loaded.model
    with np.load(PUBLISHED / folder / "inputs.npz") as file:
        inputs = dict(file)
    names = {"token_ids": "input_ids", "text_mask": "attention_mask", "regions": "image_feat"}
    names |= {"boxes": "image_loc", "region_mask": "image_attention_mask"}
    words = {word: jnp.asarray(inputs[name]) for word, name in names.items()}
    words |= {name: words[name].astype(bool) for name in ("text_mask", "region_mask")}
    made = [one.model.apply(one.variables, **words)[0].pooled for one in (loaded, again)]
    np.testing.assert_array_equal(*made)
