"""TFDS datasets built and read where TensorFlow cannot be imported."""

import json
import subprocess
import sys

import pytest

BUILDER = """
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def png(value):
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(file, "PNG")
    return io.BytesIO(file.getvalue())


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "caption": tfds.features.Text(),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "label": tfds.features.ClassLabel(names=["even", "odd"]),
                }
            )
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "validation": self._generate_examples(4)}

    def _generate_examples(self, count):
        for n in range(count):
            yield n, {
                "image": png(n),
                "caption": f"number {n}",
                "captions": [f"first of {n}", f"second of {n}"],
                "label": n % 2,
            }
"""

SCRIPT = """
import importlib.machinery, json, pickle, re, sys, warnings

plain = importlib.machinery.PathFinder

class Hidden(plain):  # TensorFlow is not there, whether it is installed or not
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] == "tensorflow" else plain.find_spec(name, path, target)

sys.meta_path = [Hidden if finder is plain else finder for finder in sys.meta_path]
warnings.simplefilter("error")
folder = sys.argv[1]
sys.path.insert(0, folder)
import pictures20.pictures20_dataset_builder

from mmjax.data.fields import Fields
from mmjax.data.sources.base import BadSample
from mmjax.data.sources.tfds import TFDS, prepare

answers = {"name": prepare("pictures20", folder + "/data")}
fields = Fields(image_from="image", caption_from="captions", label_from="label")
one = Fields(image_from="image", caption_from="caption")

def numbers(source):
    return [int(one(source[n])["captions"][0].split()[1]) for n in range(len(source))]

whole = TFDS("pictures20", "train", folder + "/data")
part = TFDS("pictures20:1.0.0", "train[10%:30%]", folder + "/data")
both = TFDS("pictures20", "train[:3]+validation", folder + "/data")
answers["whole"], answers["part"], answers["both"] = map(numbers, (whole, part, both))
sample = fields(whole[5])
answers["sample"] = {
    "captions": sample["captions"],
    "label": int(sample["label"]),
    "pixels": sample["image"].decode().tolist(),
    "key": sample["key"],
}
answers["pickled"] = numbers(pickle.loads(pickle.dumps(part)))
answers["prints"] = [source.fingerprint() for source in (whole, whole, part, both)]
answers["describe"] = part.describe()
answers["refused"] = []
for name, split in [("pictures2", "train"), ("pictures20", "test"), ("pictures20", "train[x]"),
                    ("pictures20", "train[:0]")]:
    try:
        TFDS(name, split, folder + "/data")
    except ValueError as error:
        answers["refused"].append(str(error))
for position in (-1, 20):
    try:
        whole[position]
    except IndexError as error:
        answers["refused"].append(str(error))
path = folder + "/data/pictures20/1.0.0/pictures20-train.array_record-00000-of-00001"
raw = open(path, "rb").read()
# Not in every sample the text stands as it is: they are compressed, differently in each process.
seen = re.search(rb"number (\\d+)", raw)
at, answers["flipped"] = seen.start(), int(seen[1])
open(path, "wb").write(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1:])
answers["causes"] = []
for position in range(20):
    try:
        TFDS("pictures20", "train", folder + "/data")[position]
    except BadSample as error:
        answers["causes"].append([error.cause, position])
answers["tensorflow"] = "tensorflow" in sys.modules
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    (folder / "pictures20").mkdir()
    (folder / "pictures20" / "__init__.py").touch()
    (folder / "pictures20" / "pictures20_dataset_builder.py").write_text(BUILDER)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_dataset_is_built_and_read_without_tensorflow(answers):
    assert answers["name"] == "pictures20/1.0.0"
    assert sorted(answers["whole"]) == list(range(20))
    assert answers["tensorflow"] is False


def test_slices_and_sums_of_splits_are_read(answers):
    assert answers["part"] == answers["whole"][2:6]
    assert answers["both"][:3] == answers["whole"][:3]
    assert sorted(answers["both"][3:]) == [0, 1, 2, 3]
    assert answers["describe"] == "pictures20/1.0.0 train[10%:30%], 4 samples"


def test_pictures_captions_and_labels_make_a_sample(answers):
    number = answers["whole"][5]
    assert answers["sample"] == {
        "captions": [f"first of {number}", f"second of {number}"],
        "label": number % 2,
        "pixels": [[[number] * 3] * 5] * 4,
        "key": "pictures20/1.0.0/train/5",
    }


def test_a_pickled_source_reads_the_same(answers):
    assert answers["pickled"] == answers["part"]


def test_fingerprints_tell_splits_apart(answers):
    whole, again, part, both = answers["prints"]
    assert whole == again
    assert len({whole, part, both}) == 3


def test_what_is_not_there_is_named(answers):
    name, split, slice_, empty, *positions = answers["refused"]
    assert "No dataset 'pictures2' was prepared" in name
    assert "'test'" in split
    assert "its splits are train, validation" in split
    assert "train[x]" in slice_
    assert "train[:0]" in empty
    assert len(positions) == 2


def test_a_flipped_bit_is_a_bad_sample_and_the_others_are_read(answers):
    assert answers["causes"] == [["checksum", answers["whole"].index(answers["flipped"])]]
