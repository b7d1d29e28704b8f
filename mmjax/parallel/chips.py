"""What the chips can do, as their makers publish it: the one place for these figures."""

import dataclasses
import re

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published figures of what JAX calls one device; None where none was found.

    Attributes:
      kind: pattern that the whole of `device.device_kind` matches.
      flops: dense bfloat16 peak, FLOP/s.
      hbm_bytes: its memory.
      hbm_bandwidth: bytes/s between memory and chip.
      link_bandwidth: bytes/s out of a device along one axis of its torus, both ways together; for
        GPUs out of a device through NVLink.
      network_bandwidth: bytes/s out of a device to another slice or host.
      flops_per_cycle: of its matrix units; the clock is the peak divided by it.
      devices_per_chip: how many devices JAX makes of a chip.
      usable: of its memory, what a program may take, GiB; what libtpu 0.0.42 names where it refuses
        a program that needs more.
    """

    kind: str
    flops: float
    hbm_bytes: int | None = None
    hbm_bandwidth: float | None = None
    link_bandwidth: float | None = None
    network_bandwidth: float | None = None
    flops_per_cycle: int | None = None
    devices_per_chip: int = 1
    usable: float | None = None

    @property
    def usable_bytes(self) -> int | None:
        """What a program may take of the memory; all of it where nothing else is known."""
        return self.hbm_bytes if self.usable is None else round(self.usable * GIB)

    @property
    def clock(self) -> float | None:
        """Cycles a second."""
        return None if self.flops_per_cycle is None else self.flops / self.flops_per_cycle


# TPUs: cloud.google.com/tpu/docs, the page of each version (v4, v5e, v5p, v6e, tpu7x): peak, HBM
# and "bidirectional inter-chip interconnect bandwidth per chip", of which half goes out, divided
# among the 2 or 3 axes of the torus; data-centre network per chip, for v5e that of the pod over its
# 256 chips. v2, v3 and TPU7x have two devices a chip, so half of it each. Matrix units a device:
# four of 128x128 a core (v4 and v5p have two cores), as many operations as four of 256x256 (v6e,
# TPU7x): with them the peaks come out at the clocks that are known (1.05 GHz for v4: Jouppi et al.
# 2023, "TPU v4"; 1.5 GHz for v5e).
# Read again at their source: peak, memory and links of v5e, v5p, v6e and TPU7x, peak and memory of
# v4, and all peaks of GPUs. The other figures are as they are known, without that.
# NVIDIA: the data sheets of A100, L4, L40S, H100, H200 and Blackwell ("dense", or half of the
# figure that is given with sparsity); NVLink is given for both directions, of which half goes out.
CHIPS: tuple[Chip, ...] = (
    Chip(r"TPU v2", 22.5e12, 8 * GIB, devices_per_chip=2),
    Chip(r"TPU v3", 61.5e12, 16 * GIB, 450e9, devices_per_chip=2),
    Chip(r"TPU v4", 275e12, 32 * GIB, 1200e9, 100e9, None, 262_144, usable=30.75),
    Chip(r"TPU v4 lite", 138e12),
    Chip(r"TPU v5 ?(lite|e)", 197e12, 16 * GIB, 819e9, 100e9, 3.125e9, 131_072, usable=15.75),
    Chip(r"TPU v5p?", 459e12, 95 * GIB, 2765e9, 200e9, 6.25e9, 262_144, usable=95.74),
    Chip(r"TPU v6 ?(lite|e)", 918e12, 32 * GIB, 1638e9, 200e9, 12.5e9, 524_288, usable=31.25),
    Chip(r"TPU7x", 1153.5e12, 96 * GIB, 3690e9, 100e9, 6.25e9, 524_288, 2, 94.75),
    Chip(r"NVIDIA A100.*80GB.*", 312e12, 80 * 10**9, 1935e9, 300e9),
    Chip(r"NVIDIA A100.*", 312e12, 40 * 10**9, 1555e9, 300e9),
    Chip(r"NVIDIA L4", 121e12, 24 * 10**9, 300e9),
    Chip(r"NVIDIA L40S", 362e12, 48 * 10**9, 864e9),
    Chip(r"NVIDIA H100 PCIe", 756e12, 80 * 10**9, 2000e9, 300e9),
    Chip(r"NVIDIA H100 NVL", 835e12, 94 * 10**9, 3900e9, 300e9),
    Chip(r"NVIDIA H100.*", 989e12, 80 * 10**9, 3350e9, 450e9),
    Chip(r"NVIDIA H200 NVL", 835e12, 141 * 10**9, 4800e9, 450e9),
    Chip(r"NVIDIA H200.*", 989e12, 141 * 10**9, 4800e9, 450e9),
    Chip(r"NVIDIA GH200.*", 989e12, 96 * 10**9, 4000e9, 450e9),
    Chip(r"NVIDIA B200.*", 2250e12, 180 * 10**9, 8000e9, 900e9),
)


def find_chip(device_kind: str) -> Chip | None:
    """The figures of a device, or None where they are not known.

    Args:
      device_kind: `jax.devices()[0].device_kind`.
    """
    return next((chip for chip in CHIPS if re.fullmatch(chip.kind, device_kind)), None)
