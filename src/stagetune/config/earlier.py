"""Configurations that earlier versions stored, in which every group had every setting of every option. No torch."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from stagetune.config.parts import PACKAGES, archs, names, part


def translated(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same as it is said now: the family of the backbone named, and without what the chosen parts never read."""
    found, model = dict(values), values.get("model")
    if not isinstance(model, Mapping) or "name" in model or "arch" not in model:
        return found
    found["model"] = {**model, "name": _family(str(model["arch"]))}
    for group in PACKAGES:
        given = found.get(group)
        if isinstance(given, Mapping) and given.get("name") in names(PACKAGES[group]):
            read = {entry.name for entry in fields(part(group, given["name"]))}  # type: ignore[arg-type]
            found[group] = {key: value for key, value in given.items() if key in read}
    if isinstance(task := found.get("task"), Mapping) and task.get("name") == "siamese":
        found["task"] = {
            key: value for key, value in task.items() if key != "head"
        }  # a classifier's: theirs was hidden
    return found


def _family(arch: str) -> str:
    """The family that has an architecture of that name; the name itself where none has."""
    return next((name for name in names(PACKAGES["model"]) if arch in archs(name)), arch)
