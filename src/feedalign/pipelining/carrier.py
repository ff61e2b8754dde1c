"""DFA under torch's own schedules: the error comes back as the gradient of a tensor that travels with activations."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import FunctionCtx

from feedalign.errors import PointsError, SignalError
from feedalign.observe import undisturbed
from feedalign.pipelining.agreement import agreement, check, gather
from feedalign.pipelining.link import Send, may_send_product
from feedalign.pipelining.part import Part
from feedalign.points import Points, select
from feedalign.rules import Rule

Pending = tuple[list[Tensor], list[Tensor], Tensor]
"""A backward pass that is due: where it begins, the gradients there, and what arrived."""


class _Relay(torch.autograd.Function):
    """The identity on what is carried; backward hands the gradient to the stage and passes it on."""

    @staticmethod
    def forward(take: Callable[[Tensor], Tensor], passed: Tensor, port: Tensor) -> Tensor:
        return passed.view_as(passed)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.take = inputs[0]  # type: ignore[attr-defined]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.take(gradient)


class Carried(nn.Module):
    """One stage as torch's schedules run it: it takes activations and a port, and returns activations and a port.

    Give it to ``PipelineStage`` with ``dw_builder=carried.dw_builder``. What torch takes for the gradient of the inputs
    only passes the error on; what it takes for the gradients of the weights is the whole backward pass of the stage. So
    a zero-bubble schedule puts it where it would have had a bubble. Made by :func:`carry`.
    """

    def __init__(self, own: Part, stages: int) -> None:
        super().__init__()
        self.part = own.module
        self._own, self._stages = own, stages
        self._pending: Pending | None = None

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return what the part returns, with the port behind it; the last stage returns its output alone.

        Args:
            given: What the part takes; behind it the port, except on the first stage.
            named: What the part takes by name.
        """
        own, first, last = self._own, self._own.index == 0, self._own.index == self._stages - 1
        agreed = own.link.agreed
        assert agreed is not None
        if first:
            port = torch.zeros((), dtype=agreed.dtype, device=own.device).expand(agreed.shape)
            port = port.contiguous().requires_grad_(torch.is_grad_enabled())
        else:
            *given_list, port = given
            given = tuple(given_list)
        if not torch.is_grad_enabled():
            output = self.part(*given, **named)
            return output if last else (*_tuple(output), port)
        output = own.run(lambda: self.part(*given, **named))
        if last:
            if not isinstance(output, Tensor):
                raise SignalError(f"The last stage expected to return one tensor, found {type(output).__name__}.")
            return _Relay.apply(self._at_output(output), output.detach(), port)  # type: ignore[no-untyped-call]
        start = own.port
        passed = _Relay.apply(self._at_port(start), port, port)  # type: ignore[no-untyped-call]
        return (*_tuple(output), passed)

    def dw_builder(self) -> Callable[..., None]:
        """Return the backward pass of the micro-batch whose error has arrived last."""
        pending, self._pending = self._pending, None

        def run(*_: Any) -> None:
            if pending is not None:
                self._own.backward(*pending)

        return run

    def _at_port(self, start: Tensor | None) -> Callable[[Tensor], Tensor]:
        def take(arrived: Tensor) -> Tensor:
            if start is not None and start.requires_grad:
                size = torch.linalg.vector_norm(arrived, dim=1)
                self._pending = ([start], [size.reshape(start.shape)], arrived)
            return arrived

        return take

    def _at_output(self, output: Tensor) -> Callable[[Tensor], Tensor]:
        def take(error: Tensor) -> Tensor:
            agreed = self._own.link.agreed
            assert agreed is not None
            arrived = self._own.link.outgoing(error.reshape(agreed.shape[0], agreed.width))
            if output.requires_grad:
                self._pending = ([output], [error], arrived)
            return arrived

        return take


