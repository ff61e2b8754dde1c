"""The table that ``print(handle)`` shows: nothing else in a training loop says that a rule is on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feedalign.advice import behind_convolutions

if TYPE_CHECKING:
    from feedalign.attach import Attachment
    from feedalign.delivery import Planner


def summary(attachment: Attachment) -> str:
    """Return one line a point or layer: its shape, its feedback, and where the error is tapped."""
    model = type(attachment.model).__name__
    title = f"{attachment.rule!r} on {model}"
    if not attachment.points and not attachment.carriers:
        return f"{title}: nothing is cut, the model trains by backpropagation"
    if not attachment._on:
        title += " (off: the model trains by backpropagation)"
    tables = []
    if attachment.points:
        tap = attachment.output or "the return value"
        tables.append(table([("point", "shape", "feedback", "error from"), *_rows(attachment, tap)]))
    if attachment.carriers:
        tables.append(table([("layer", "weight", "gradient passes back by"), *_layer_rows(attachment)]))
    notes = [note for planner in attachment.planners for note in planner.rule.feedback.notes()]
    return "\n".join([title, *tables, *notes]) + _note(attachment)


def table(rows: list[tuple[str, ...]]) -> str:
    """Return rows of text as aligned columns, the first row as the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _rows(attachment: Attachment, tap: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for point in attachment.points:
        planner = attachment.planner_of(point)
        if planner is None:
            rows.append((str(point), "?", "no signal", tap))
        elif planner.error_width is None:
            rows.append((str(point), "?", "?", tap))
        else:
            own = [key for key in planner.layouts if key.split("#")[0] == str(point) or key.startswith(f"{point}[")]
            rows += [_row(planner, key, tap) for key in own] or [(str(point), "has not run", "no signal", tap)]
    return rows


def _row(planner: Planner, key: str, tap: str) -> tuple[str, ...]:
    layout, feedback = planner.layouts[key], planner.rule.feedback
    shape = str(list(layout.shape))
    if key in planner.silent:
        return key, shape, "no signal: frozen below, or cut inside", tap
    matrix = f"{type(feedback).__name__.lower()} [{planner.error_width}, {layout.site.columns}]"
    scale = f" x {feedback.factor(layout.site.width, planner.widest().width):.3g}"
    how = ", learned" if planner.rule.learns else ", shared" if feedback.shared else ""
    repeated = ", repeated over positions" if layout.repeated else ""
    return key, shape, f"{matrix}{scale}{how}{repeated}", tap


def _layer_rows(attachment: Attachment) -> list[tuple[str, ...]]:
    return [
        (weight.name, "?" if (shape := carrier.shape(key)) is None else str(list(shape)), weight.rule.carries)
        for carrier in attachment.carriers
        for key, weight in carrier.weights.items()
    ]


def _note(attachment: Attachment) -> str:
    notes = []
    if any(planner.error_width is None for planner in attachment.planners):
        notes.append("(shapes are known after a forward pass)")
    elif attachment.last is not None:
        notes.append(f"(norm of the last error: {attachment.last.error.item():.3g})")
    for planner in attachment.planners:
        served = [point for point in attachment.points if attachment.planner_of(point) is planner]
        if line := behind_convolutions(attachment.model, served, planner.rule):
            notes.append(line)
    return "".join(f"\n{note}" for note in notes)
