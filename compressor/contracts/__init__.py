"""What a plug-in author imports: the steps of a plan, and what the core hands to them and expects back.

Light on purpose (no torch, numpy, onnx): a plan is checked with nothing but this and the modules of the steps it names.
"""

from typing import TYPE_CHECKING

from compressor.contracts.data import Columns, Data
from compressor.contracts.evaluation import Evaluation, Measure
from compressor.contracts.features import Feature, FeatureKind, Outputs, Want
from compressor.contracts.graph import Feed, Graph, Growth, Port, Session
from compressor.contracts.library import Library, Loaded
from compressor.contracts.model import Component, Edit, Model
from compressor.contracts.passes import Context, Needs, Objective, Pass, Size
from compressor.contracts.probe import Bench, Candidate, Probe, Worker
from compressor.contracts.profiles import Family, OperatorTime, Peaks, Prepare, Profile
from compressor.contracts.recipe import Column, Epoch, InputSizes, Recipe, Seen, sizes_of
from compressor.contracts.records import Workload
from compressor.contracts.renamed import old_names
from compressor.contracts.seeds import derived_seed
from compressor.contracts.step import Event, Message, Progress, Step
from compressor.contracts.target import Artifact, Dialect, Format, Missing, Runtime, Scheme, Target
from compressor.contracts.task import Batch, Deployment, Prediction, Task, Witnessed
from compressor.contracts.tokens import Later, LikeliestLogits, TokenLogits
from compressor.contracts.wish import Wish

__all__ = [
    "Artifact",
    "Batch",
    "Bench",
    "Candidate",
    "Column",
    "Columns",
    "Component",
    "Context",
    "Data",
    "Deployment",
    "Dialect",
    "Edit",
    "Epoch",
    "Evaluation",
    "Event",
    "Family",
    "Feature",
    "FeatureKind",
    "Feed",
    "Format",
    "Graph",
    "Growth",
    "InputSizes",
    "Later",
    "Library",
    "LikeliestLogits",
    "Loaded",
    "Measure",
    "Message",
    "Missing",
    "Model",
    "Needs",
    "Objective",
    "OperatorTime",
    "Outputs",
    "Pass",
    "Peaks",
    "Port",
    "Prediction",
    "Prepare",
    "Probe",
    "Profile",
    "Progress",
    "Recipe",
    "Runtime",
    "Scheme",
    "Seen",
    "Session",
    "Size",
    "Step",
    "Target",
    "Task",
    "TokenLogits",
    "Want",
    "Wish",
    "Witnessed",
    "Worker",
    "Workload",
    "derived_seed",
    "sizes_of",
]

if not TYPE_CHECKING:  # a type checker would believe that every name is there
    __getattr__ = old_names(__name__, {"Rung": "Format"}, globals())
