"""What a host of Gradio programs is asked to install."""

from __future__ import annotations

import re
import sys

import yaml

from demos.space import _write


def test_host_is_asked_for_versions_that_an_index_has_and_for_this_python(tmp_path):
    """Indices know no `2.13.0+cpu`; workers are started with `-P`, which older Pythons of hosts lack."""
    _write(tmp_path, "A model", "It is small.", ["numpy", "torch"])
    lines = (tmp_path / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in lines] == ["gradio", "numpy", "torch"]
    assert all(re.fullmatch(r"\w+==[\d.]+", line) for line in lines)
    head = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert head["python_version"] == f"{sys.version_info.major}.{sys.version_info.minor}"
