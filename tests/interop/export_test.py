"""What `export` writes: the names, config and files that the other library reads, no others."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import paths
from mmjax.__main__ import main
from mmjax.interop.export import _of_type, _under, export_weights
from mmjax.interop.family import label_count, labels
from mmjax.interop.tensors import WeightsError
from mmjax.interop.tokenizer_files import tokenizer_files

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WHOLE = GOLDEN / "whole"
FORMAT = {
    "align_hf": "hf",
    "chinese_clip_hf": "hf",
    "clip_hf": "hf",
    "open_clip": "open_clip",
    "siglip_hf": "hf",
}
ANYWAY = ("crop_rounding", "text_cleaning")


@pytest.fixture(scope="module", params=FORMAT)
def whole(request, tmp_path_factory):
    """(name, loaded, the folder that it was written to)."""
    loaded = mmjax.load(WHOLE / request.param)
    out = tmp_path_factory.mktemp("export") / "deep" / request.param
    export_weights(loaded, out, FORMAT[request.param])
    return request.param, loaded, out


def weights_of(folder):
    return next(pathlib.Path(folder).glob("*.safetensors"))


def texts_of(name):
    return json.loads((WHOLE / f"{name}_texts.json").read_text(encoding="utf-8"))


def same_arrays(one, other):
    ours, theirs = paths.flatten(one.variables), paths.flatten(other.variables)
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], strict=True)


def same_where_both_speak(ours, theirs, unread=frozenset()):
    # hidden_dim of ALIGN is the side of a window that is as large as the picture or larger.
    for key in (ours.keys() & theirs.keys()) - {"hidden_dim"} - unread:
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            # The whole model reads neither in a tower; here they are the defaults of its class.
            same_where_both_speak(ours[key], theirs[key], {"projection_dim", "bos_token_id"})
        else:
            assert ours[key] == theirs[key], key


def test_a_second_read_is_bit_equal(whole):
    _, loaded, out = whole
    again = mmjax.load(out)
    assert again.model == loaded.model
    same_arrays(again, loaded)


def test_names_and_arrays_are_those_of_the_published_file(whole):
    name, _, out = whole
    ours, theirs = load_file(weights_of(out)), load_file(weights_of(WHOLE / name))
    assert weights_of(out).name == weights_of(WHOLE / name).name
    assert ours.keys() == theirs.keys()
    for key, array in theirs.items():
        np.testing.assert_array_equal(ours[key], array, strict=True)
    with safe_open(weights_of(out), "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_config_says_what_the_published_one_says(whole):
    name, _, out = whole
    file = "open_clip_config.json" if name == "open_clip" else "config.json"
    ours, theirs = (json.loads((at / file).read_text()) for at in (out, WHOLE / name))
    same_where_both_speak(
        {**ours, "preprocess_cfg": {**ours.get("preprocess_cfg", {}), "size": [24, 24]}}, theirs
    )
    if name != "open_clip":
        assert ours["architectures"] == theirs["architectures"]
        assert ours["model_type"] == theirs["model_type"]


def test_processor_and_tokenizer_come_back_as_the_same_contract(whole):
    name, loaded, out = whole
    again = mmjax.load(out)
    assert again.contract == loaded.contract
    assert not again.missing
    for made, wanted in zip(
        again.token_ids(texts_of(name)).values(), loaded.token_ids(texts_of(name)).values()
    ):
        np.testing.assert_array_equal(made, wanted)


def test_a_tokenizer_has_its_own_template_and_names(whole):
    name, loaded, out = whole
    told = json.loads((out / "tokenizer_config.json").read_text())
    assert told["model_max_length"] == loaded.contract.sequence_length
    if name != "siglip_hf":
        made = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
        assert made["post_processor"] is not None
        assert told["tokenizer_class"] == "PreTrainedTokenizerFast"
    else:
        assert told["tokenizer_class"] == "SiglipTokenizer"
        assert (out / "spiece.model").read_bytes() == (WHOLE / name / "spiece.model").read_bytes()


@pytest.mark.parametrize(("name", "form"), [("clip_hf", "open_clip"), ("open_clip", "hf")])
def test_between_the_two_libraries_arrays_go_over_and_cleaning_only_on_request(
    name, form, tmp_path
):
    loaded = mmjax.load(WHOLE / name)
    with pytest.raises(WeightsError, match=r"text_cleaning=.* --allow=crop_rounding,text_cleaning"):
        export_weights(loaded, tmp_path / "out", form)
    assert not list(tmp_path.iterdir())
    export_weights(loaded, tmp_path / "out", form, allow=ANYWAY)
    again = mmjax.load(tmp_path / "out")
    same_arrays(again, loaded)
    assert again.contract.text_cleaning != loaded.contract.text_cleaning
    plain = ["a photo of a cat", "The DOG, two   trees"]
    np.testing.assert_allclose(again.encode_text(plain), loaded.encode_text(plain), atol=2e-5)


def test_what_a_format_cannot_express_is_listed_and_nothing_is_written(tmp_path):
    loaded = mmjax.load(WHOLE / "siglip_hf")
    with pytest.raises(WeightsError) as refused:
        export_weights(loaded, tmp_path / "out", "open_clip")
    for field in ("image.pooling='attention'", "text.pooling='last'", "bias_init=-10.0"):
        assert field in str(refused.value)
    assert "CustomTextCLIP" in str(refused.value)
    for name in ("align_hf", "clip_hf"):
        with pytest.raises(WeightsError, match="big_vision"):
            export_weights(mmjax.load(WHOLE / name), tmp_path / "out.npz", "big_vision")
    with pytest.raises(WeightsError, match="hf, open_clip, big_vision"):
        export_weights(loaded, tmp_path / "out", "onnx")
    with pytest.raises(WeightsError, match="crop_rounding, text_cleaning may be left out"):
        export_weights(loaded, tmp_path / "out", "hf", allow=("mean",))
    assert not list(tmp_path.iterdir())


def test_big_vision_takes_siglip_and_gives_it_back(tmp_path):
    loaded = mmjax.load(WHOLE / "siglip_hf")
    with pytest.raises(WeightsError, match=r"OUT\.npz"):
        export_weights(loaded, tmp_path / "out", "big_vision")
    assert export_weights(loaded, tmp_path / "new" / "out.npz", "big_vision") == ["out.npz"]
    shutil.copy(WHOLE / "siglip_hf" / "spiece.model", tmp_path / "new")
    again = mmjax.load(tmp_path / "new" / "out.npz")
    same_arrays(again, loaded)
    assert again.contract == loaded.contract
    texts = texts_of("siglip_hf")
    np.testing.assert_array_equal(
        again.token_ids(texts)["token_ids"], loaded.token_ids(texts)["token_ids"]
    )
    export_weights(again, tmp_path / "back", "hf")
    same_arrays(mmjax.load(tmp_path / "back"), loaded)


def test_only_an_earlier_export_is_replaced_and_only_on_request(tmp_path):
    loaded = mmjax.load(WHOLE / "clip_hf")
    out = tmp_path / "out"
    out.mkdir()
    export_weights(loaded, out, "hf")  # empty, so it is as if it were not there
    (out / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="--overwrite"):
        export_weights(loaded, out, "hf")
    assert (out / "tokenizer.json").read_text() == "{}"
    export_weights(loaded, out, "hf", overwrite=True)
    assert mmjax.load(out).contract == loaded.contract
    (out / "thesis.tex").write_text("a year of work")
    with pytest.raises(WeightsError, match=r"holds thesis\.tex"):
        export_weights(loaded, out, "hf", overwrite=True)
    assert (out / "thesis.tex").exists()
    (tmp_path / "file").write_text("")
    export_weights(loaded, tmp_path / "file", "hf", overwrite=True)
    assert {one.name for one in tmp_path.iterdir()} == {"out", "file"}  # no leftovers


def test_half_precision_is_written_as_it_is_kept(tmp_path):
    loaded = mmjax.load(WHOLE / "clip_hf", dtype="bfloat16")
    export_weights(loaded, tmp_path / "out", "hf")
    again = mmjax.load(tmp_path / "out", dtype="bfloat16")
    for one, other in zip(jax.tree.leaves(again.params), jax.tree.leaves(loaded.params)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one, "f4"), np.asarray(other, "f4"))


def test_the_commands_exit_status_says_what_happened(tmp_path, capsys):
    source, out = str(WHOLE / "clip_hf"), str(tmp_path / "out")
    assert main(["export", "weights", source, out]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    for arguments, told in (
        ([source, out], "--overwrite"),
        ([source, f"{out}2", "--format=onnx"], "onnx"),
        ([source, f"{out}2", "--format=open_clip"], "text_cleaning"),
        ([str(tmp_path / "absent"), f"{out}2"], "no such file"),
    ):
        assert main(["export", "weights", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert told in said
        assert len(said.splitlines()) == 1
    assert main(["export", "weights", source, out, "--overwrite"]) == 0
    again = [
        "export",
        "weights",
        source,
        f"{out}2",
        "--format=open_clip",
        "--allow=crop_rounding,text_cleaning",
    ]
    assert main(again) == 0


def test_parity_ends_with_one_where_a_weight_is_another(tmp_path, capsys):
    fixture = GOLDEN / "published" / "vit"
    assert main(["parity", str(fixture), str(fixture)]) == 0
    other = tmp_path / "vit"
    shutil.copytree(fixture, other)
    state = load_file(other / "state.safetensors")
    name = next(name for name in state if name.endswith("patch_embeddings.projection.bias"))
    save_file({**state, name: state[name] + 1}, other / "state.safetensors")
    assert main(["parity", str(other), str(fixture)]) == 1
    assert "BAD" in capsys.readouterr().out


def test_a_config_keeps_its_names_and_tells_the_type_that_is_written():
    theirs = {"id2label": {"0": "cat", "1": "dog"}, "label2id": {"cat": 0, "dog": 1}, "x": 1}
    assert _under(theirs, labels(2)) == theirs
    assert _under(theirs, labels(3)) == {"x": 1, **labels(3)}
    assert label_count({"num_labels": 5}) == 5
    told = {"dtype": "bfloat16", "text_config": {"torch_dtype": "float16", "width": 2}}
    made = _of_type(told, {"a": np.zeros(1, np.float32), "n": np.zeros(1, np.int64)})
    assert made == {"dtype": "float32", "text_config": {"torch_dtype": "float32", "width": 2}}


def test_a_processor_that_masks_is_not_named_where_padding_is_seen(whole):
    name, _, out = whole
    told = json.loads((out / "tokenizer_config.json").read_text())
    wanted = ["input_ids"] if name == "siglip_hf" else None
    assert told.get("model_input_names") == wanted


def test_what_fills_up_is_a_special_token_or_any_where_nobody_sees_it(tmp_path):
    loaded = mmjax.load(WHOLE / "open_clip")  # its library fills up with 0, which is a letter
    assert 0 not in loaded.tokenizer.special_tokens().values()
    export_weights(loaded, tmp_path / "hf", "hf", allow=ANYWAY)
    told = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert told["pad_token"] == told["eos_token"]
    model = loaded.model.clone(text=loaded.model.text.clone(causal=False))
    seen = dataclasses.replace(loaded, model=model)
    with pytest.raises(WeightsError, match=r"pad_id=0: it is none of the .* special tokens"):
        tokenizer_files(seen, "CLIPProcessor")
    assert "pad_token" not in json.loads(written(tokenizer_files(seen, None, True), tmp_path))


def written(files, folder):
    files["tokenizer_config.json"](folder / "told.json")
    return (folder / "told.json").read_text()


@pytest.mark.parametrize("name", ["align_hf", "chinese_clip_hf"])
def test_berts_own_class_is_told_of_letters_too(name, tmp_path):
    loaded = mmjax.load(WHOLE / name)
    told = json.loads(written(tokenizer_files(loaded, None), tmp_path))
    theirs = json.loads(loaded.tokenizer.content())["normalizer"]
    assert told["do_lower_case"] is theirs["lowercase"]
    assert told["strip_accents"] is theirs["strip_accents"]
    assert told["tokenize_chinese_chars"] is theirs["handle_chinese_chars"]


def test_a_tower_without_a_pooler_is_written_so_that_both_classes_read_it(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / "published" / "vit" / "saved", source)
    state = load_file(source / "model.safetensors")
    bare = {name: x for name, x in state.items() if "pooler" not in name}
    save_file(bare, source / "model.safetensors")
    loaded = mmjax.load(source)
    export_weights(loaded, tmp_path / "out", "hf")
    assert "add_pooling_layer" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert mmjax.load(tmp_path / "out").model == loaded.model


def test_a_model_of_another_kind_is_told_by_its_parts_and_what_takes_it(tmp_path, capsys):
    for name, form, message in (
        ("chinese_clip_hf", "open_clip", r"TwoTower\(image=ViT, text=Bert\); --format=hf can"),
        ("align_hf", "big_vision", r"image=EfficientNet, text=Bert\); --format=hf can"),
        ("clip_hf", "timm", r"TwoTower\(.*\); --format=hf or open_clip can"),
    ):
        with pytest.raises(WeightsError, match=message):
            export_weights(mmjax.load(WHOLE / name), tmp_path / "out.npz", form)
    other = GOLDEN / "published" / "lxmert"
    assert main(["parity", str(WHOLE / "clip_hf"), str(other)]) == 2
    assert "hf/lxmert has no place for a TwoTower" in capsys.readouterr().err


def test_of_two_towers_that_no_format_has_the_fields_are_told(tmp_path):
    loaded = mmjax.load(WHOLE / "clip_hf")
    other = loaded.model.clone(image=loaded.model.image.clone(pooling="mean"))
    with pytest.raises(WeightsError, match=r"the format hf/clip .*: image\.pooling='mean', not"):
        export_weights(dataclasses.replace(loaded, model=other), tmp_path / "out", "hf")
