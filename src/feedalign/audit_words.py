"""The findings of an audit in plain words: what, where, how much, and what to try."""

import math
from collections.abc import Iterator, Sequence

from feedalign.advice import Untried
from feedalign.audit_depth import Batch
from feedalign.audit_trials import Trials

FAR = 30.0
"""A factor between two sizes that is worth a sentence: no one learning rate suits both."""
FLAT = 0.05
"""A cosine up to it is a step across the slope or uphill."""
HALF = 0.5
"""A share of backpropagation's gain below which the rule is said to come short."""
DEAD = 0.25
"""A share of dead units that is worth a sentence."""


def findings(before: Batch, after: Batch | None, trials: Trials | None, kind: str, untried: Untried) -> tuple[str, ...]:
    """Return what is wrong, or one sentence that says that nothing is.

    Args:
        before: The batch, in the state that the model is in.
        after: The same batch after the rule's own training.
        trials: The trainings.
        kind: What the depths are called: ``"points"``, ``"layers"``, or ``"places"`` for both.
        untried: What may be advised.
    """
    now = after or before
    found = [
        *_nothing(before, kind),
        *([] if trials is None else _compared(trials, before, kind, untried)),
        *_directions(now, kind, untried, trained=after is not None),
        *_sizes(before, kind),
        *_dead(now, kind, untried),
        *_errors(before),
    ]
    return tuple(found) or (_well(now, trials, kind),)


def places(batch: Batch, chosen: Sequence[int], kind: str) -> str:
    """Return ``"points 1-3 (conv1 to conv3)"`` for the numbers ``[0, 1, 2]``."""
    runs: list[list[int]] = []
    for i in chosen:
        if runs and runs[-1][-1] == i - 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    numbers = ", ".join(str(run[0] + 1) if len(run) == 1 else f"{run[0] + 1}-{run[-1] + 1}" for run in runs)
    names = ", ".join(
        batch.depths[run[0]].name + (f" to {batch.depths[run[-1]].name}" if len(run) > 1 else "") for run in runs
    )
    return f"{kind if len(chosen) > 1 else kind.removesuffix('s')} {numbers} ({names})"


def _verb(chosen: Sequence[int], several: str, one: str) -> str:
    return several if len(chosen) > 1 else one


def _begin(text: str) -> str:
    return text[0].upper() + text[1:]  # capitalize() would change names


def _nothing(batch: Batch, kind: str) -> Iterator[str]:
    advice = {
        "its signal is zero": "Look at the rule's options, and at whether the loss depends on the output.",
        "it did not run": "Take it out of points=, or look at why the forward pass leaves it out.",
        "its rule delivers nothing": "That is so by choice of the rule for it.",
        "no output belongs to it": "Name an output that runs after it: output=.",
    }
    for reason in dict.fromkeys(depth.nothing for depth in batch.depths if depth.nothing):
        chosen = [i for i, depth in enumerate(batch.depths) if depth.nothing == reason]
        why = reason.replace("its ", "their ").replace("it ", "they ") if len(chosen) > 1 else reason
        why = why.replace("their signal is", "their signals are").replace("their rule delivers", "their rules deliver")
        frozen = "If that is not meant, set requires_grad_(True) on what lies below."
        where = _begin(places(batch, chosen, kind))
        yield f"{where} {_verb(chosen, 'receive', 'receives')} nothing: {why}. {advice.get(reason, frozen)}"


def _compared(trials: Trials, batch: Batch, kind: str, untried: Untried) -> Iterator[str]:
    rule, backprop, shallow, untrained = trials.rule, trials.backprop, trials.shallow, trials.untrained
    active = [i for i, depth in enumerate(batch.depths) if not depth.nothing]
    if not active:
        return
    everywhere = places(batch, active, kind)
    if not math.isfinite(rule.mean):
        yield (
            f"The rule's training diverged within {trials.steps} steps. Lower the learning rate, clip the gradients, "
            "or lower the gain of the feedback."
        )
        return
    if not trials.worse(untrained, backprop):
        yield (
            f"In {trials.steps} steps not even backpropagation lowers the loss ({untrained} untrained, {backprop} "
            "trained), so this run cannot judge the rule. Try more steps or another learning rate."
        )
        return
    if not trials.worse(shallow, backprop):
        yield (
            f"Shallow training does as well as backpropagation here ({shallow} against {backprop}), so this run cannot "
            "show what the lower layers learn. Try more steps, more data, or a harder task."
        )
        return
    loss = f"{shallow} shallow, {rule} by the rule, {backprop} by backpropagation"
    learn = _verb(active, "learn", "learns")
    if trials.worse(rule, shallow):
        yield (
            f"The rule does worse than shallow training: the loss is {loss}. What {everywhere} "
            f"{_verb(active, 'receive', 'receives')} does harm. Try a lower learning rate or gain"
            f"{', and tanh for ReLU' if untried.relu else ''}."
        )
    elif not trials.worse(shallow, rule):
        yield (
            f"{_begin(everywhere)} {learn} nothing: shallow does as well (the loss is {loss}). "
            f"{_advice(batch, active, untried)}"
        )
    else:
        yield from _in_part(trials, batch, active, kind, untried)


