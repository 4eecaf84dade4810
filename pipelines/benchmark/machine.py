"""What the benchmark ran on: processor, memory, accelerators, software; and how much memory a process took. No host name, no path."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
_PACKAGES = ("tensorflow", "keras", "numpy", "jax")


def describe(devices: list[str]) -> dict[str, Any]:
    """The machine and its software, ready for JSON.

    Args:
        devices: accelerators, as the measuring processes saw them (`devices`).
    """
    processor = _read("/proc/cpuinfo")
    flags = set(_first(r"^(?:flags|Features)\s*:\s*(.*)$", processor).split())
    return {
        "processor": _first(r"^model name\s*:\s*(.*)$", processor) or platform.processor() or platform.machine(),
        "cores": usable_cores(),
        "flags": [flag for flag in _FLAGS if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "accelerators": devices,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        **{name: version for name in _PACKAGES if (version := _version(name))},
    }


def summary(machine: dict[str, Any]) -> str:
    """One line of `describe`."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", *_PACKAGES) if name in machine)
    return f"{hardware(machine)}; {machine['system']}; {versions}"


def hardware(machine: dict[str, Any]) -> str:
    """Cores, processor, memory and accelerators of `describe`; of older records too, which have no `flags`."""
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    flags = f" ({' '.join(machine['flags'])})" if machine.get("flags") else ""
    accelerators = ", ".join(machine["accelerators"]) or "no accelerator"
    return f"{cores} of {machine['processor']}{flags}, {machine['memory_bytes'] / 2**30:.0f} GiB, {accelerators}"


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def devices() -> list[str]:
    """Accelerators that the framework of this process sees. Imports no framework: one that is not loaded sees none."""
    if "jax" in sys.modules:
        return [device.device_kind for device in sys.modules["jax"].devices() if device.platform != "cpu"]
    if "tensorflow" in sys.modules:
        config = sys.modules["tensorflow"].config
        found = config.list_physical_devices("GPU")
        return [config.experimental.get_device_details(device).get("device_name", device.name) for device in found]
    return []


def memory() -> dict[str, int | None]:
    """`peak_memory_bytes` and `peak_device_memory_bytes`: most that this process has held so far, and on its first accelerator."""
    return {"peak_memory_bytes": _peak_memory(), "peak_device_memory_bytes": _peak_device_memory()}


def _peak_memory() -> int:
    # ru_maxrss survives an exec: it may be that of the process which started this one. VmHWM is this program's own.
    own = _first(r"^VmHWM:\s*(\d+) kB$", _read("/proc/self/status"))
    if own:
        return int(own) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _peak_device_memory() -> int | None:
    if not devices():
        return None
    if "jax" in sys.modules:
        return int((sys.modules["jax"].devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))
    return int(sys.modules["tensorflow"].config.experimental.get_memory_info("GPU:0")["peak"])


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
