"""How shards at addresses are brought to this host, and what it is called when they are not."""

import dataclasses

__all__ = ["FETCHING", "FetchError", "Fetching"]


class FetchError(OSError):
    """A file at an address cannot be had; the message names it."""


@dataclasses.dataclass(frozen=True)
class Fetching:
    """Cache and order of shards at addresses.

    Attributes:
      cache_bytes: what shards may take on the disk in all, for all processes of a host; three
        windows for each lane that the host reads must fit. Their indexes, a hundredth, come on top.
      window: shards whose samples are mixed. Part of the order.
      lanes: parts of a batch that read shards of their own. With as many lanes as hosts each host
        fetches its share alone, otherwise all fetch everything; the number belongs to the run and
        stays when the hosts become more or fewer. Part of the order.
      tries: how often a fetch is begun, with pauses of 1, 2, 4, ... seconds between.
      folder: where shards are kept, '' for 'shards' in the cache folder ($MMJAX_CACHE).

    Raises:
      ValueError: a number below 1.
    """

    cache_bytes: int = 1 << 35
    window: int = 4
    lanes: int = 1
    tries: int = 5
    folder: str = ""

    def __post_init__(self) -> None:
        for name in ("cache_bytes", "window", "lanes", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"fetching: {name}={getattr(self, name)}; it is 1 or more.")


FETCHING = Fetching()
