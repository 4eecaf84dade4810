"""The drift between two runs as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def drift_tables(drift: Mapping[str, Any]) -> list[Table]:
    """The data's table and the intents' one, from what `elcrec_tf.reporting.drift.measure_drift` found."""
    return [_data_table(drift), _intent_table(drift)]


def _data_table(drift: Mapping[str, Any]) -> Table:
    data, items = drift["data"], drift["data"]["items"]
    table = Table(title=f"from {drift['old']} to {drift['new']}")
    table.add_column("data")
    table.add_column("", justify="right")
    table.add_row("items known / new / gone", f"{items['known']:,} / {items['new']:,} / {items['gone']:,}")
    table.add_row("share of events on new items", f"{data['events_on_new_items']:.2%}")
    table.add_row("divergence of item popularity (0 to 1)", f"{data['popularity_divergence']:.4f}")
    if "users" in data:
        users, events = data["users"], data["events_in_training"]
        table.add_row("users", f"{users['old']:,} -> {users['new']:,}")
        if users["share_new"] is not None:
            table.add_row("share of users who are new", f"{users['share_new']:.2%}")
        for name, of_both in {name: [events[side][name] for side in ("old", "new")] for name in ("mean", "median", "p90")}.items():
            table.add_row(f"training events of a user, {name}", " -> ".join(f"{value:.1f}" for value in of_both))
    if drift["shared_items_cosine"] is not None:
        table.add_row(f"known items' vectors, mean cosine (by {drift['aligned_by']})", f"{drift['shared_items_cosine']:.3f}")
    return table


def _intent_table(drift: Mapping[str, Any]) -> Table:
    intents = drift["intents"]
    kept, died, appeared = (intents[name] for name in ("kept", "died", "appeared"))
    table = Table(title=f"intents: {len(kept)} kept, {len(died)} died, {len(appeared)} appeared")
    for name in ("intent", "cosine", "share of users", "typical items"):
        table.add_column(name, justify="left" if name in ("intent", "typical items") else "right")
    for one in died:
        table.add_row(f"{one['intent']} died", "", f"{_share(one)} ->", _items(one))
    for one in appeared:
        table.add_row(f"{one['intent']} appeared", "", f"-> {_share(one)}", _items(one))
    for pair in kept:
        old, new = pair["old"], pair["new"]
        name = str(old["intent"]) if old["intent"] == new["intent"] else f"{old['intent']} -> {new['intent']}"
        table.add_row(name, f"{pair['cosine']:.3f}", f"{_share(old)} -> {_share(new)}", _items(new))
    return table


def _share(intent: Mapping[str, Any]) -> str:
    return "?" if intent["share"] is None else f"{intent['share']:.1%}"


def _items(intent: Mapping[str, Any]) -> str:
    return ", ".join(raw if title is None else f"{raw} ({title})" for raw, title in zip(intent["items"], intent["titles"], strict=True))
