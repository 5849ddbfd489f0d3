"""Reports of earlier versions, read as if this program had written them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = dict[str, Any]


def upgraded(values: Any) -> Any:
    """The values of a `report.json` in the form of the present version; whatever else they are, as they are.

    Raises:
        AttributeError, KeyError, TypeError: it says that it is of version 1, and is not.
    """
    if not (isinstance(values, dict) and values.get("version") == 1):
        return values
    return {**_second(values), "version": 2}


def _second(values: Values) -> Values:
    """Version 2 names the workload that something was measured at, where version 1 had a batch and a length, and holds a
    difference by every metric, where version 1 had the main one's in points."""
    held = {name: [_with_differences(each) for each in values.get(name, ())] for name in ("stages", "candidates")}
    return {**values, **held, "probes": [_measured(record) for record in values.get("probes", ())]}


def _with_differences(values: Mapping[str, Any]) -> Values:
    rest = {name: value for name, value in values.items() if name != "difference"}
    if not (difference := values.get("difference")):
        return rest
    metric = {"metric": values["scores"]["metric"], "change": difference["points"]}
    return {**rest, "differences": [{name: value for name, value in difference.items() if name != "points"} | metric]}


def _measured(record: Mapping[str, Any]) -> Values:
    if "notes" in record:
        return {"kind": "notes", **record}
    rows = {name: [_at_workload(row) for row in record[name]] for name in ("rows", "ratios", "controls") if name in record}
    return {"kind": "times" if "ratios" in record else "peaks", **record, **rows}


def _at_workload(row: Mapping[str, Any]) -> Values:
    rest = {name: value for name, value in row.items() if name not in ("batch", "length")}
    return {**rest, "workload": {"batch": row["batch"], "length": row["length"]}}
