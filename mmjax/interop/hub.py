"""hf://owner/name[@revision]: a repository of the Hugging Face hub as a folder here."""

import os
import pathlib
import re
import sys

from mmjax.interop.errors import WeightsError, line
from mmjax.interop.pickles import PICKLES

__all__ = ["SCHEME", "download", "meant"]

SCHEME = "hf://"
# What a model is made of; pickles, other frameworks' weights and code are left where they are.
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")
TRUE = ("1", "ON", "YES", "TRUE")  # as the hub's own library reads a variable


def meant(name: str) -> str:
    """What is said beside 'no such file' of a name as other libraries write a repository's."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return ""
    return f" A repository of the hub is written {SCHEME}{name}."


def download(address: str) -> tuple[pathlib.Path, str]:
    """(the folder, the address with the commit it resolved to).

    Files that were fetched before are not fetched again; with HF_HUB_OFFLINE=1 nothing is. They lie
    where HF_HUB_CACHE or HF_HOME say, as those of other libraries do. The commit is printed.

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
    if ".." in address:
        raise WeightsError(f"{address!r}: no name of a repository or revision holds '..'.")
    try:
        folder = pathlib.Path(
            snapshot_download(
                repository,
                revision=revision,
                cache_dir=_cache(),
                local_files_only=os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE,
                allow_patterns=list(WANTED),
                ignore_patterns=["*/*"],
            )
        )
    except Exception as error:  # of requests, the hub, the disk: all kinds
        told = f"{type(error).__name__}: {line(error, 300)}"
        raise WeightsError(f"{address}: {told}.") from None
    _explain_pickles(address, folder)
    resolved = f"{SCHEME}{repository}@{folder.name}"
    if resolved != address:
        print(f"{address} is {resolved}", file=sys.stderr)
    return folder, resolved


def _cache() -> str | None:
    """Where fetched files are kept, by the environment as it is now; None for the usual place."""
    if os.environ.get("HF_HUB_CACHE"):
        return os.environ["HF_HUB_CACHE"]
    home = os.environ.get("HF_HOME")
    return str(pathlib.Path(home).expanduser() / "hub") if home else None


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
