"""Plug-ins that each break their contract in one way, the one they are named for."""

from __future__ import annotations

import time

from pydantic import ConfigDict, Field, model_validator

from compressor.contracts import Artifact, Dialect, Edit, Format, Missing, Objective, Pass, Probe, Recipe, Target, Want, Workload
from compressor.contracts.anatomy import Row
from compressor.contracts.notes import Remark
from compressor.contracts.records import OtherRecord
from compressor.model.families import BERT
from compressor.tasks.text_classification import TextClassification


class Keeps(Pass):
    """Keeps the model as it is."""

    paper = "none"

    strength: float = Field(default=0.5, description="nothing depends on it")

    def apply(self, model, ctx):
        return model


class ForgetsItsSeed(Keeps):
    """Draws from whatever state torch is in."""

    def apply(self, model, ctx):
        import torch

        with torch.no_grad():
            model.module.classifier.weight.add_(torch.randn_like(model.module.classifier.weight))
        return model


class SaysNothingOfItself(Keeps):
    size: int = 1


class TakesAnything(Keeps):
    """Takes parameters that it does not have."""

    model_config = ConfigDict(extra="allow")


class HidesAParameter(Keeps):
    """A parameter is left out of what is written."""

    strength: float = Field(default=0.5, exclude=True, description="left out of keys")


class OffersWhatItRefuses(Keeps):
    """Has `init` write what it does not take."""

    @classmethod
    def recipe(cls, wish):
        return Recipe({"strengths": wish.max_drop}, "it is strong", role="shrink")


class OffersWithoutARole(Keeps):
    """Does not say where in a plan it belongs."""

    @classmethod
    def recipe(cls, wish):
        return Recipe({"strength": wish.max_drop}, "it is strong") if wish.trained else None


class ReachesIn(Keeps):
    """Changes a module behind its blueprint's back."""

    def apply(self, model, ctx):
        import torch

        model.module.classifier = torch.nn.Sequential(model.module.classifier)
        return model


class KnowsBertOnly(Keeps):
    """Takes every model for a BERT."""

    def apply(self, model, ctx):
        model.module.bert.encoder.requires_grad_(False)
        return model


class WritesIntoItsInput(Keeps):
    """Works in place on what lies in the store."""

    accepts = ("onnx",)

    def apply(self, model, ctx):
        (model.path / "notes.txt").write_text("worked in place")
        return Artifact(model.format, model.path)


class ChangesWhatItReads(WritesIntoItsInput):
    """Leaves something beside what it was given, and writes its result where it should."""

    def apply(self, model, ctx):
        import shutil

        shutil.copytree(model.path, ctx.folder / "out")
        (model.path / "log.txt").write_text("was here")
        return Artifact(model.format, ctx.folder / "out")


class GivesNoExample(Keeps):
    """Needs a parameter that nobody gives it."""

    needed: int = Field(description="needed")


class BreaksOnWrongValues(Keeps):
    """Its own check of a list breaks where there is none."""

    sizes: object = Field(default=(1, 2), description="sizes")

    @model_validator(mode="after")
    def _ascending(self):
        if self.sizes[0] > self.sizes[-1]:
            raise ValueError("sizes must ascend")
        return self


# ------------------------------------------------------------------ targets


class Good(Target):
    """Runs the torch model; what is built on it breaks one thing."""

    dialect = Dialect(format="torch")
    file = "model.safetensors"

    def missing(self):
        return Missing()

    def build(self, source, out, **_):
        import shutil

        shutil.copytree(source.path, out, dirs_exist_ok=True)

    def open(self, built):
        from compressor.model.model import Model

        return Session(Model.load(built))


class Session:
    def __init__(self, model):
        self.model = model

    def run(self, feed, *, graph="model", state=None):
        import torch

        with torch.inference_mode():
            logits = self.model.module(**{name: torch.as_tensor(array) for name, array in feed.items()}).logits
        return {"logits": self.turned(logits.numpy())}, state

    def turned(self, logits):
        return logits

    def facts(self):
        return {"precision": "fp32", "device": "cpu", "threads": "1"}


class OnCounted(Good):
    """Runs what the format below makes."""

    dialect = Dialect(format="counts-itself")


class RaisesWhatIsMissing(Good):
    """Imports without a look."""

    def missing(self):
        import a_runtime_that_is_not_there  # noqa: F401

        return Missing()


class TakesItsTime(Good):
    """Thinks before it says what is missing."""

    def missing(self):
        time.sleep(0.2)
        return Missing()


class ForgetsWhatItRequires(Good):
    """Says that nothing is missing where its runtime is."""

    requires = ("onnxruntime",)


class ComputesSomethingElse(Good):
    """Turns the signs of the outputs."""

    def open(self, built):
        session = super().open(built)
        session.turned = lambda logits: -logits
        return session


class DrawsItsOutputs(Good):
    """Each session adds noise of its own."""

    def open(self, built):
        import numpy as np

        session, noise = super().open(built), np.random.default_rng().normal(scale=1e-4)
        session.turned = lambda logits: logits + noise
        return session


