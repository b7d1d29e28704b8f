"""Each family's table, walked in both directions, and its config."""

import importlib
import json
import pathlib

import jax
import numpy as np
import pytest

from mmjax import paths
from mmjax.interop.family import compare
from mmjax.interop.reading import fill
from mmjax.interop.rows import Tied, write
from mmjax.interop.tensors import Arrays, Safetensors, WeightsError

PUBLISHED = pathlib.Path(__file__).parents[1] / "golden" / "published"
# {family's module: folders below golden/published}
FAMILIES = {
    "clip": ("clip", "clip_gelu_eos"),
    "open_clip": ("open_clip", "open_clip_gelu", "open_clip_modified_resnet"),
    "resnet": ("resnet_basic", "resnet_bottleneck"),
    "align": ("align",),
    "bert": ("bert", "bert_mlm", "bert_pretrain"),
    "chinese_clip": ("chinese_clip",),
    "lxmert": ("lxmert", "lxmert_pretrain", "lxmert_vqa"),
    "siglip": ("siglip", "siglip_projected"),
    "siglip2": ("siglip2_naflex",),
    "vilt": ("vilt", "vilt_itm", "vilt_mlm", "vilt_vqa", "vilt_nlvr"),
    "visualbert": (
        "visualbert",
        "visualbert_pretrain",
        "visualbert_vqa",
        "visualbert_nlvr",
        "visualbert_phrases",
    ),
    "vilbert": (
        "vilbert_base",
        "vilbert_pretrain",
        "vilbert_tasks",
        "vilbert_beta_tasks",
        "vilbert_task_tokens",
    ),
    "vit": ("vit", "vit_classifier"),
}
CASES = [(family, folder) for family, folders in FAMILIES.items() for folder in folders]


def family_of(name):
    return importlib.import_module(f"mmjax.interop.families.{name}").FAMILY


def opened(folder):
    """(config, tensors) of a fixture."""
    folder = PUBLISHED / folder
    return json.loads((folder / "config.json").read_text()), Safetensors(
        [folder / "state.safetensors"]
    )


def flat(filled):
    return {path: np.asarray(value) for path, value in paths.flatten(filled.variables).items()}


@pytest.mark.parametrize(("family", "folder"), CASES)
def test_written_back_every_array_is_bit_for_bit_what_was_read(family, folder):
    family = family_of(family)
    config, tensors = opened(folder)
    filled = fill(family, config, tensors)
    written = write(filled.table, flat(filled), filled.read.aside)
    copies = {row.theirs for row in filled.table.of(Tied) if not row.written}
    found = {one: name for one, name in filled.read.found.items() if one not in copies}
    assert set(written) == set(found)
    for published, name in found.items():
        np.testing.assert_array_equal(written[published], tensors.get(name))
        assert written[published].dtype == tensors.get(name).dtype
        assert written[published].shape == tensors.get(name).shape


@pytest.mark.parametrize(("family", "folder"), CASES)
def test_its_config_is_expressed_and_read_again(family, folder):
    family = family_of(family)
    config, _ = opened(folder)
    model = family.model(config)
    expressed = json.loads(json.dumps(family.expressed(model)))
    assert not compare(model, family.model(expressed))


@pytest.mark.parametrize(("family", "folder"), CASES)
def test_what_is_left_over_on_either_side_is_named(family, folder):
    family = family_of(family)
    config, tensors = opened(folder)
    arrays = {name: tensors.get(name) for name in tensors.names()}
    filled = fill(family, config, tensors)
    copies = {row.theirs for row in filled.table.of(Tied)}
    own = {name for one, name in filled.read.found.items() if one not in copies}
    first = max(sorted(own), key=lambda name: arrays[name].size)
    with pytest.raises(WeightsError, match="it holds besides strange"):
        fill(family, config, Arrays({**arrays, "strange": np.zeros(3)}))
    lacking = {name: array for name, array in arrays.items() if name != first}
    with pytest.raises(WeightsError, match="it lacks"):
        fill(family, config, Arrays(lacking))
    with pytest.raises(WeightsError):
        fill(family, config, Arrays({**arrays, first: arrays[first][:-1]}))


def test_a_model_that_a_format_cannot_express_is_refused_with_its_fields():
    family = family_of("clip")
    model = family.model(opened("clip")[0])
    other = model.clone(image=model.image.clone(positions="sincos"), bias_init=-10.0)
    with pytest.raises(WeightsError, match=r"image\.positions='sincos'.*bias_init"):
        family.expressed(other)


def test_arrays_are_handed_on_one_after_another():
    config, tensors = opened("clip")
    seen = []

    def place(path, array):
        seen.append(path)
        return jax.device_put(array)

    filled = fill(family_of("clip"), config, tensors, place)
    assert len(seen) == len(set(seen)) == len(paths.flatten(filled.variables))
