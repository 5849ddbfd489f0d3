"""A plan without faults, of the toys."""

from __future__ import annotations

SOUND = """\
seed: 3
model: {folder: model}
task:
  toy-task: {max_length: 16}
data: {files: rows.csv}
reference: toy-train
passes:
  - toy-train: {epochs: 2}
  - toy-shrink:
    gate: {max_drop: 5}
  - toy-train: {teacher: toy-train, objectives: {toy-loss: 1.0}}
    name: learn
  - toy-round: {bits: 4}
    only: [toy-runtime, device]
targets:
  - toy-eager
  - toy-runtime: {threads: 2}
  - toy-device:
    name: device
probes:
  - toy-clock
accept:
  - {target: device, max_drop: 1, max_size: 0.25}
"""
