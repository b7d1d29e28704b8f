"""Folders as they were published before today's files: plain numbers, bare vocabularies."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file

import mmjax
from mmjax.data.transforms.text import Tokenize
from mmjax.interop import processing, tokenizing
from mmjax.interop.tensors import WeightsError
from mmjax.run.assembly import open_tokenizer

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WHOLE = GOLDEN / "whole"
LENGTH = 16


def vocabulary_of(whole, folder):
    """The vocabulary of a whole folder as the files of old."""
    model = json.loads((WHOLE / whole / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    if "merges" not in model:
        words = sorted(model["vocab"], key=model["vocab"].get)
        (folder / "vocab.txt").write_text("".join(f"{w}\n" for w in words), encoding="utf-8")
        return
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def numbers(words, texts):
    tokenize = Tokenize(
        words.tokenizer, LENGTH, words.bos, words.eos, cleaning=words.cleaning, allow_empty=True
    )
    return np.stack([tokenize.encode(text)[0] for text in texts])


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "old_tokenizers.npz") as file:
        theirs = {name: file[name] for name in file.files}
    return theirs, json.loads((WHOLE / "siglip_hf_texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("lower", None),
        ("lower", {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}),
        ("cased", {"do_lower_case": False}),
        ("accents", {"strip_accents": False}),
    ],
)
def test_a_vocab_txt_makes_the_numbers_of_berts_own_class(kind, settings, golden, tmp_path):
    theirs, texts = golden
    vocabulary_of("align_hf", tmp_path)
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    words = tokenizing.find(tmp_path, "BertTokenizer")
    np.testing.assert_array_equal(numbers(words, texts), theirs[f"bert_{kind}"])
    assert (words.bos, words.eos, words.file) == (True, True, "vocab.txt")
    assert words.tokenizer.special_tokens()["[SEP]"] == words.tokenizer.eos_id
    again = open_tokenizer(tmp_path / "vocab.txt")  # as a run names it
    assert again.fingerprint() == words.tokenizer.fingerprint()


def test_a_vocab_json_with_merges_makes_the_numbers_of_clips_own_class(golden, tmp_path):
    theirs, texts = golden
    vocabulary_of("clip_hf", tmp_path)
    words = tokenizing.find(tmp_path, "CLIPTokenizer")
    np.testing.assert_array_equal(numbers(words, texts), theirs["clip"])
    fresh = tokenizing.find(WHOLE / "clip_hf")
    np.testing.assert_array_equal(numbers(words, texts), numbers(fresh, texts))


def test_a_bare_vocabulary_of_another_kind_is_refused(tmp_path):
    vocabulary_of("clip_hf", tmp_path)
    with pytest.raises(WeightsError, match=r"GPT2Tokenizer .* is not built"):
        tokenizing.find(tmp_path, "GPT2Tokenizer")
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(WeightsError, match=r"lacks <\|endoftext\|>"):
        tokenizing.find(tmp_path, "CLIPTokenizer")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(WeightsError, match=r"vocab\.json"):
        tokenizing.find(tmp_path, "CLIPTokenizer")


def test_special_tokens_come_from_their_own_file_where_no_other_names_them(tmp_path):
    vocabulary_of("clip_hf", tmp_path)
    told = {"pad_token": {"content": "!</w>"}, "eos_token": "<|endoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(told))
    words = tokenizing.find(tmp_path, "CLIPTokenizer")
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert words.tokenizer.pad_id == vocabulary["!</w>"]


def test_a_clip_folder_of_2021_is_the_one_of_today(tmp_path):
    for name in ("config.json", "model.safetensors"):
        shutil.copy(WHOLE / "clip_hf" / name, tmp_path / name)
    vocabulary_of("clip_hf", tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')
    of_old = {
        "crop_size": 24,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "resample": 3,
        "size": 24,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(of_old))
    loaded, today = mmjax.load(tmp_path), mmjax.load(WHOLE / "clip_hf")
    ours, theirs = loaded.contract, today.contract
    assert ours == type(ours)(**{**vars(theirs), "tokenizer": ours.tokenizer})
    texts = json.loads((WHOLE / "clip_hf_texts.json").read_text(encoding="utf-8"))
    for made, wanted in zip(loaded.token_ids(texts).values(), today.token_ids(texts).values()):
        np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    ("model_type", "given", "wanted"),
    [
        ("clip", {"size": 24, "crop_size": 24}, {"resize": "shortest", "image_size": 24}),
        ("clip", {}, {"resize": "shortest", "image_size": 224, "crop_rounding": "down"}),
        ("siglip", {}, {"resize": "squash", "mean": (0.5,) * 3, "interpolation": "bicubic"}),
        ("siglip", {"size": 24}, None),
        ("vit", {"size": 24}, {"resize": "squash", "image_size": 24, "interpolation": "bilinear"}),
        ("vit", {}, {"resize": "squash", "std": (0.5,) * 3}),
        ("align", {"include_top": False}, {"image_size": 346, "resize": "squash"}),
    ],
)
def test_what_a_processor_leaves_out_is_what_its_class_does(model_type, given, wanted):
    if wanted is None:  # its own class takes the number for the shortest edge and cuts nothing
        with pytest.raises(WeightsError, match="nothing is cut to a square"):
            processing.from_hf(given, "preprocessor_config.json", model_type)
        return
    made = processing.from_hf(given, "preprocessor_config.json", model_type)
    assert {name: made[name] for name in wanted} == wanted


def test_pieces_take_the_names_that_a_published_folder_gives_them():
    tokens = {"eos_token": "</s>", "pad_token": "</s>", "bos_token": ""}
    words = open_tokenizer(WHOLE / "siglip_hf" / "spiece.model", tokens)
    assert (words.bos_id, words.eos_id, words.pad_id) == (None, 1, 1)
    assert mmjax.load(WHOLE / "siglip_hf").tokenizer.pad_id == 1


def test_pieces_that_keep_capitals_are_refused(tmp_path):
    shutil.copy(WHOLE / "siglip_hf" / "spiece.model", tmp_path)
    assert tokenizing.find(tmp_path, "SiglipTokenizer").cleaning == "siglip"
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(WeightsError, match="do_lower_case=False"):
        tokenizing.find(tmp_path, "SiglipTokenizer")


def with_config(name, folder, **changes):
    """A whole folder whose config.json says something else besides."""
    shutil.copytree(WHOLE / name, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_of_an_older_config_even_the_defaults_win_where_the_class_reads_it(tmp_path):
    said = json.loads((WHOLE / "clip_hf" / "config.json").read_text(encoding="utf-8"))
    older = {k: v for k, v in said["text_config"].items() if k != "hidden_act"}
    changes = {"text_config": {"hidden_act": "gelu"}, "text_config_dict": older}
    clip = mmjax.load(with_config("clip_hf", tmp_path / "clip", **changes))
    assert clip.model.text.activation == "quick_gelu"  # the class's own
    changes = {"vision_config_dict": {"hidden_act": "relu"}}  # which SigLIP's class does not read
    siglip = mmjax.load(with_config("siglip_hf", tmp_path / "siglip", **changes))
    assert siglip.model.image.activation == "gelu_tanh"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: processing.from_timm({"crop_mode": "border"}, "f"), "crop_mode='border'"),
        (lambda: processing.from_timm({"input_size": [3, 160, 224]}, "f"), "input_size="),
        (lambda: processing.from_timm({"interpolation": "box"}, "f"), "interpolation='box'"),
        (lambda: processing.from_open_clip({"size": [48, 32]}, 32, "f"), r"size=\[48, 32\]"),
        (lambda: processing.from_open_clip({"fill_color": [1, 2, 3]}, 32, "f"), "fill_color="),
        (lambda: processing.from_open_clip({"mode": "L"}, 32, "f"), "mode='L'"),
        (
            lambda: processing.from_hf(
                {"size": {"shortest_edge": 24}, "crop_size": 32}, "f", "clip"
            ),
            "crop_size=32 of pictures resized to 24",
        ),
    ],
)
def test_a_preprocessing_that_is_not_built_is_named(made, message):
    with pytest.raises(WeightsError, match=f"f: {message}.* not built"):
        made()


def test_one_number_of_a_mean_is_for_all_channels():
    made = processing.from_hf({"image_mean": 0.5, "image_std": 0.25}, "f", "clip")
    assert made["mean"] == (0.5,) * 3
    assert made["std"] == (0.25,) * 3
    assert processing.from_open_clip({"mean": 0.5}, 32, "f")["mean"] == (0.5,) * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "resnet"}, "model_type 'resnet' is not built"),
        ({"text_config": {"eos_token_id": [98, 5]}}, r"eos_token_id=\[98, 5\] is not built"),
    ],
)
def test_a_config_that_is_not_built_is_named(changes, message, tmp_path):
    with pytest.raises(WeightsError, match=message):
        mmjax.load(with_config("clip_hf", tmp_path / "one", **changes))


def test_beside_timms_own_files_the_open_clip_model_is_read(tmp_path):
    folder = tmp_path / "both"
    shutil.copytree(WHOLE / "open_clip", folder)
    timm = {"architecture": "vit_base_patch32_clip_224", "num_classes": 512, "pretrained_cfg": {}}
    (folder / "config.json").write_text(json.dumps(timm))
    save_file({"cls_token": np.zeros((1, 1, 16), "f4")}, folder / "model.safetensors")
    assert mmjax.load(folder).model == mmjax.load(WHOLE / "open_clip").model
    named = folder / "open_clip_pytorch_model.safetensors"
    (folder / "open_clip_model.safetensors").rename(named)
    assert mmjax.load(folder).origin.family == "open_clip"
    named.unlink()  # the tower of timm is not taken for it
    with pytest.raises(WeightsError, match="no weights; it needs open_clip_model"):
        mmjax.load(folder)


def gemma_like(folder, **settings):
    """A tokenizer.json that leaves capitals to the class that reads it, and its settings."""
    vocabulary = {word: n for n, word in enumerate(("<pad>", "<eos>", "<unk>", "a", "b", "A", "▁"))}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], unk_token="<unk>"))
    library.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    library.add_special_tokens(["<pad>", "<eos>"])
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    library.save(str(folder / "tokenizer.json"))
    told = {"pad_token": "<pad>", "eos_token": "<eos>", **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("kind", "named", "small"),
    [
        ("Siglip2Tokenizer", "GemmaTokenizer", True),
        ("SiglipTokenizer", "Siglip2Tokenizer", True),
        ("SiglipTokenizer", "GemmaTokenizer", False),
    ],
)
def test_siglip_2_makes_letters_small_as_its_own_class_does(kind, named, small, tmp_path):
    gemma_like(tmp_path, tokenizer_class=named, padding_side="right")
    words = tokenizing.find(tmp_path, kind)
    assert numbers(words, ["A b"])[0, :4].tolist() == [3 if small else 5, 6, 4, 1]
    again = tokenizing.open_file(tmp_path / "tokenizer.json", {}).content()
    (tmp_path / "tokenizer.json").write_bytes(words.tokenizer.content())
    assert (tokenizing.find(tmp_path, kind).tokenizer.content() == again) is not small


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "left"}, r"padding_side='left' is not built"),
        ({"tokenizer_class": "GemmaTokenizer"}, "as GemmaTokenizer has it where nothing is said"),
    ],
)
def test_texts_that_are_filled_up_on_the_left_are_refused(settings, message, tmp_path):
    gemma_like(tmp_path, **settings)
    with pytest.raises(WeightsError, match=message):
        tokenizing.find(tmp_path, "SiglipTokenizer")


def test_a_tokenizer_with_more_tokens_than_the_table_has_rows_is_refused(tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(WHOLE / "clip_hf", folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    largest = max(content["model"]["vocab"].values())
    content["model"]["vocab"]["onemore"] = largest + 1
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        WeightsError, match=r"token numbers up to \d+ and its model's table \d+ rows"
    ):
        mmjax.load(folder)


def test_aligns_pictures_are_divided_twice_where_its_file_names_no_class():
    given = {"size": 24, "crop_size": 24, "do_center_crop": True}
    named = {**given, "image_processor_type": "EfficientNetImageProcessor"}
    plain = processing.from_hf(given, "f", "align")
    assert plain["std"] == processing.from_hf(named, "f", "align")["std"] == (0.25,) * 3