class GivesItsOwnMemory(Good):
    """Writes all outputs into one array."""

    def open(self, built):
        import numpy as np

        session, memory = super().open(built), np.empty((64, 3), np.float32)

        def turned(logits):
            memory[: len(logits)] = logits
            return memory[: len(logits)]

        def run(feed, *, graph="model", state=None):
            outputs, state = Session.run(session, feed, graph=graph, state=state)
            return outputs, state

        session.turned, session.run = turned, run
        return session


class KeepsFactsToItself(Good):
    """Does not say how many threads run."""

    def open(self, built):
        session = super().open(built)
        session.facts = lambda: {"precision": "fp32", "device": "cpu"}
        return session


class OpensAnything(Good):
    """Loads when it is called, and never looks before."""

    def open(self, built):
        return Session(None)


# ------------------------------------------------------------------ probes and tasks


class MeasuresTheFirst(Probe):
    """Leaves all but the first candidate out."""

    def workloads(self):
        return (Workload(length=8),)

    def measure(self, candidates, feeds, bench, *, seed):
        return OtherRecord(probe="first", notes=(Remark(text=f"{candidates[0].id} is quick"),))


class WantsNoShape(MeasuresTheFirst):
    """Asks for nothing to measure with."""

    def workloads(self):
        return ()


class NeverShuffles(TextClassification):
    """Gives rows in their order, whatever the seed."""

    def batches(self, rows, files, *, batch_size, shuffle_seed=None):
        return super().batches(rows, files, batch_size=batch_size)


class MixesRowsUp(TextClassification):
    """Forgets that it sorted rows by length."""

    def scored_feeds(self, rows, files):
        feeds, order = super().scored_feeds(rows, files)
        return feeds, sorted(order)


# ------------------------------------------------------------------ objectives


class NeverEnds(Objective):
    """Is above 0 for a perfect student."""

    paper = "none"

    def wants(self, student, teacher):
        return Want(), Want()

    def loss(self, student, teacher, batch):
        return (student.logits - teacher.logits).square().mean() + 1.0


class TeachesNothing(NeverEnds):
    """Has no gradient."""

    def loss(self, student, teacher, batch):
        return (student.logits.detach() - teacher.logits).square().mean().requires_grad_()


class WeighsItself(NeverEnds):
    """Applies the weight that the pass applies."""

    def loss(self, student, teacher, batch):
        return self.weight * (student.logits - teacher.logits).square().mean()


class CountsPadding(NeverEnds):
    """Takes the mean over all tokens, padding included."""

    def wants(self, student, teacher):
        return tuple(Want(hidden_states=(side.blocks[0].id,)) for side in (student, teacher))

    def loss(self, student, teacher, batch):
        ours, theirs = (next(iter(side.hidden_states.values())) for side in (student, teacher))
        return (ours - theirs).square().mean()


# ------------------------------------------------------------------ edits, anatomy, format


class Scales(Edit):
    """Doubles the classifier's weight."""

    kind = "scales"

    def apply(self, module):
        import torch

        from compressor.errors import UnsupportedModel

        if not hasattr(module, "classifier"):
            raise UnsupportedModel("no classifier to scale")
        module.classifier.weight = torch.nn.Parameter(module.classifier.weight.detach() * 2)

    def describe(self):
        return "classifier: doubled"


class IsCalledOtherwise(Scales):
    """Its kind is not its entry point's name."""

    kind = "is-called-differently"


class CannotDoMeta(Scales):
    """Looks at values that are not there on meta."""

    kind = "cannot-do-meta"

    def apply(self, module):
        if float(module.classifier.weight.detach().sum()) != 0:
            super().apply(module)


class ForgetsOnLoad(Scales):
    """Changes what no file of weights holds."""

    kind = "forgets-on-load"

    def apply(self, module):
        if not module.classifier.weight.is_meta:
            module.classifier.register_forward_hook(lambda _module, _inputs, output: 2 * output)


class RefusesAnyhow(Scales):
    """Runs into an AttributeError where it does not fit."""

    kind = "refuses-anyhow"

    def apply(self, module):
        module.classifier.weight.data.mul_(2)


ERNIE_BACKWARDS = Row(
    **{name: getattr(BERT, name) for name in BERT.__dataclass_fields__}
    | {"family": "ernie", "model_types": ("ernie",), "trunks": ("", "ernie"), "up": BERT.down, "down": BERT.up}
)


class LeadsNowhere(Format):
    """Stands below a format that there is none of."""

    name = "leads-nowhere"
    above = "nowhere"

    def lower(self, artifact, out, *, task, dialect):
        raise NotImplementedError


class CountsItself(Format):
    """Writes down how often it was called."""

    name = "counts-itself"
    above = "torch"
    calls = 0

    def lower(self, artifact, out, *, task, dialect):
        import shutil

        shutil.copytree(artifact.path, out, dirs_exist_ok=True)
        CountsItself.calls += 1
        (out / "calls.txt").write_text(str(CountsItself.calls))
