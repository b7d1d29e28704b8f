"""The layout of a state as a table for people."""

from collections.abc import Mapping, Sequence

from jax.sharding import Mesh, PartitionSpec

from mmjax.parallel.layout import Placement

_HEAD = ("array", "shape", "cut along", "bytes a device")


def table(placements: Mapping[str, Placement], mesh: Mesh) -> str:
    """Array, shape, mesh axes and bytes a device, with sums; * where an axis fell back.

    Arrays that lie just as the parameter they belong to (moments, moving average) are one line.

    Args:
      placements: of the whole state, see `lay_out`.
      mesh: that they lie on.
    """
    sizes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    params = {
        path.removeprefix("params/"): one
        for path, one in placements.items()
        if path.startswith("params/")
    }
    rows, notes = [], []
    for path, one in placements.items():
        if path.startswith("params/"):
            rows.append(_row(path, one))
            notes += [f"* {path}: {note}." for note in one.fallbacks]
    held = sum(one.device_bytes for one in params.values())
    rows.append(("params", f"{len(params)} arrays", "", f"{held:,}"))
    rows += _others(placements, params)
    rows.append(("sum", "", "", f"{sum(one.device_bytes for one in placements.values()):,}"))
    lines = _columns([_HEAD, *rows])
    whole = sum(one.bytes for one in placements.values())
    head = f"{mesh.size} devices, {sizes}. The state is {whole:,} bytes in all."
    return "\n".join([head, "", *lines, *(["", *notes] if notes else [])])


def _others(
    placements: Mapping[str, Placement], params: Mapping[str, Placement]
) -> list[tuple[str, ...]]:
    """Rows of what is no parameter; what lies as its parameter is summed up by its folder."""
    rows: list[tuple[str, ...]] = []
    alike: dict[str, list[Placement]] = {}
    for path, one in placements.items():
        if path.startswith("params/"):
            continue
        folder = _folder(path, one, params)
        if folder:
            alike.setdefault(folder, []).append(one)
        else:
            rows.append(_row(path, one))
    for folder, ones in alike.items():
        amount = f"{sum(one.device_bytes for one in ones):,}"
        rows.append((f"{folder}/...", f"{len(ones)} arrays", "as the parameters", amount))
    return rows


def _folder(path: str, one: Placement, params: Mapping[str, Placement]) -> str:
    """What stands before a parameter's path, where the two lie alike; '' where they do not."""
    parts = path.split("/")
    for start in range(1, len(parts)):
        known = params.get("/".join(parts[start:]))
        if known is not None and (known.shape, known.spec) == (one.shape, one.spec):
            return "/".join(parts[:start])
    return ""


def _row(path: str, one: Placement) -> tuple[str, ...]:
    shape = " x ".join(map(str, one.shape)) or "scalar"
    mark = " *" if one.fallbacks else ""
    return path, shape, _axes(one.spec), f"{one.device_bytes:,}{mark}"


def _axes(spec: PartitionSpec) -> str:
    """A spec in words: 'whole', or for each dimension its axes, - for none."""
    if not len(spec):
        return "whole"
    return ", ".join("+".join(e) if isinstance(e, tuple) else e or "-" for e in spec)


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines of equal columns; the last one is numbers, which end in one place."""
    widths = [max(len(row[n].removesuffix(" *")) for row in rows) for n in range(4)]
    lines = []
    for row in rows:
        number, mark = row[3].removesuffix(" *"), " *" if row[3].endswith(" *") else ""
        words = "  ".join(row[n].ljust(widths[n]) for n in range(3))
        lines.append(f"{words}  {number.rjust(widths[3])}{mark}")
    return [line.rstrip() for line in lines]
