"""Pickled weights are never opened; who has only those is told how to make safetensors of them."""

import pathlib
import re
import shlex

from mmjax.interop.errors import WeightsError

__all__ = ["PICKLES", "command", "refuse_pickles"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
# Names that weights have in published folders; what else is pickled there (an optimizer's state,
# arguments) is none, unless nothing has such a name.
WEIGHTS = r"(pytorch_model|model|open_clip_pytorch_model|consolidated)\b.*"
TARGET = "model.safetensors"


def command(files: list[pathlib.Path]) -> str:
    """One complete line for a shell, which makes one .safetensors of pickles where torch is.

    torch reads nothing but arrays (`weights_only`), and each array is copied: those that share
    memory, as tied ones do, would be refused by safetensors.

    Args:
      files: the pickles; several are the shards of one model.
    """
    program = (
        "import torch, safetensors.torch as s; d = {}; "
        "[d.update(torch.load(f, map_location='cpu', weights_only=True)) for f in "
        f"{[str(file) for file in files]!r}]; "
        "d = d.get('state_dict', d); "
        "s.save_file({k.removeprefix('module.'): v.clone().contiguous() for k, v in d.items() "
        f"if torch.is_tensor(v)}}, {str(files[0].with_name(TARGET))!r}, {{'format': 'pt'}})"
    )
    return f"python -c {shlex.quote(program)}"


def refuse_pickles(path: pathlib.Path) -> None:
    """Raises WeightsError where the weights are a pickle, with the command that converts them.

    Args:
      path: a file, or a folder that is looked through.
    """
    there = sorted(path.iterdir()) if path.is_dir() else [path]
    pickles = [file for file in there if file.suffix in PICKLES]
    pickles = [file for file in pickles if re.fullmatch(WEIGHTS, file.name)] or pickles
    if pickles:
        raise WeightsError(
            f"{pickles[0]}: a pickle, which runs whatever is in it when it is opened; it is not "
            "read. A repository on the hub often has a converted copy: hf://owner/name@refs/pr/N. "
            f"Where torch is installed this makes safetensors of it: {command(pickles)}"
        )
