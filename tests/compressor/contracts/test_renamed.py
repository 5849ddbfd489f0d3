"""What plug-ins were written against goes on working under its old name, with one notice that names the new one."""

from __future__ import annotations

import pytest

import compressor.testing
from compressor import contracts
from compressor.contracts import Artifact, Dialect, Feature, Format, Outputs, Want, registry


def test_dialects_and_artifacts_are_made_and_read_by_their_old_field(tmp_path):
    with pytest.warns(FutureWarning, match=r"Dialect\(rung=...\) is called format now"):
        dialect = Dialect(rung="onnx", opset=19)
    assert dialect == Dialect(format="onnx", opset=19)
    with pytest.warns(FutureWarning, match="Dialect.rung is called format now"):
        assert dialect.rung == "onnx"
    with pytest.warns(FutureWarning, match="rung"):
        assert Artifact(rung="onnx", path=tmp_path) == Artifact("onnx", tmp_path)
    with pytest.warns(FutureWarning, match="Artifact.rung is called format now"):
        assert Artifact("onnx", tmp_path).rung == "onnx"


def test_the_class_and_its_check_are_found_by_their_old_names():
    with pytest.warns(FutureWarning, match="Rung is called Format now"):
        assert contracts.Rung is Format
    with pytest.warns(FutureWarning, match="check_rung is called check_format now"):
        assert compressor.testing.check_rung is compressor.testing.check_format
    with pytest.raises(AttributeError, match="no attribute 'Sprosse'"):
        _ = contracts.Sprosse


def test_formats_of_the_old_group_are_found_with_one_notice(tmp_path, monkeypatch):
    (tmp_path / "old-1.0.dist-info").mkdir()
    (tmp_path / "old-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: old\nVersion: 1.0\n")
    (tmp_path / "old-1.0.dist-info" / "entry_points.txt").write_text("[compressor.rung]\nold-graph = old_plugin:Graph\n")
    (tmp_path / "old_plugin.py").write_text(
        "from compressor.contracts import Format\n\n\n"
        "class Graph(Format):\n    name = 'old-graph'\n    above = 'onnx'\n\n    def lower(self, artifact, out, *, task, dialect): ...\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(FutureWarning, match=r"group 'compressor.rung' of old 1.0 is called 'compressor.format' now") as told:
        assert registry.lowering("old-graph") == ("onnx", "old-graph")
    assert len(told) == 1


def test_the_old_kind_of_a_feature_is_the_new_one():
    told = "feature 'attention-output' is called 'attention-update' now"
    with pytest.warns(FutureWarning, match=told) as given:
        feature = Feature("attention-output", "layer.0")
    assert [each.filename for each in given] == [__file__]
    assert feature == Feature("attention-update", "layer.0")
    with pytest.warns(FutureWarning, match=told) as given:
        assert Want([feature]).of("attention-output") == ("layer.0",)
    assert [each.filename for each in given] == [__file__]
    with pytest.warns(FutureWarning, match=told):
        assert Outputs(None, {feature: 1}).of("attention-output") == {"layer.0": 1}
    with pytest.warns(FutureWarning, match=told):
        made = Outputs(None, {feature: 1}).having("attention-output", {"layer.0": 2})
    assert made.features == {feature: 2}
