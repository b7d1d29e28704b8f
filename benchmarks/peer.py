"""open_clip beside our own towers: the same sizes on both sides. Only benchmarks import this.

Needs the benchmarks' own extra: pip install -e '.[peers]'
open_clip asks for torchvision when it is imported, for picture transforms that nothing here uses.
Where torchvision is not installed, empty modules stand in for it.
"""

import dataclasses
import importlib.machinery
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mmjax.models.dual.two_tower import TwoTower
from mmjax.models.encoders.text_transformer import TextTransformer
from mmjax.models.encoders.vit import ViT
from mmjax.objectives.contrastive import Contrastive
from mmjax.preprocess import CLIP_MEAN, CLIP_STD, Contract
from mmjax.training.optimizers.adamw import AdamW
from mmjax.training.step import Goal, Recipe


@dataclasses.dataclass(frozen=True)
class Size:
    """A CLIP that both sides can build; heads are 64 wide, perceptrons 4 times the width.

    `text_depth` is the text tower's number of blocks, 0 for as many as the picture's.
    """

    image_size: int
    patch_size: int
    image_width: int
    text_width: int
    depth: int
    length: int
    embed_dim: int
    vocab_size: int = 49_408
    eos_id: int = 49_407
    text_depth: int = 0


# open_clip's own numbers for a ViT; source: src/open_clip_train/params.py.
BETAS = (0.9, 0.98)
EPSILON = 1e-6
WEIGHT_DECAY = 0.2
HIGHEST_LOG_SCALE = math.log(100)
# XLA's CPU programs cut stacked arrays apart in each turn of a loop; nothing is computed twice.
PLAIN: Mapping[str, Any] = {"scan": False, "remat": "none"}


def our_recipe(
    size: Size,
    schedule: Callable[..., Any],
    dtype: str = "float32",
    seed: int = 0,
    positives: tuple[str, ...] = (),
    towers: Mapping[str, Any] = PLAIN,
) -> Recipe:
    """What our step is made of, with open_clip's numbers for the optimizer."""
    return Recipe(
        model=our_model(size, dtype, towers),
        goals={"contrastive": Goal(Contrastive(positives=positives))},
        optimizer=AdamW(
            schedule,
            b1=BETAS[0],
            b2=BETAS[1],
            eps=EPSILON,
            weight_decay=WEIGHT_DECAY,
            clip_norm=None,
            clamps=(("log_scale", 0.0, HIGHEST_LOG_SCALE),),
        ),
        contract=Contract(
            image_size=size.image_size,
            sequence_length=size.length,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        ),
        seed=seed,
    )


def our_model(size: Size, dtype: str = "float32", towers: Mapping[str, Any] = PLAIN) -> TwoTower:
    """open_clip's CLIP in our classes: the same parameters and the same arithmetic."""
    shared = {
        "activation": "gelu",
        "norm_epsilon": 1e-5,
        "dtype": dtype,
        **towers,
    }
    return TwoTower(
        image=ViT(
            image_size=size.image_size,
            patch_size=size.patch_size,
            dim=size.image_width,
            depth=size.depth,
            num_heads=size.image_width // 64,
            mlp_dim=4 * size.image_width,
            pooling="class",
            pre_norm=True,
            patch_bias=False,
            **shared,
        ),
        text=TextTransformer(
            vocab_size=size.vocab_size,
            length=size.length,
            dim=size.text_width,
            depth=size.text_depth or size.depth,
            num_heads=size.text_width // 64,
            mlp_dim=4 * size.text_width,
            pooling="end_of_text",
            eos_id=size.eos_id,
            causal=True,
            **shared,
        ),
        embed_dim=size.embed_dim,
    )


