"""The study of other tools: what their code may know of the environment, and what of their files is read."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.studies.peers import forms, makers
from benchmarks.studies.peers.environments import Skipped, harmless, told
from compressor.errors import SourceError

SECRETS = {"HF_TOKEN": "hf_x", "SOME_API_KEY": "x", "PIP_INDEX_URL": "https://me:password@host/simple"}


def test_environment_has_no_keys_and_no_passwords():
    given = {**SECRETS, "PATH": "/bin", "HOME": "/home/me", "PIP_CERT": "/ca.pem"}
    assert harmless(given) == {"PATH": "/bin", "HOME": "/home/me", "PIP_CERT": "/ca.pem"}


def test_makers_know_no_secrets(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Skipped, match=r"found: \[\]$"):
        told(
            [sys.executable, "-c", f"import os; raise SystemExit(str([each for each in {list(SECRETS)} if each in os.environ]))"],
            "found",
        )


def test_study_begins_anew_without_secrets():
    code = "from benchmarks.studies.peers.environments import forget_secrets; forget_secrets(); print(open('/proc/self/environ').read())"
    root = Path(forms.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **SECRETS}, cwd=root, capture_output=True, text=True, check=True
    )
    assert "PATH=" in done.stdout
    assert not [name for name in SECRETS if name in done.stdout]


class Runs:
    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_weights_of_another_tool_run_no_code(tmp_path, monkeypatch):
    monkeypatch.setattr(makers, "by_torchao", lambda module: module)  # torchao is not installed here
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    config.save_pretrained(tmp_path)
    kept = transformers.BertForSequenceClassification(config).state_dict()
    torch.save(kept, tmp_path / "model.pt")
    assert forms.TorchAo().module(tmp_path) is not None
    torch.save({**kept, "more": Runs(tmp_path / "ran")}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError):
        forms.TorchAo().module(tmp_path)
    assert not (tmp_path / "ran").exists()


def packed(path, *, sample=None, **more):
    """An exported program, with other sample inputs or further members."""
    torch.export.save(torch.export.export(torch.nn.Linear(2, 3), (torch.ones(4, 2),)), path)
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held |= {f"{path.stem}/data/{name}": content for name, content in more.items()}
    if sample is not None:
        torch.save(sample, path.with_suffix(".sample"))
        held[f"{path.stem}/data/sample_inputs/model.pt"] = path.with_suffix(".sample").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    return path


def test_a_program_of_another_tool_runs_no_code(tmp_path, caplog):
    ran, rows = tmp_path / "ran", torch.ones(4, 2)
    assert forms.program_in(packed(tmp_path / "plain.pt2")).module()(rows).shape == (4, 3)
    with pytest.raises(pickle.UnpicklingError):
        forms.program_in(packed(tmp_path / "sample.pt2", sample=((Runs(ran),), {})))
    for name in (
        "constants/opaque_obj_0",
        "constants/custom_obj_0",
        "aotinductor/model/x.so",
        "constants/opaque_obj_/../tensor_0",
    ):
        with pytest.raises(SourceError, match="neither numbers nor a graph"):
            forms.program_in(packed(tmp_path / "other.pt2", **{name: pickle.dumps(Runs(ran))}))
    assert not ran.exists()
    caplog.set_level(logging.CRITICAL, "torch._export.serde.serialize")  # what it warns of is no format of a message
    torch.export.load(tmp_path / "sample.pt2")
    assert ran.exists(), "torch alone reads it"
    assert forms.NUMBERS_ALONE not in os.environ
