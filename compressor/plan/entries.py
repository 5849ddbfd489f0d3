"""One entry of `passes:`, `targets:` or `probes:`: a plug-in's name, its parameters, and the keys beside it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from compressor.errors import Fault, did_you_mean
from compressor.plan.specs import EntryKeys, StepKeys
from compressor.plan.yaml_source import Located

KEYS: dict[str, type[EntryKeys]] = {"passes": StepKeys, "targets": EntryKeys, "probes": EntryKeys}
"""Sections whose entries are plug-ins, and what may stand beside the plug-in."""

KINDS = {"passes": "pass", "targets": "target", "probes": "probe"}

MAX_ENTRIES = 1000
"""Entries of one section; checks across them take time by the square of it."""


def keys_of(section: str) -> frozenset[str]:
    """Names of the keys that may stand beside the plug-in."""
    return frozenset(field.alias or name for name, field in KEYS[section].model_fields.items())


def as_mapping(section: str, item: Located) -> Located:
    """`- memory` and `- memory:` written out as `- memory: {}`."""
    if isinstance(item.data, str):
        item = replace(item, data={item.data: replace(item, data=None)})
    plain = keys_of(section)
    return replace(
        item,
        data={
            key: replace(value, data={}) if value.data is None and key not in plain else value
            for key, value in item.items().items()
        },
    )


def name_of(section: str, item: Located) -> str:
    """The name that an entry goes by: its `name:`, else its plug-in's; empty where it has neither."""
    entries = as_mapping(section, item).items()
    given = entries.get("name")
    if given is not None and isinstance(given.data, str):
        return given.data
    return next((key for key in entries if key not in keys_of(section)), "")


@dataclass(frozen=True)
class Entry:
    """An entry as written: which plug-in, its parameters, the keys beside it, and how messages call it."""

    plugin: str
    name: str
    where: str
    parameters: Located
    beside: Located


def read_entry(section: str, index: int, item: Located, known: Iterable[str]) -> tuple[Entry | None, tuple[Fault, ...]]:
    """Take an entry apart; `known` are the plug-ins that are installed."""
    where = f"{section}.{name_of(section, item)}" if name_of(section, item) else f"{section}[{index}]"
    if not isinstance(item.data, str | dict):
        return None, (item.fault(where, f"found {item}, expected the name of a {KINDS[section]}, alone or with its parameters"),)
    item = as_mapping(section, item)
    plugins = {key: value for key, value in item.items().items() if key not in keys_of(section)}
    beside = {key: value for key, value in item.items().items() if key in keys_of(section)}
    chosen = next((key for key in plugins if key in set(known)), next(iter(plugins), None))
    faults = [*_strangers(section, where, plugins, chosen, known)]
    if chosen is None:
        return None, (item.fault(where, f"names no {KINDS[section]}{did_you_mean('', known)}"),)
    entry = Entry(chosen, name_of(section, item) or chosen, where, plugins[chosen], replace(item, data=beside))
    return entry, tuple(faults)


def _strangers(
    section: str, where: str, plugins: dict[str, Located], chosen: str | None, known: Iterable[str]
) -> Iterable[Fault]:
    """Keys that are neither the plug-in nor may stand beside it."""
    for key, value in plugins.items():
        if key in set(known) and key != chosen:
            yield value.fault(where, f"names two, '{chosen}' and '{key}'; begin each {KINDS[section]} with its own dash")
        elif key != chosen:
            what = f"no such key beside '{chosen}'{did_you_mean(key, keys_of(section))}; its parameters stand inside '{chosen}:'"
            yield value.fault(f"{where}.{key}", what)
