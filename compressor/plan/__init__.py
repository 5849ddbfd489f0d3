"""A plan: read, checked whole, bound to the plug-ins that it names."""

from compressor.plan.bound import Bound, load_plan

__all__ = ["Bound", "load_plan"]
