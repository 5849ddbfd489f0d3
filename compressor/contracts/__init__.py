"""What a plug-in author imports: the steps of a plan, and what the core hands to them and expects back.

Light on purpose (no torch, numpy, onnx): a plan is checked with nothing but this and the modules of the steps it names.
"""

from compressor.contracts.features import Feature, FeatureKind, Outputs, Want
from compressor.contracts.graph import Feed, Graph, Port, Session
from compressor.contracts.library import Library, Loaded
from compressor.contracts.model import Component, Edit, Model
from compressor.contracts.passes import Context, Needs, Objective, Pass, Size
from compressor.contracts.probe import Bench, Candidate, Probe, Worker
from compressor.contracts.records import Workload
from compressor.contracts.step import Event, Message, Progress, Step
from compressor.contracts.target import Artifact, Dialect, Missing, Rung, Scheme, Target
from compressor.contracts.task import Batch, Columns, Data, Evaluation, Measure, Task

__all__ = [
    "Artifact",
    "Batch",
    "Bench",
    "Candidate",
    "Columns",
    "Component",
    "Context",
    "Data",
    "Dialect",
    "Edit",
    "Evaluation",
    "Event",
    "Feature",
    "FeatureKind",
    "Feed",
    "Graph",
    "Library",
    "Loaded",
    "Measure",
    "Message",
    "Missing",
    "Model",
    "Needs",
    "Objective",
    "Outputs",
    "Pass",
    "Port",
    "Probe",
    "Progress",
    "Rung",
    "Scheme",
    "Session",
    "Size",
    "Step",
    "Target",
    "Task",
    "Want",
    "Worker",
    "Workload",
]