def _in_part(trials: Trials, batch: Batch, active: list[int], kind: str, untried: Untried) -> Iterator[str]:
    """Say which depths are idle, and how far the rule comes, for one that beats shallow training."""
    if trials.idle:
        low = active[: trials.idle]
        yield (
            f"{_begin(places(batch, low, kind))} {_verb(low, 'learn', 'learns')} nothing: without "
            f"{_verb(low, 'their signals', 'its signal')} the loss is {trials.without[trials.idle]}, with "
            f"{_verb(low, 'them', 'it')} {trials.rule}. {_advice(batch, low, untried)}"
        )
    if (share := _share(trials)) < HALF:
        yield (
            f"The rule beats shallow training ({trials.shallow}), but its loss of {trials.rule} is only {share:.0%} of "
            f"the way from there to backpropagation's {trials.backprop}. Try more steps, or another learning rate for "
            "the rule: here all trainings used the same."
        )


def _directions(batch: Batch, kind: str, untried: Untried, trained: bool) -> Iterator[str]:
    chosen = [i for i, depth in enumerate(batch.depths) if depth.descent <= FLAT]
    if not chosen:
        return
    cosines = ", ".join(f"{batch.depths[i].descent:+.2f}" for i in chosen)
    advice = _advice(batch, chosen, untried)
    if not trained:
        advice = f"Before training random feedback does no better: audit again with steps=. {advice}"
    yield (
        f"The {_verb(chosen, 'steps', 'step')} of {places(batch, chosen, kind)} "
        f"{_verb(chosen, 'lead', 'leads')} hardly or not at all down the slope of the loss: the cosine with "
        f"backpropagation's is {cosines}. {advice}"
    )


def _advice(batch: Batch, chosen: Sequence[int], untried: Untried) -> str:
    depths = [batch.depths[i] for i in chosen]
    weakest = min((depth.ratio for depth in depths if math.isfinite(depth.ratio)), default=1.0)
    if weakest < 1 / FAR:
        return (
            f"Signals there are as small as {weakest:.1g} times the true gradient: try a larger gain= of the feedback."
        )
    if any(depth.flattened for depth in depths):
        or_macro = ", or points='macro'" if untried.macro else ""
        return f"Try feedback=feedalign.Uniform(positions='repeat'), which suits convolutions{or_macro}."
    advice = ["more steps"]
    advice += ["fewer points (points='macro')"] * untried.macro
    advice += ["a learned feedback (DKP, KolenPollack)"] * untried.learned
    advice += ["tanh for ReLU"] * untried.relu
    *first, last = advice
    return f"Try {', '.join(first)}{', or ' if len(first) > 1 else ' or ' if first else ''}{last}."


def _sizes(batch: Batch, kind: str) -> Iterator[str]:
    for what, name in (("activation", "activations"), ("signal", "signals")):
        growth = batch.growth(what)
        change = growth if what == "activation" else 1 / growth
        if not math.isfinite(change) or 1 / FAR <= change <= FAR:
            continue
        if what == "activation":
            way, advice = "upwards", "Try another initialisation, or a normalisation."
        else:
            way = f"downwards (backpropagation's: {1 / batch.growth('truth'):.2g})"
            advice = "Try another gain= of the feedback."
        end = "explode" if change > 1 else "vanish"
        yield f"The {name} {end}: over {len(batch.depths)} {kind} by a factor of {change:.2g} {way}. {advice}"
    ratios = {i: depth.ratio for i, depth in enumerate(batch.depths) if math.isfinite(depth.ratio) and depth.ratio > 0}
    far = [i for i, ratio in ratios.items() if not 1 / FAR <= ratio <= FAR]
    if far:
        found = [ratios[i] for i in far]
        sizes = f"{found[0]:.2g}" if len(far) == 1 else f"{min(found):.2g} to {max(found):.2g}"
        yield (
            f"The {_verb(far, 'signals', 'signal')} at {places(batch, far, kind)} {_verb(far, 'are', 'is')} {sizes} "
            "times as large as the true gradient, so a learning rate that suits the rest does not suit what lies "
            "below. Try gain= of the feedback, or an optimiser that adapts to sizes (Adam)."
        )


def _dead(batch: Batch, kind: str, untried: Untried) -> Iterator[str]:
    chosen = [i for i, depth in enumerate(batch.depths) if depth.dead >= DEAD]
    if chosen:
        most = max(batch.depths[i].dead for i in chosen)
        yield (
            f"At {places(batch, chosen, kind)} up to {most:.0%} of the units are dead: the same for every row of the "
            f"batch. Try a lower learning rate, {'tanh or LeakyReLU for ReLU, ' if untried.relu else ''}or a "
            "normalisation in front of it."
        )


def _errors(batch: Batch) -> Iterator[str]:
    if batch.rows and batch.zero_error == batch.rows:
        yield "Every row has zero error, so nothing is learned at all: the batch is masked, or fitted exactly."
    elif batch.zero_error * 2 >= batch.rows > 0:
        yield f"{batch.zero_error} of {batch.rows} rows have zero error (masked, or fitted exactly) and teach nothing."


def _well(batch: Batch, trials: Trials | None, kind: str) -> str:
    measured = [i for i, depth in enumerate(batch.depths) if math.isfinite(depth.descent)]
    if not measured:
        return "There is nothing to judge: no parameters lie below what the rule delivers to."
    least = min((batch.depths[i] for i in measured), key=lambda depth: depth.descent)
    said = (
        f"All is well: {_verb(measured, 'the steps', 'the step')} of {places(batch, measured, kind)} "
        f"{_verb(measured, 'go', 'goes')} down the slope (the least at {least.name}, cosine {least.descent:+.2f}), and "
        "no size stands out."
    )
    if trials is None:
        return said + " That is one batch: steps= compares with backpropagation and shallow training."
    return f"{said} Of what backpropagation gains over shallow training, the rule reaches {_share(trials):.0%}."


def _share(trials: Trials) -> float:
    return (trials.shallow.mean - trials.rule.mean) / (trials.shallow.mean - trials.backprop.mean)