def carry(
    parts: Mapping[int, nn.Module],
    rule: Rule,
    points: Points,
    *,
    stages: int,
    example: Any = None,
    send: Send = "auto",
    device: torch.device | None = None,
    group: distributed.ProcessGroup | None = None,
) -> dict[int, Carried]:
    """Return the stages of this process for torch's own schedules: GPipe, 1F1B, Interleaved, zero-bubble, ZBV.

    It is for who must keep such a schedule; :class:`ScheduleDFA` is faster. A port of the error's size goes along with
    the activations, and the error comes back as its gradient, from stage to stage through the queue of each. All
    processes call it, and pass one micro-batch through all stages, to learn the points of each. torch 2.13 or newer.

    Args:
        parts: The parts of this process by the number of their stage; several for schedules that interleave.
        rule: What flows backward, the same rule on every stage.
        points: Where each part is cut, by name, as for :class:`Stage`. Names that match nothing in the last part are
            left out.
        stages: How many there are, over all processes.
        example: One micro-batch, on the process that has stage 0: a tensor, or a tuple of arguments.
        send: What travels, as for :class:`ScheduleDFA`.
        device: Where the parts compute; by default where their parameters are.
        group: The processes of the pipeline; by default all.

    Returns:
        Modules by stage, for ``PipelineStage(carried[i], i, stages, device, dw_builder=carried[i].dw_builder)``.

    Raises:
        PointsError: The rule cannot work on a part alone, or sends targets; or what ``attach`` raises.
        SignalError: The stages do not fit together, or one is missing.
        ValueError: ``send`` is not possible.

    Example:
        >>> carried = carry({rank: part}, feedalign.DFA(seed=0), "layers.*", stages=world, example=x[:4])
        >>> stage = PipelineStage(carried[rank], rank, world, device, dw_builder=carried[rank].dw_builder)
        >>> schedule = Schedule1F1B(stage, n_microbatches=8, loss_fn=loss_fn)
    """
    where = group or distributed.group.WORLD
    assert where is not None
    made: dict[int, Part] = {}
    for index, module in sorted(parts.items()):
        place = device or next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        last = index == stages - 1
        chosen: Points = () if last and not any(_matches(module, points)) else points
        made[index] = Part(module, rule, chosen, index, last, place)
    some = next(iter(made.values())).link.rule
    if some.targeted:
        raise PointsError(
            f"{type(some).__name__} sends targets, which torch's schedules give to the last stage alone. Use "
            "ScheduleDFA, under which no stage waits at all."
        )
    if send == "product" and not may_send_product(some):
        raise ValueError(f"send='product' expected DFA, SignDFA or TernaryDFA with shared feedback, found {some!r}.")
    _agree(made, stages, example, send, where)
    return {index: Carried(own, stages) for index, own in made.items()}


def _matches(module: nn.Module, points: Points) -> list[bool]:
    try:
        return [True for _ in select(module, points)]
    except PointsError:
        return []


def _agree(made: Mapping[int, Part], stages: int, example: Any, send: Send, group: distributed.ProcessGroup) -> None:
    """Pass one micro-batch through all stages, and let every stage know the points of all."""
    owners = gather(sorted(made), group)
    process_of = {index: process for process, own in enumerate(owners) for index in own}
    if sorted(process_of) != list(range(stages)) or sum(map(len, owners)) != stages:
        raise SignalError(f"Expected each of the stages 0 to {stages - 1} on one process, found {owners} by process.")
    inputs: dict[int, tuple[Any, ...]] = {}
    passing: Any = _tuple(example)
    for index in range(stages):
        if index in made:
            inputs[index] = _moved(passing, made[index].device)
            with torch.no_grad(), undisturbed(made[index].module):
                passing = _tuple(made[index].module(*inputs[index]))
        box = [passing]
        distributed.broadcast_object_list(box, distributed.get_global_rank(group, process_of[index]), group)
        passing = box[0]
    ours = {index: own.card({"send": repr(send)}, index == stages - 1) for index, own in made.items()}
    said = {index: card for each in gather(ours, group) for index, card in each.items()}
    cards = [said[index] for index in range(stages)]
    check(cards)
    rule = next(iter(made.values())).link.rule
    for index, own in made.items():
        own.link.agree(agreement(cards, [], send, rule))
        with torch.enable_grad(), undisturbed(own.module):
            own.run(lambda own=own, index=index: own.forward(inputs[index], {}))  # type: ignore[misc]
        own.port = None
    ours_laid = {index: own.sites() for index, own in made.items()}
    laid = {index: sites for each in gather(ours_laid, group) for index, sites in each.items()}
    for own in made.values():
        own.link.agree(agreement(cards, [laid[index] for index in range(stages)], send, rule))


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _moved(values: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    return tuple(value.to(device) if isinstance(value, Tensor) else value for value in values)
