"""The table that ``print(handle)`` shows: nothing else in a training loop says that a rule is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feedalign.rules import BroadcastRule

if TYPE_CHECKING:
    from feedalign.attach import Attachment


def summary(attachment: Attachment) -> str:
    """Return one line a point: its shape, its feedback, and where the error is tapped."""
    model = type(attachment.model).__name__
    title = f"{attachment.rule!r} on {model}"
    if not attachment.rule.cuts:
        return f"{title}: nothing is cut, the model trains by backpropagation"
    if not attachment._on:
        title += " (off: the model trains by backpropagation)"
    tap = "the return value" if attachment.output is None else attachment.output
    rows = [("point", "shape", "feedback", "error from"), *_rows(attachment, tap)]
    return f"{title}\n{table(rows)}{_note(attachment)}"


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows of text as aligned columns, the first row as the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _rows(attachment: Attachment, tap: str) -> list[tuple[str, ...]]:
    planner = attachment.planner
    if planner is None or planner.error_width is None:
        feedback = "?" if attachment.rule.delivers else "no signal"
        return [(str(point), "?", feedback, tap) for point in attachment.points]
    assert isinstance(attachment.rule, BroadcastRule)
    feedback_of = attachment.rule.feedback
    layouts = list(planner.layouts.values())
    factors = [feedback_of.factor(layout.site.width, planner.widest().width) for layout in layouts]
    family = type(feedback_of).__name__.lower()
    rows: list[tuple[str, ...]] = []
    for layout, factor in zip(layouts, factors, strict=True):
        if layout.site.key in planner.silent:
            rows.append((layout.site.key, str(list(layout.shape)), "no signal: frozen below, or cut inside", tap))
            continue
        how = ", shared" if feedback_of.shared else ""
        repeated = ", repeated over positions" if layout.view != layout.shape else ""
        text = f"{family} [{planner.error_width}, {layout.site.columns}] x {factor:.3g}{how}{repeated}"
        rows.append((layout.site.key, str(list(layout.shape)), text, tap))
    ran = {layout.site.key.split("#")[0] for layout in layouts}
    for point in attachment.points:
        if not any(name == str(point) or name.startswith(f"{point}[") for name in ran):
            rows.append((str(point), "has not run", "no signal", tap))
    return rows


def _note(attachment: Attachment) -> str:
    if attachment.planner is not None and attachment.planner.error_width is None:
        return "\n(shapes are known after a forward pass)"
    if attachment.last is None:
        return ""
    return f"\n(norm of the last error: {attachment.last.error.item():.3g})"
