"""hf://owner/name[@revision]: a repository of the Hugging Face hub as a folder here."""

import pathlib
import re

from mmjax.interop.tensors import PICKLES, WeightsError

__all__ = ["SCHEME", "download"]

SCHEME = "hf://"
# What a model is made of; pickles, other frameworks' weights and code are left where they are.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")


def download(address: str) -> tuple[pathlib.Path, str]:
    """(the folder, the address with the commit it resolved to).

    Files that were fetched before are not fetched again; with HF_HUB_OFFLINE=1 nothing is.

    Args:
      address: 'hf://owner/name', with '@' and a branch, tag or commit where it is not 'main'.

    Raises:
      WeightsError: no such address, repository or revision, or it cannot be reached.
    """
    found = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", address)
    if not found:
        raise WeightsError(
            f"{address!r}: an address reads like hf://owner/name or …/name@revision."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise WeightsError(
            f"{address}: huggingface_hub is not installed; pip install 'mmjax[hub]'."
        ) from None
    repository, revision = found[1], found[2] or "main"
    try:
        folder = pathlib.Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(WANTED))
        )
    except Exception as error:  # of requests, the hub, the disk: all kinds
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise WeightsError(f"{address}: {type(error).__name__}: {reason[:300]}.") from None
    _explain_pickles(address, folder)
    return folder, f"{SCHEME}{repository}@{folder.name}"


def _explain_pickles(address: str, folder: pathlib.Path) -> None:
    """Raises WeightsError where a repository holds no weights that are read."""
    if any(folder.glob("*.safetensors")) or any(folder.glob("*.npz")):
        return
    raise WeightsError(
        f"{address} holds no .safetensors. Where it holds pickles ({', '.join(PICKLES)}), which "
        "are not read, look for the hub's own conversion in its pull requests and give it as "
        f"{address.partition('@')[0]}@refs/pr/N, or convert the file where torch is installed "
        "(mmjax.load of a folder with the pickle prints the command)."
    )
