"""A plan and a search over plans, as tables of at most 80 columns."""

from collections.abc import Sequence
from typing import Any

GIB = 1 << 30
MIB = 1 << 20


def plan_text(plan: dict[str, Any]) -> str:
    """The numbers of one plan, see `mmjax.run.planning.numbers`."""
    flops = plan["flops"]
    mesh = "x".join(map(str, plan["mesh"].values()))
    lines = [
        f"{plan['topology']}: {plan['devices']} devices, mesh {mesh} (data x fsdp x tensor), "
        f"batch {plan['batch']:,} in {plan['micro_batches']}",
        f"{'parameters':<34}{plan['parameters'] / 1e6:>14.1f} M",
        f"{'FLOPs a step, useful':<34}{flops['useful'] / 1e12:>14.2f} T",
        f"{'FLOPs a step, executed':<34}{flops['executed'] / 1e12:>14.2f} T"
        f"   useful / executed {flops['useful'] / flops['executed']:.2f}",
        "bytes a device",
    ]
    for kind, size in plan["bytes"].items():
        if size:
            lines.append(f"  {kind:<32}{size / MIB:>14,.1f} MiB")
    verdict = {True: "yes", False: "NO", None: "not known"}[plan["fits"]]
    lines.append(f"{'fits':<34}{verdict:>14}")
    if plan["error"]:
        lines.append(f"  {plan['error'][:150]}")
    if plan["fits"] is False:
        lines += refusal(plan)
    if plan["collectives"]:
        lines.append("sent by a device in a step")
    for one in plan["collectives"]:
        name = f"  {one['kind']} {'+'.join(one['axes'])}"
        lines.append(f"{name:<44}{one['times']:>6} x{one['sent_bytes'] / 1e6:>12,.2f} MB")
    lines.append("seconds a step by")
    for name, one in plan["seconds"].items():
        lines.append(f"  {name:<32}{f'{one:.4f}' if one is not None else 'not known':>14}")
    for how, one in plan["by"].items():
        cost = f", cost {one['cost']:,.0f}" if "cost" in one else ""
        lines.append(
            f"by {how.replace('_', ' ')}: {one['seconds']:.4f} s, MFU {one['mfu']:.2f}, "
            f"{one['images_per_second']:,.0f} images/s,"
        )
        lines.append(
            f"  the run: {one['hours']:,.1f} hours, {one['device_hours']:,.0f} device-hours{cost}"
        )
    if plan["unknown_loops"]:
        lines.append(f"{plan['unknown_loops']} loops of unknown length count once.")
    return "\n".join(lines)


def culprit(plan: dict[str, Any]) -> str:
    """The kind of bytes that takes most of a device."""
    kinds = {k: size for k, size in plan["bytes"].items() if k not in ("peak", "usable")}
    return max(kinds, key=kinds.__getitem__)


def refusal(plan: dict[str, Any]) -> list[str]:
    """What takes the room of a plan that does not fit."""
    kind, size = culprit(plan), plan["bytes"]
    if size["usable"] is None or not size["peak"]:  # the compiler gave no numbers
        return []
    return [
        f"  most of it is {kind}: {size[kind] / GIB:.2f} GiB of the {size['peak'] / GIB:.2f} GiB "
        f"needed; {size['usable'] / GIB:.2f} can be used."
    ]


def search_text(rows: Sequence[dict[str, Any]]) -> str:
    """A search's candidates as a table, the best first; see `mmjax.run.searching.search`."""
    lines = [f"{'mesh':<11}{'micro':>5} {'remat':<14}{'peak GiB':>9}{'seconds':>9}{'useful':>7}"]
    for row in rows:
        mesh = "x".join(map(str, row["mesh"].values()))
        peak = f"{row['peak_bytes'] / GIB:.2f}" if row["peak_bytes"] else "?"
        seconds = f"{row['seconds']:.4f}" if row["seconds"] else "?"
        if not row["compiled"]:
            peak, seconds = f"~{peak}", f">{seconds}"
        note = {True: "", False: "  does not fit", None: "  not compiled"}[row["fits"]]
        lines.append(
            f"{mesh:<11}{row['micro_batches']:>5} {row['remat']:<14}{peak:>9}{seconds:>9}"
            f"{row['useful']:>7.2f}{note}"
        )
    return "\n".join(lines)
