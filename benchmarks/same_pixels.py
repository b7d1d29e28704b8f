"""Whether pictures become the numbers that transformers' processors make of them.

    pip install -e '.[peers]' torchvision       # this script's own extra, and what half of it needs
    python benchmarks/same_pixels.py
    python benchmarks/same_pixels.py --pictures=DIR

One JSON line: for each processor, in the form that computes with Pillow and in the form that
computes with torchvision, the largest difference in grey levels (1 of 255) and the share of numbers
that differ by more than a hundredth of one. Each processor is written by `save_pretrained` and read
as `mmjax.load` reads it. Pictures are made-up ones of awkward sizes, with edges and noise, and
those in a folder of WebDataset tars.
"""

import argparse
import io
import json
import pathlib
import tarfile
import tempfile
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import PIL
from PIL import Image

from mmjax.data.transforms.naflex import NaFlex
from mmjax.data.transforms.resize import Resize
from mmjax.interop.processing import from_hf
from mmjax.preprocess import Contract, preprocess_image

SIZES = ((1, 1), (7, 300), (224, 224), (225, 500), (333, 224), (500, 375), (640, 480), (1001, 667))
# Processor, what it is asked for beside its defaults.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "clip": ("CLIPImageProcessor", {}),
    "clip_336": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    ),
    "chinese_clip": ("ChineseCLIPImageProcessor", {}),
    "siglip": ("SiglipImageProcessor", {}),
    "siglip_384": ("SiglipImageProcessor", {"size": {"height": 384, "width": 384}}),
    "siglip2_naflex": ("Siglip2ImageProcessor", {}),
    "vit": ("ViTImageProcessor", {}),
    "align": ("EfficientNetImageProcessor", {"include_top": False}),
}
RNG = np.random.default_rng(0)  # none of this is drawn
FORMS = {"pillow": "Pil", "torchvision": ""}  # endings of the classes' names


def made_up() -> Iterator[Image.Image]:
    """Waves, edges and noise."""
    rng = np.random.default_rng(0)
    for width, height in SIZES:
        y, x = np.mgrid[:height, :width, :1][:2] / 40
        waves = 127 + 90 * np.sin(x * rng.uniform(0.5, 6, 3) + y * rng.uniform(0.5, 6, 3))
        edges = 60 * ((x * 3 % 2 < 1) ^ (y * 2 % 2 < 1))
        pixels = waves + edges + rng.normal(0, 20, (height, width, 3))
        yield Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def stored(folder: str, most: int) -> Iterator[Image.Image]:
    """The first pictures in the folder's tars."""
    for path in sorted(pathlib.Path(folder).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".jpeg", ".png", ".webp")):
                    content = tar.extractfile(member).read()
                    yield Image.open(io.BytesIO(content)).convert("RGB")
                    most -= 1
                    if most == 0:
                        return


def ours(file: dict[str, Any], picture: Image.Image) -> tuple[np.ndarray, Contract]:
    """(normalised numbers, what they were made by); of a NaFlex picture its real patches."""
    contract = Contract(**from_hf(file, "preprocessor_config.json"))
    record = {"image": np.asarray(picture)}
    if contract.resize == "naflex":
        cut = NaFlex(contract.patch_size, contract.max_patches, contract.interpolation)(record, RNG)
        pixels = cut["patches"][cut["patch_mask"]].reshape(1, -1, 3)
    else:
        pixels = Resize(
            contract.image_size,
            contract.resize,
            contract.interpolation,
            contract.pad_value,
            contract.resize_size,
            contract.crop_rounding,
        ).apply(record["image"])
    return np.asarray(preprocess_image(jnp.asarray(pixels), contract)), contract


def theirs(processor: Any, picture: Image.Image) -> np.ndarray:
    """The processor's numbers, colours last."""
    made = processor(images=picture, return_tensors="np")
    values = np.asarray(made["pixel_values"][0])
    if "pixel_attention_mask" in made:
        real = np.asarray(made["pixel_attention_mask"][0]).astype(bool)
        return values[real].reshape(1, -1, 3)
    return values.transpose(1, 2, 0)


def compare(folder: str, most: int) -> dict[str, Any]:
    """The differences of each processor in each form."""
    import transformers  # a peer

    kinds = {"made_up": list(made_up())}
    if folder:
        kinds["stored"] = list(stored(folder, most))
    result: dict[str, Any] = {
        "benchmark": "same_pixels",
        "transformers": transformers.__version__,
        "pillow": PIL.__version__,
        "pictures": {kind: len(pictures) for kind, pictures in kinds.items()},
    }
    for name, (kind, asked) in PROCESSORS.items():
        result[name] = {}
        for form, ending in FORMS.items():
            processor = getattr(transformers, kind + ending)(**asked)
            with tempfile.TemporaryDirectory() as there:
                processor.save_pretrained(there)
                file = json.loads((pathlib.Path(there) / "preprocessor_config.json").read_text())
            result[name][form] = {
                kind: difference(file, processor, pictures) for kind, pictures in kinds.items()
            }
    return result


def difference(
    file: dict[str, Any], processor: Any, pictures: list[Image.Image]
) -> dict[str, float]:
    """Of all numbers of all pictures."""
    largest, differing, numbers = 0.0, 0, 0
    for picture in pictures:
        found, contract = ours(file, picture)
        apart = np.abs(found - theirs(processor, picture)) * np.array(contract.std) * 255
        largest = max(largest, float(apart.max()))
        differing += int((apart > 0.01).sum())
        numbers += apart.size
    return {"largest": round(largest, 4), "share_differing": round(differing / numbers, 6)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", default="", help="folder of tars with pictures")
    parser.add_argument("--most", type=int, default=200, help="pictures of the folder to compare")
    options = parser.parse_args()
    print(json.dumps(compare(options.pictures, options.most)), flush=True)


if __name__ == "__main__":
    main()
