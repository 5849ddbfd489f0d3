"""The machine and the versions that numbers were measured with."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.contracts.records import Machine

if TYPE_CHECKING:
    from packaging.requirements import Requirement

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTION_SETS = (
    "avx", "f16c", "fma", "avx2", "avx_vnni",
    "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
    "asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2", "sme",
)  # fmt: skip
"""What inference kernels are chosen by, as Linux spells it."""

LISTED = """
compressor-toolchain accelerate datasets diffusers nncf numpy onnx onnxruntime onnxruntime-gpu onnxscript openvino pydantic
safetensors scikit-learn scipy tensorrt tensorrt-rtx tokenizers torch transformers
"""
DISTRIBUTIONS = tuple(LISTED.split())
"""What a report gives the versions of, where it is installed."""
NVIDIA_SMI_SECONDS = 20.0


def machine(*, load: float | None = None) -> Machine:
    """Describe this machine; `load` is the share of its processors that other processes keep busy."""
    import psutil

    cpuinfo = read_cpuinfo()
    processor = cpuinfo.get("model name") or platform.processor() or platform.machine()
    cores, memory_bytes, gpus = usable_cores(), int(psutil.virtual_memory().total), accelerators()
    memory_gib = round(memory_bytes / 2**30)  # to the byte, it changes with what a kernel keeps for itself at boot
    parts = (processor, str(cores), str(memory_gib), *gpus, platform.system(), platform.release())
    return Machine(
        fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16],
        processor=processor,
        cores=cores,
        memory_bytes=memory_bytes,
        features=features(cpuinfo),
        accelerators=gpus,
        system=platform.platform(),
        python=platform.python_version(),
        load=load,
    )


def versions(names: Iterable[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Installed versions by distribution, leaving out what is not installed; imports none of them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def extras(distribution: str = "compressor-toolchain") -> dict[str, tuple[str, ...]]:
    """What each extra of a distribution still lacks here: requirements that no installed version meets, by extra."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata(distribution).get_all("Requires-Dist") or ()]
    names = metadata(distribution).get_all("Provides-Extra") or ()
    return {
        name: tuple(
            f"{each.name}{each.specifier}"
            for each in wanted
            if each.marker
            and not each.marker.evaluate({"extra": ""})
            and each.marker.evaluate({"extra": name})
            and not _met(each)
        )
        for name in names
    }


def _met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


def read_cpuinfo(path: Path = CPUINFO) -> dict[str, str]:
    """The first processor's fields; empty off Linux."""
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def features(cpuinfo: dict[str, str]) -> tuple[str, ...]:
    """Instruction sets that matter to inference, from the flags of x86 or ARM."""
    flags = set((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())
    return tuple(name for name in INSTRUCTION_SETS if name in flags)


def usable_cores() -> int:
    """Logical processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device() -> str:
    """Where torch computes: `cuda` where it can, else `cpu`. A build for processors only answers without being imported."""
    spec = find_spec("torch")
    names = {path.name for path in (Path(spec.origin).parent / "lib").glob("*torch_*")} if spec and spec.origin else set()
    if any("torch_cpu" in name for name in names) and not any("torch_cuda" in name or "torch_hip" in name for name in names):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def accelerators() -> tuple[str, ...]:
    """NVIDIA devices as the driver names them, with memory and driver version; asks `nvidia-smi`, never CUDA itself."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=NVIDIA_SMI_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    if answer.returncode != 0:
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
