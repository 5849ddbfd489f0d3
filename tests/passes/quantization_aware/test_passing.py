"""What layers read on calibration rows, where a model calls one block several times; and which models a training holds."""

from __future__ import annotations

import torch
from families import MORE
from rounded_students import Task, step, wide
from tensor_rows import SPLITS, Context, Rows

from passes.quantization_aware.choice import linear_layers
from passes.quantization_aware.distill_and_quantize import DistillAndQuantize
from passes.quantization_aware.passing import passing

READ = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"


def test_every_call_of_a_layer_has_part_in_its_range():
    """ALBERT has one block and goes through it as often as others have blocks."""
    torch.manual_seed(0)
    module = MORE["albert"].make().eval()
    rows = SPLITS["calibration"][:8]
    batch = {name: torch.tensor(rows[name]) for name in ("input_ids", "attention_mask")}
    paths = linear_layers(module, head=False, exclude=())[0]
    calls: dict[str, list[torch.Tensor]] = {path: [] for path in paths}
    handles = [
        module.get_submodule(path).register_forward_pre_hook(lambda _, given, path=path: calls[path].append(given[0]))
        for path in paths
    ]
    found = passing(module, paths, [batch], Rows(), "cpu")
    for handle in handles:
        handle.remove()
    assert max(map(len, calls.values())) > 1
    mask = batch["attention_mask"].bool()
    for path, read in calls.items():
        valid = torch.cat([x[mask] if x.shape[:2] == mask.shape else x for x in read])
        seen = found.ranges[path]
        assert (seen.least, seen.most) == (valid.min().item(), valid.max().item()), path
        assert abs(seen.mean - valid.abs().mean().item()) < 1e-5
    names = tuple(f"{READ}.{name}" for name in ("query", "key", "value"))
    assert names in found.alike


# ------------------------------------------------------------------ the input, the student and the teacher


def test_teacher_that_is_the_input_is_held_once_and_neither_changes(tmp_path, monkeypatch):
    source, other, held = wide(), wide(seed=4), {}
    before = {
        name: [each.clone() for each in model.module.parameters()] for name, model in (("source", source), ("other", other))
    }
    through = DistillAndQuantize._trained

    def trained(self, student, teachers, *others):
        held[self.teacher] = teachers[0].module
        held["student"] = student.module
        return through(self, student, teachers, *others)

    monkeypatch.setattr(DistillAndQuantize, "_trained", trained)
    ctx = Context(tmp_path, {"source": source, "other": other}, Task())
    for name in before:
        step(teacher=name, epochs=1).apply(source, ctx)
        assert all(torch.equal(mine, was) for mine, was in zip(held[name].parameters(), before[name], strict=True))
        assert all(torch.equal(mine, was) for mine, was in zip(source.module.parameters(), before["source"], strict=True))
        assert not places(held["student"]) & places(source.module)
    assert places(held["source"]) == places(source.module)
    assert held["other"].bert.embeddings.word_embeddings.weight.data_ptr() not in places(source.module)


def places(module):
    return {parameter.data_ptr() for parameter in module.parameters()}
