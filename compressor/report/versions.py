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
    """Version 2 names the workload of a measurement, where version 1 had a batch and a length, and holds differences by metric."""
    return {
        **values,
        "probes": [_measured(record) for record in values.get("probes", ())],
        **{name: [_by_metric(each) for each in values.get(name, ())] for name in ("stages", "candidates")},
        "verdicts": [_about(verdict, _metric(values)) for verdict in values.get("verdicts", ())],
    }


def _by_metric(held: Mapping[str, Any]) -> Values:
    """A stage or candidate: its one difference was by the main metric, in points."""
    found, metric = held.get("difference"), (held.get("scores") or {}).get("metric", "")
    rest = {name: value for name, value in held.items() if name != "difference"}
    if "verdicts" in rest:
        rest["verdicts"] = [_about(verdict, metric) for verdict in rest["verdicts"]]
    if found is None:
        return rest
    kept = {name: value for name, value in found.items() if name != "points"}
    return {**rest, "differences": [{**kept, "metric": metric, "change": found["points"], "unit": "points"}]}


def _about(verdict: Mapping[str, Any], metric: str) -> Values:
    return {**verdict, **({"metric": metric} if verdict["quantity"] == "max_drop" else {})}


def _metric(values: Values) -> str:
    return next((each["scores"]["metric"] for each in values.get("candidates", ()) if each.get("scores")), "")


def _measured(record: Mapping[str, Any]) -> Values:
    if "notes" in record:
        return {"kind": "notes", **record}
    rows = {name: [_at_workload(row) for row in record[name]] for name in ("rows", "ratios", "controls") if name in record}
    return {"kind": "times" if "ratios" in record else "peaks", **record, **rows}


def _at_workload(row: Mapping[str, Any]) -> Values:
    rest = {name: value for name, value in row.items() if name not in ("batch", "length")}
    return {**rest, "workload": {"batch": row["batch"], "length": row["length"]}}
