"""`mmjax.load`: what a published folder's own processor, tokenizer and model give, and ours."""

import io
import json
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mmjax
from mmjax.interop.loaded import _shortened
from mmjax.interop.tensors import WeightsError
from mmjax.parallel.mesh import make_mesh
from mmjax.preprocess import preprocess_image

GOLDEN = pathlib.Path(__file__).parent / "golden"
WHOLE = GOLDEN / "whole"
FOLDERS = ("align_hf", "chinese_clip_hf", "clip_hf", "open_clip", "siglip_hf")


@pytest.fixture(scope="module", params=FOLDERS)
def whole(request):
    """(loaded, {name: array} of the reference, its texts)."""
    with np.load(WHOLE / f"{request.param}.npz") as file:
        theirs = {name: file[name] for name in file.files}
    texts = json.loads((WHOLE / f"{request.param}_texts.json").read_text())
    return mmjax.load(WHOLE / request.param), theirs, texts


def images_of(theirs):
    return [theirs[name] for name in sorted(theirs) if name[:5] == "image" and name[5:].isdigit()]


def test_pictures_are_prepared_as_the_reference_does(whole):
    loaded, theirs, _ = whole
    pixels = loaded.pixels(images_of(theirs))["image"]
    made = np.asarray(preprocess_image(jnp.asarray(pixels), loaded.contract)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(made, theirs["pixel_values"], atol=2e-5)


def test_texts_are_tokenized_as_the_reference_does(whole):
    loaded, theirs, texts = whole
    made = loaded.token_ids(texts)
    np.testing.assert_array_equal(made["token_ids"], theirs["input_ids"])
    if "attention_mask" in theirs:
        np.testing.assert_array_equal(made["text_mask"], theirs["attention_mask"].astype(bool))


def test_embeddings_equal_the_references(whole):
    loaded, theirs, texts = whole
    images = loaded.encode_image(images_of(theirs))
    np.testing.assert_allclose(images, theirs["image_embeds"], atol=2e-5, rtol=1e-5)
    encoded = loaded.encode_text(texts)
    np.testing.assert_allclose(encoded, theirs["text_embeds"], atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, rtol=1e-5)
    assert images.dtype == encoded.dtype == np.float32
    cosines = loaded.similarity(images_of(theirs), texts)
    np.testing.assert_allclose(cosines, images @ encoded.T, atol=1e-6)


def test_pictures_come_in_any_form(whole, tmp_path):
    loaded, theirs, _ = whole
    array = images_of(theirs)[0]
    picture, file = Image.fromarray(array), tmp_path / "a.png"
    picture.save(file)
    expected = loaded.encode_image(array)
    assert expected.shape[0] == 1
    for form in (picture, [picture], str(file), file, file.read_bytes(), [array], array[None]):
        np.testing.assert_array_equal(loaded.encode_image(form), expected)


def test_padding_that_is_not_seen_is_left_out(whole):
    loaded, _, texts = whole
    texts = texts if "siglip" in loaded.origin.family else ["a cat", *texts[:1]]
    _, mask, pooled = loaded.tokens_text(texts)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(loaded.encode_text(texts), unit, atol=1e-6)
    assert mask.shape[1] == loaded.contract.sequence_length
    assert loaded.model.text.sees_padding == ("siglip" in loaded.origin.family)


@pytest.mark.parametrize(
    ("length", "longest", "kept"),
    [(77, 3, 24), (77, 24, 24), (77, 25, 40), (77, 41, 77), (64, 16, 16), (8, 1, 8), (12, 8, 8)],
)
def test_a_text_keeps_a_quarter_or_half_of_its_places_where_that_holds_it(length, longest, kept):
    ids = np.arange(2 * length).reshape(2, length)
    mask = np.arange(length) < np.array([[1], [longest]])
    made = _shortened({"token_ids": ids, "text_mask": mask})
    np.testing.assert_array_equal(made["token_ids"], ids[:, :kept])
    np.testing.assert_array_equal(made["text_mask"], mask[:, :kept])


def test_any_number_of_rows_compiles_a_handful_of_programs(whole):
    loaded, _, texts = whole
    many = loaded.encode_text([texts[n % len(texts)] for n in range(70)])
    before = loaded._compiled["text", False]._cache_size()
    for rows in (0, 1, 3, 5, 6, 7, 33, 64, 65, 70):
        some = loaded.encode_text([texts[n % len(texts)] for n in range(rows)])
        np.testing.assert_allclose(some, many[:rows], atol=1e-6)
    assert loaded._compiled["text", False]._cache_size() - before <= 7


def test_classes_come_with_probabilities_the_likeliest_first(whole):
    loaded, theirs, _ = whole
    (found, *_) = loaded.classify(images_of(theirs), ["cat", "dog", "house"])
    assert set(found) == {"cat", "dog", "house"}
    assert list(found.values()) == sorted(found.values(), reverse=True)
    if "bias" not in loaded.params:
        assert sum(found.values()) == pytest.approx(1, abs=1e-6)
    one, two = loaded.encode_image(images_of(theirs)[0]), loaded.encode_text(["cat", "dog"])
    again = loaded.classify(images_of(theirs)[0], ["cat", "dog"], templates=["{}"])[0]
    assert max(again, key=again.get) == ["cat", "dog"][int(np.argmax(one @ two.T))]


def test_over_a_mesh_the_embeddings_are_the_same(whole):
    loaded, theirs, texts = whole
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    shared = mmjax.load(loaded.origin.source, mesh=mesh)
    divided = [x for x in jax.tree.leaves(shared.params) if not x.sharding.is_fully_replicated]
    assert divided
    np.testing.assert_allclose(
        shared.encode_image(images_of(theirs)), loaded.encode_image(images_of(theirs)), atol=2e-5
    )
    np.testing.assert_allclose(shared.encode_text(texts), loaded.encode_text(texts), atol=2e-5)


def test_bfloat16_is_near_and_takes_half_the_memory(whole):
    loaded, theirs, _ = whole
    half = mmjax.load(loaded.origin.source, dtype="bfloat16")
    sizes = [sum(x.nbytes for x in jax.tree.leaves(one.params)) for one in (half, loaded)]
    assert sizes[0] < 0.55 * sizes[1]
    images = half.encode_image(images_of(theirs))
    assert images.dtype == np.float32
    cosines = np.sum(images * loaded.encode_image(images_of(theirs)), axis=1)
    assert cosines.min() > 0.999


def test_without_processor_and_tokenizer_the_missing_file_is_named(whole, tmp_path):
    loaded, theirs, _ = whole
    source = pathlib.Path(loaded.origin.source)
    is_open_clip = (source / "open_clip_config.json").exists()
    prefix = "open_clip_" if is_open_clip else ""
    for name in (f"{prefix}config.json", f"{prefix}model.safetensors"):
        shutil.copy(source / name, tmp_path / name)
    bare = mmjax.load(tmp_path)
    if is_open_clip:  # its config tells how pictures must look
        assert bare.encode_image(images_of(theirs)).shape[0] == len(images_of(theirs))
    else:
        with pytest.raises(WeightsError, match=r"processor_config\.json"):
            bare.encode_image(images_of(theirs))
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        bare.encode_text("a")


def test_what_is_no_picture_and_no_text_is_refused(whole, tmp_path):
    loaded, *_ = whole
    with pytest.raises(ValueError, match="uint8"):
        loaded.encode_image(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="a picture"):
        loaded.encode_image(b"no picture at all")
    with pytest.raises(TypeError, match="int"):
        loaded.encode_image([3])
    with pytest.raises(TypeError, match="int"):
        loaded.encode_text([3])


def test_classes_need_names(whole):
    loaded, theirs, _ = whole
    for labels in ([], "cat"):
        with pytest.raises(ValueError, match="at least one"):
            loaded.classify(images_of(theirs)[0], labels)
    with pytest.raises(ValueError, match="'cat' is there twice"):
        loaded.classify(images_of(theirs)[0], ["cat", "dog", "cat"])
    made = loaded.classify(images_of(theirs)[0], np.asarray(["cat", "dog"]))
    assert set(made[0]) == {"cat", "dog"}


def test_a_source_that_is_nothing_is_one_clear_error(tmp_path):
    with pytest.raises(WeightsError, match="no such"):
        mmjax.load(tmp_path / "absent.npz" / "x")
    with pytest.raises(WeightsError, match=r"no such .* of the hub is written hf://me/clip-b32\.$"):
        mmjax.load("me/clip-b32")
    (tmp_path / "config.json").write_text('{"model_type": "strange"}')
    with pytest.raises(WeightsError, match=r"'strange' is not built; .*clip"):
        mmjax.load(tmp_path)


def test_the_module_is_the_function_and_importing_the_package_loads_no_jax():
    program = (
        "import sys, mmjax; assert 'jax' not in sys.modules; first = mmjax.load; "
        "from mmjax.load import load; assert callable(mmjax.load) and callable(first) and load"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_transparent_and_turned_files_are_read_as_the_originals_code_does(whole, tmp_path):
    loaded, theirs, _ = whole
    array = images_of(theirs)[0]
    clear = Image.fromarray(np.dstack([array, np.zeros(array.shape[:2], np.uint8)]), "RGBA")
    kept = io.BytesIO()
    clear.save(kept, "PNG")
    np.testing.assert_array_equal(
        loaded.encode_image(kept.getvalue()), loaded.encode_image(clear.convert("RGB"))
    )


def test_the_readmes_five_lines_run(tmp_path, monkeypatch):
    readme = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
    program = readme.partition("```python\n")[2].partition("```")[0]
    source = program.partition('mmjax.load("')[2].partition('"')[0]
    assert source.startswith("hf://")
    assert len([line for line in program.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 40), (200, 30, 30)).save("photo.jpg")
    program = program.replace(source, str(WHOLE / "clip_hf"))
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "cat" in done.stdout
