"""What is told of the machine and of installed versions."""

import os
import sys
from importlib.metadata import version

import pytest

from compressor.deploy import machine as machine_module
from compressor.deploy.machine import accelerators, extras, features, machine, read_cpuinfo, versions

X86 = """processor\t: 0
model name\t: Imaginary Xeon @ 2.00GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_int8

processor\t: 1
model name\t: Other
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp i8mm bf16\n"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Puts a script in the place of `nvidia-smi`."""

    def install(script: str) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    return install


def test_machine_describes_this_one():
    here = machine(load=0.25)
    assert here.processor
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.memory_bytes > 1 << 28
    assert here.python == ".".join(map(str, sys.version_info[:3]))
    assert here.load == 0.25


def test_machine_is_named_with_its_cores():
    one = machine().model_copy(update={"processor": "Some CPU", "cores": 1})
    assert one.named == "Some CPU, 1 core"
    assert one.model_copy(update={"cores": 2}).named == "Some CPU, 2 cores"


def test_fingerprint_stays_when_asked_again_and_ignores_load():
    assert machine(load=0.9).fingerprint == machine().fingerprint
    assert len(machine().fingerprint) == 16


@pytest.mark.parametrize("change", ["processor", "cores", "accelerators"])
def test_fingerprint_changes_with_the_hardware(change, monkeypatch):
    before = machine().fingerprint
    changes = {
        "processor": ("read_cpuinfo", lambda: {"model name": "another"}),
        "cores": ("usable_cores", lambda: 4096),
        "accelerators": ("accelerators", lambda: ("NVIDIA Imaginary",)),
    }
    monkeypatch.setattr(machine_module, *changes[change])
    assert machine().fingerprint != before


def test_cpuinfo_gives_name_and_instruction_sets_of_first_processor(tmp_path):
    (tmp_path / "cpuinfo").write_text(X86)
    fields = read_cpuinfo(tmp_path / "cpuinfo")
    assert fields["model name"] == "Imaginary Xeon @ 2.00GHz"
    assert features(fields) == ("avx2", "avx512f", "avx512_vnni", "amx_int8")


def test_cpuinfo_of_arm_gives_its_instruction_sets(tmp_path):
    (tmp_path / "cpuinfo").write_text(ARM)
    assert features(read_cpuinfo(tmp_path / "cpuinfo")) == ("asimd", "asimddp", "bf16", "i8mm")


def test_machine_is_described_when_there_is_no_cpuinfo(tmp_path, monkeypatch):
    assert read_cpuinfo(tmp_path / "none") == {}
    monkeypatch.setattr(machine_module, "read_cpuinfo", dict)
    here = machine()
    assert here.processor
    assert here.features == ()


def test_accelerators_are_the_lines_of_nvidia_smi(nvidia_smi):
    nvidia_smi("echo 'NVIDIA H200, 143771 MiB, 580.1'; echo 'NVIDIA T4, 15360 MiB, 580.1'")
    assert accelerators() == ("NVIDIA H200, 143771 MiB, 580.1", "NVIDIA T4, 15360 MiB, 580.1")


def test_accelerators_are_none_when_nvidia_smi_fails(nvidia_smi):
    nvidia_smi("echo 'couldn t communicate with the driver'; exit 9")
    assert accelerators() == ()


def test_accelerators_are_none_when_nvidia_smi_hangs(nvidia_smi, monkeypatch):
    monkeypatch.setattr(machine_module, "NVIDIA_SMI_SECONDS", 0.2)
    nvidia_smi("exec sleep 30")
    assert accelerators() == ()


def test_versions_lists_only_what_is_installed():
    assert versions(["numpy", "no-such-distribution"]) == {"numpy": version("numpy")}
    assert versions()["compressor-toolchain"] == version("compressor-toolchain")


def test_extras_name_what_no_installed_version_meets():
    found = extras()
    assert {"cpu", "gpu", "openvino", "dev", "quickstart"} <= set(found)
    assert found["cpu"] == ()
    assert found["gpu"] != ()