class TheirStep:
    """open_clip's class, its loss, and torch's AdamW as its trainer sets it up.

    Args:
      size: of the model.
      seed: of the first parameters.
      dtype: 'float32', or 'bfloat16' for torch's autocast.
      device: 'cpu' or 'cuda'.
      compiled: whether the model goes through `torch.compile`, as by its --torchcompile.

    Source: open_clip, src/open_clip_train/main.py and train.py.
    """

    def __init__(
        self,
        size: Size,
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        compiled: bool = False,
    ):
        open_clip = load_open_clip()
        import torch

        torch.manual_seed(seed)
        self._torch, self._dtype, self._device = torch, getattr(torch, dtype), device
        if device == "cuda":  # as its trainer sets it
            torch.backends.cuda.matmul.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        vision = open_clip.CLIPVisionCfg(
            layers=size.depth,
            width=size.image_width,
            patch_size=size.patch_size,
            image_size=size.image_size,
        )
        text = open_clip.CLIPTextCfg(
            context_length=size.length,
            vocab_size=size.vocab_size,
            width=size.text_width,
            heads=size.text_width // 64,
            layers=size.text_depth or size.depth,
        )
        model = open_clip.CLIP(size.embed_dim, vision, text, output_dict=True)
        self.model = model.to(device).train()
        self._forward = torch.compile(self.model) if compiled else self.model
        self._loss = open_clip.ClipLoss()
        self._optimizer = torch.optim.AdamW(self._groups(), lr=0.0, betas=BETAS, eps=EPSILON)

    def _groups(self) -> list[dict[str, Any]]:
        """No decay for vectors, norms, biases and the temperature."""
        plain, decayed = [], []
        for name, parameter in self.model.named_parameters():
            spared = any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
            (plain if spared or parameter.ndim < 2 else decayed).append(parameter)
        return [
            {"params": plain, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
        ]

    def batch(self, image: np.ndarray, token_ids: np.ndarray) -> tuple[Any, Any]:
        """uint8 pictures and token numbers as the tensors that `__call__` takes."""
        mean, std = (np.asarray(x, np.float32) * 255 for x in (CLIP_MEAN, CLIP_STD))
        pixels = np.ascontiguousarray(((image - mean) / std).transpose(0, 3, 1, 2))
        tensors = (self._torch.from_numpy(x) for x in (pixels, token_ids.astype(np.int64)))
        pictures, tokens = (tensor.to(self._device) for tensor in tensors)
        return pictures, tokens

    def __call__(self, image: Any, token_ids: Any, rate: float) -> Any:
        """One update; returns the loss."""
        torch = self._torch
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad()
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            loss = self._loss(**self._forward(image, token_ids))
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, HIGHEST_LOG_SCALE)
        return loss

    def free(self) -> None:
        """Gives a GPU's memory, but for the state and the batches, to whoever computes next."""
        self._optimizer.zero_grad()
        self._torch.cuda.empty_cache()

    def peak_bytes(self) -> int:
        """The most bytes that tensors held on the GPU."""
        return self._torch.cuda.max_memory_allocated()

    def embeddings(self, image: np.ndarray, token_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Unit vectors of pictures and texts (which need not belong together)."""
        self.model.eval()
        made: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        with self._torch.no_grad():
            for start in range(0, len(image), 256):
                pixels, _ = self.batch(image[start : start + 256], token_ids[:1])
                made[0].append(self.model.encode_image(pixels, normalize=True).numpy())
            for start in range(0, len(token_ids), 256):
                _, tokens = self.batch(image[:1], token_ids[start : start + 256])
                made[1].append(self.model.encode_text(tokens, normalize=True).numpy())
        self.model.train()
        return np.concatenate(made[0]), np.concatenate(made[1])


def check_installed() -> None:
    """Raises SystemExit where the peer's packages are missing."""
    for name in ("torch", "open_clip"):
        if importlib.util.find_spec(name) is None:
            raise SystemExit(f"{name} is missing: pip install -e '.[peers]'")


def load_open_clip() -> Any:
    """The package open_clip.

    Raises:
      SystemExit: it is not installed.
    """
    check_installed()
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        _stand_in_for_torchvision()
    import open_clip

    return open_clip


class _Unused:
    """Any name of torchvision; it may be subclassed or looked into, and does nothing."""

    BICUBIC = BILINEAR = NEAREST = None


def _stand_in_for_torchvision() -> None:
    """Modules under torchvision's names whose every attribute is `_Unused`."""
    for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional"):
        path = f"torchvision{name}"
        module = types.ModuleType(path)
        module.__spec__ = importlib.machinery.ModuleSpec(path, None)
        module.__path__ = []
        module.__getattr__ = _unused
        sys.modules[path] = module
        parent, _, child = path.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def _unused(attribute: str) -> Any:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return _Unused
