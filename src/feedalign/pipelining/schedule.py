"""The schedule: forward passes follow each other, and every stage learns as soon as the error is known.

Letters: ``S`` stages, ``M`` micro-batches, ``N`` rows of a micro-batch.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining.microbatch import TensorChunkSpec
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from feedalign.errors import SignalError
from feedalign.observe import undisturbed
from feedalign.pipelining.agreement import agreement, check, gather
from feedalign.pipelining.link import Agreement, Send, may_send_product
from feedalign.pipelining.order import Action, Ahead, check_ahead, dfa_order, local_order
from feedalign.pipelining.part import Kept, Weights
from feedalign.pipelining.simulator import Span
from feedalign.pipelining.stage import Stage
from feedalign.pipelining.waiting import Place, StageError
from feedalign.tree import flatten, is_floating

Works = list[distributed.Work]


class ScheduleDFA(PipelineScheduleSingle):
    r"""A schedule of ``torch.distributed.pipelining`` in which no stage waits for the stage above it.

    It is used as ``Schedule1F1B`` is. Activations go from stage to stage. The last stage computes the loss of a
    micro-batch and its error right after the forward pass, and broadcasts the error; every stage runs its own backward
    pass when it arrives. No gradient travels. The gradients are bitwise those of one process that runs the
    micro-batches one after the other. (With a matrix per point, ``shared=False``, up to the rounding of BLAS: one
    process forms the products of all points at once, and some kernels round a column by what lies beside it.)

    With f and d the times of a stage's forward and backward pass, a first step takes :math:`M (f + d) + (S - 1) f`. In
    steps that follow each other without a barrier, a step takes at most :math:`M (f + d) + (S - 1 - a) f` for ``ahead``
    = a < S and :math:`M \ge S`: no stage idles with ``"flat"``. Clipping the norm of all stages' gradients together is
    a barrier, clipping per stage is not.

    Targets go to the last stage; with DRTP, which needs no error, to every stage.

    Args:
        stage: This process's part.
        n_microbatches: M. The batch must be divisible by it.
        loss_fn: ``loss_fn(output, target)``, on the last stage; elsewhere only whether it is given counts. ``None``
            runs forward passes alone.
        args_chunk_spec: How positional arguments are split, as for torch's schedules.
        kwargs_chunk_spec: How named arguments are split.
        output_merge_spec: How outputs are put together.
        scale_grads: Divide the gradients by M at the end of a step, as torch's schedules do: right for a loss that is a
            mean. All of ``.grad`` is divided, so step the optimiser after every step of the schedule.
        ahead: How many more micro-batches than in 1F1B a stage takes up before its first backward pass: a number,
            ``"flat"`` (S - 1: every stage holds S, as many as the first stage of 1F1B) or ``"all"``.
        send: What is broadcast: the ``"error"`` ``[N, C]``; the ``"product"`` ``e B [N, D]`` of shared feedback with
            ``D`` the columns of the widest point; or ``"auto"``, the narrower of the two.
        timeout: Seconds to wait for another stage.
        updates: ``"step"``: the optimiser's step is yours, after every step of the schedule. ``"micro-batch"``: the
            schedule steps ``optimizer`` after every backward pass, each stage for itself and without waiting for
            others. A forward pass of a stage then runs with weights that have not learned yet from the :attr:`delay`
            micro-batches before it, in a fixed order, so that the same numbers come out every time. Gradients are not
            divided by M. The fewer micro-batches a stage takes up, the smaller the delay: write ``ahead=0``. Momentum
            adds up with delay.
        optimizer: Of this stage's parameters, for ``updates="micro-batch"``.
        weights: What a backward pass does about weights that have changed since its forward pass. ``"copy"`` keeps
            those of the forward pass, :attr:`delay` + 1 copies at most. ``"recompute"`` runs the forward pass again
            with those of now, which takes the memory of inputs alone, and f more time; the gradient is another one.
            ``"current"`` does nothing, right where backward passes do not read weights (linear layers with a point
            behind each); elsewhere autograd raises.

    Attributes:
        steps: How many training steps have begun.
        spans: ``None``, or a list to which every pass of this stage is added, in times of ``time.perf_counter``. On an
            accelerator these are the times at which work was given to it.

    Raises:
        ValueError: An option has a value that is not possible.
        TypeError: ``stage`` is no :class:`Stage`.

    Example:
        >>> schedule = ScheduleDFA(stage, n_microbatches=8, loss_fn=torch.nn.functional.cross_entropy)
        >>> schedule.step(x) if stage.is_first else schedule.step(target=y) if stage.is_last else schedule.step()
    """

    def __init__(
        self,
        stage: Stage,
        n_microbatches: int,
        loss_fn: Callable[..., Tensor] | None = None,
        args_chunk_spec: tuple[TensorChunkSpec, ...] | None = None,
        kwargs_chunk_spec: dict[str, TensorChunkSpec] | None = None,
        output_merge_spec: dict[str, Any] | tuple[Any] | None = None,
        scale_grads: bool = True,
        *,
        ahead: Ahead = "flat",
        send: Send = "auto",
        timeout: float = 60.0,
        updates: Literal["step", "micro-batch"] = "step",
        optimizer: torch.optim.Optimizer | None = None,
        weights: Weights = "copy",
    ) -> None:
        if not isinstance(stage, Stage):
            raise TypeError(
                f"ScheduleDFA expected a feedalign.pipelining.Stage, found {type(stage).__name__}. Write "
                "Stage(part, rule, points, index=..., stages=...) for PipelineStage(part, ...)."
            )
        if n_microbatches < 1:
            raise ValueError(f"n_microbatches must be at least 1, found {n_microbatches}.")
        if not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, found {timeout}.")
        if send not in ("auto", "error", "product"):
            raise ValueError(f"send must be 'auto', 'error' or 'product', found {send!r}.")
        rule = stage.link.rule
        if send == "product" and not may_send_product(rule):
            raise ValueError(
                "send='product' expected DFA, SignDFA or TernaryDFA with shared feedback, whose signals are columns "
                f"of one product, found {rule!r}. Write send='error'."
            )
        check_ahead(ahead)
        _check_updates(stage.submod, updates, optimizer, weights)
        # Forward only, as far as torch is concerned: it would send gradients from stage to stage.
        super().__init__(stage, n_microbatches, None, args_chunk_spec, kwargs_chunk_spec, output_merge_spec)
        self.loss_fn = loss_fn
        self.scale_grads = scale_grads
        self.ahead, self.send = ahead, send
        self.steps = 0
        self.spans: list[Span] | None = None
        self._pipe = stage
        self._evaluating = False
        self._watched = False  # whether an update has been looked at
        self._settled = False  # whether the stages know each other's points
        self._place = Place(stage.stage_index, stage.ranks, timeout, torch.device(stage.device))
        # Errors travel in a group of their own, so that they do not queue behind activations and have their own
        # timeout.
        self._errors: distributed.ProcessGroup = distributed.new_group(
            list(stage.ranks), timeout=timedelta(seconds=timeout), use_local_synchronization=True
        )
        self.updates, self.optimizer = updates, optimizer
        stage.own.weights = weights if updates == "micro-batch" else None
        self._buffers: list[Tensor] = []
        self._shapes: dict[str, list[tuple[torch.Size, torch.dtype]]] = {}

    @property
    def order(self) -> list[Action]:
        """What this stage does in a training step, in this order."""
        if self._pipe.link.rule.targeted:
            return local_order(self._pipe.stage_index, self._n_microbatches)
        return dfa_order(self._pipe.stage_index, self._num_stages, self._n_microbatches, self.ahead)

    @property
    def delay(self) -> int:
        """How many micro-batches before it a forward pass has not learned from, with updates per micro-batch.

        It is ``S - 1 - s + min(s, ahead)`` at most; the first micro-batches of a step have fewer before them.
        Backpropagation's would be ``2 (S - 1 - s)`` in a pipeline without waiting.
        """
        return next(place for place, action in enumerate(self.order) if action.kind == "B") - 1

    def eval(self, *args: Any, target: Any = None, losses: list[Any] | None = None, **kwargs: Any) -> Any:
        """Run forward passes alone, without gradients; arguments and result are those of ``step``."""
        self._evaluating = True
        try:
            with torch.no_grad():
                return self.step(*args, target=target, losses=losses, **kwargs)
        finally:
            self._evaluating = False

    def _step_microbatches(
        self,
        arg_mbs: list[Any] | None = None,
        kwarg_mbs: list[Any] | None = None,
        target_mbs: list[Any] | None = None,
        losses: list[Any] | None = None,
        return_outputs: bool = True,
        loss_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        training = self.loss_fn is not None and not self._evaluating
        if training and not torch.is_grad_enabled():
            raise RuntimeError("step() trains, and gradients are disabled here. Call eval() under torch.no_grad().")
        arg_mbs, kwarg_mbs = self._check_inputs(arg_mbs, kwarg_mbs, target_mbs, losses)
        step = self.steps + 1 if training else self.steps
        with self._place.computing("the first exchange of shapes", f"step {step}"), undisturbed(self._pipe.submod):
            # torch finds out shapes by a forward pass; batch statistics and random numbers are to stay what they are.
            self._initialize_stage(arg_mbs[0], kwarg_mbs[0])  # type: ignore[no-untyped-call]
        if training and self._pipe.link.agreed is None:
            self._introduce()
        self.steps = step
        run = _Step(self, arg_mbs, kwarg_mbs, target_mbs, loss_kwargs or {}, training)
        for action in self.order if training else [Action("F", m) for m in range(self._n_microbatches)]:
            if action.kind == "F":
                run.forward(action.micro_batch)
            else:
                run.backward(action.micro_batch)
        run.finish()
        if not return_outputs:
            self._pipe.output_chunks.clear()
        if losses is not None and self._pipe.is_last and run.losses:
            losses[:] = run.losses
        if training and self.updates == "step" and self.scale_grads and self._n_microbatches > 1:
            for parameter in self._pipe.submod.parameters():
                if parameter.grad is not None:
                    parameter.grad.div_(self._n_microbatches)

    def _update(self) -> None:
        """Step the optimiser after one micro-batch."""
        assert self.optimizer is not None
        watched = None
        if self._pipe.own.weights == "current" and not self._watched:
            watched = [(p, p._version, p.data_ptr(), p.detach().clone()) for p in self._pipe.submod.parameters()]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._pipe.own.updated()
        for parameter, version, place, before in watched or ():
            unseen = parameter._version == version and not torch.equal(parameter.detach(), before)
            if unseen or parameter.data_ptr() != place:
                raise SignalError(
                    f"{type(self.optimizer).__name__} writes weights by `.data`, which autograd does not see, so that "
                    "backward passes would mix weights of before and after. Write weights='copy', or an optimiser that "
                    "changes parameters in place under torch.no_grad()."
                )
        self._watched = self._watched or watched is not None

    def _introduce(self) -> None:
        """Exchange names and settings, and learn the shape of the error."""
        stage, rule = self._pipe, self._pipe.link.rule
        settings = {
            "number of micro-batches": str(self._n_microbatches),
            "ahead": repr(self.ahead),
            "send": repr(self.send),
            "scale_grads": str(self.scale_grads),
            "updates": repr(self.updates),
        }
        card = stage.own.card(settings, stage.is_last)
        with self._place.computing("the exchange of names (is loss_fn given on every stage?)", "step 1"):
            self._cards = gather(card, self._errors)
        check(self._cards)
        stage.link.agree(agreement(self._cards, [], self.send, rule))

    def _agree(self) -> Agreement:
        """Exchange the layouts of points, which the first forward pass has shown; return what is agreed on."""
        stage = self._pipe
        agreed = agreement(self._cards, gather(stage.own.sites(), self._errors), self.send, stage.link.rule)
        stage.link.agree(agreed)
        self._settled = True
        if agreed.sent != "nothing":
            count = 0 if stage.is_last else self._n_microbatches
            self._buffers = [torch.empty(agreed.shape, dtype=agreed.dtype, device=stage.device) for _ in range(count)]
        return agreed

    def _same(self, what: str, value: Any, when: str) -> None:
        """Raise if tensors have other shapes or types than those of the first micro-batch.

        Raises:
            StageError: They have: buffers have been made for the first ones.
        """
        found = [(leaf.shape, leaf.dtype) for leaf in flatten(value)[0] if isinstance(leaf, Tensor)]
        expected = self._shapes.setdefault(what, found)
        if found != expected:
            raise StageError(
                f"{self._place.name().capitalize()} expected {what} of {when} to have the shapes of the first "
                f"micro-batch, {_listed(expected)}, found {_listed(found)}. All micro-batches must be equal: write "
                f"drop_last=True in the data loader, and a batch size that {self._n_microbatches} micro-batches divide."
            )


class _Step:
    """One step of a stage: what has been received, computed and not yet used."""

    def __init__(
        self,
        schedule: ScheduleDFA,
        args: Sequence[Any],
        kwargs: Sequence[Any],
        targets: Sequence[Any] | None,
        loss_kwargs: dict[str, Any],
        training: bool,
    ) -> None:
        self.schedule, self.stage, self.place = schedule, schedule._pipe, schedule._place
        self.args, self.kwargs, self.targets, self.loss_kwargs = args, kwargs, targets, loss_kwargs
        self.training = training
        self.losses: list[Tensor] = []
        self.outputs: dict[int, list[Tensor]] = {}  # what backward passes start from, with their graphs
        self.gradients: dict[int, list[Tensor]] = {}  # on the last stage, of the same tensors
        self.arrived: dict[int, Tensor] = {}  # on the last stage, what it has broadcast
        self.kept: dict[int, Kept] = {}  # of the weights, if they change between forward and backward pass
        self.reached: dict[int, list[int]] = {}  # on the last stage, which tensors of its output have gradients
        self.received: dict[int, Works] = {}
        self.errors: dict[int, Works] = {}
        self.sending: list[tuple[int, Works]] = []
        # On the CPU all receiving runs in the background from the start. On an accelerator an open receive holds a part
        # of the device, so each is started where its result is needed.
        self.early = self.place.device.type == "cpu"
        if self.early:
            for m in range(len(args)):
                self._receive(m)
            if training and schedule._buffers:
                for m in range(len(args)):
                    self._receive_error(m)

    @contextmanager
    def timed(self, what: Literal["F", "B"], m: int) -> Iterator[None]:
        start, index = time.perf_counter(), self.stage.stage_index
        yield
        if self.schedule.spans is not None:
            span = Span(index, what, index, m, self.schedule.steps - 1, start, time.perf_counter())
            self.schedule.spans.append(span)

    def when(self, m: int) -> str:
        return f"micro-batch {m}, step {self.schedule.steps}"

    def forward(self, m: int) -> None:
        stage, index, place, when = self.stage, self.stage.stage_index, self.place, self.when(m)
        if stage.is_first:
            self.schedule._same("the inputs", (self.args[m], self.kwargs[m]), when)
        else:
            if m not in self.received:
                self._receive(m)
            place.wait(self.received.pop(m), index - 1, "the activations", when)
        if self.training and stage.link.rule.targeted:
            stage.handle.targets = self._target(m)

        def run() -> Any:
            return stage.forward_one_chunk(m, self.args[m], self.kwargs[m])

        with self.timed("F", m):
            with place.computing("the forward pass", when):
                output = stage.own.run(run) if self.training else run()
            if stage.is_last and (not self.training or self._agreed()):
                with place.computing("the loss", when):
                    self._finish_forward(m, output)
        if not stage.is_last:
            self.schedule._same("the activations", output, when)
            self.sending.append((index + 1, [_start(op) for op in stage.get_fwd_send_ops(m)]))
        if self.training and not self._agreed():
            with place.computing("the agreement on points", when):
                self._agree()
            if stage.is_last:
                with place.computing("the loss", when):
                    self._finish_forward(m, output)
        if self.training and stage.own.port is not None:
            self.outputs[m] = [stage.own.port]
            stage.own.port = None
        kept, stage.own.kept = stage.own.kept, None
        if self.training and kept is not None:
            self.kept[m] = kept
            if kept.inputs is not None:
                self.outputs[m] = []  # and with it the graph: the pass will run again
        if not self.training or stage.is_last:
            stage.fwd_cache.pop(m)

    def backward(self, m: int) -> None:
        stage, place, when, link = self.stage, self.place, self.when(m), self.stage.link
        kept = self.kept.pop(m, None)
        if kept is not None and kept.inputs is not None:
            with place.computing("the forward pass, run again", when):
                self._again(m, kept)
        starts = self.outputs.pop(m, [])
        if stage.is_last:
            gradients = self.gradients.pop(m)
            arrived = self.arrived.pop(m, None)
        else:
            arrived = self._error(m)
            if arrived is None:
                gradients = [torch.zeros_like(start) for start in starts]
            else:
                size = torch.linalg.vector_norm(arrived, dim=1)
                gradients = [size.reshape(start.shape) for start in starts]
        trained = [(start, gradient) for start, gradient in zip(starts, gradients, strict=False) if start.requires_grad]
        if trained:
            targets = self._target(m) if link.rule.targeted else None
            stage.own.synchronise_gradients(m == len(self.args) - 1)
            with self.timed("B", m), place.computing("the backward pass", when):
                stage.own.backward([s for s, _ in trained], [each for _, each in trained], arrived, targets, kept)
                if self.schedule.updates == "micro-batch":
                    self.schedule._update()
        stage.fwd_cache.pop(m, None)

    def _again(self, m: int, kept: Kept) -> None:
        output = self.stage.own.again(kept)
        if self.stage.is_last:
            leaves, _ = flatten(output)
            self.outputs[m] = [leaves[place] for place in self.reached.pop(m)]
        elif self.stage.own.port is not None:
            self.outputs[m], self.stage.own.port = [self.stage.own.port], None

    def finish(self) -> None:
        for other, works in self.sending:
            self.place.wait(works, other, "the end of sending", f"step {self.schedule.steps}")

    def _finish_forward(self, m: int, output: Any) -> None:
        leaves, rebuild = flatten(output)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]
        detached = [leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.stage.output_chunks[-1] = rebuild(detached)
        if self.schedule.loss_fn is None or (self.targets is None and not self.training):
            return
        read = list(detached)
        if self.training:
            for place in places:
                # A leaf of its own: the loss is differentiated at once, the stage later.
                read[place] = leaves[place].detach().requires_grad_()
        loss = self.schedule.loss_fn(rebuild(read), self._target(m), **self.loss_kwargs)
        self.losses.append(loss.detach())
        if not self.training:
            return
        loss.backward()  # type: ignore[no-untyped-call]
        gradients: list[Tensor | None] = [read[place].grad for place in places]
        if all(gradient is None for gradient in gradients):
            raise SignalError("The loss does not depend on what the last stage returns, so there is no error to send.")
        reached = [place for place, gradient in zip(places, gradients, strict=True) if gradient is not None]
        self.reached[m], self.outputs[m] = reached, [leaves[place] for place in reached]
        self.gradients[m] = [gradient for gradient in gradients if gradient is not None]
        agreed = self.stage.link.agreed
        assert agreed is not None
        if agreed.sent == "nothing":
            return
        rows = agreed.shape[0]
        flat = [
            (torch.zeros_like(leaves[place]) if gradient is None else gradient).reshape(rows, -1)
            for place, gradient in zip(places, gradients, strict=True)
        ]
        error = flat[0] if len(flat) == 1 else torch.cat(flat, dim=1)
        self.schedule._same("the error", error, self.when(m))
        with torch.no_grad():
            arrived = self.stage.link.outgoing(error)
        self.arrived[m] = arrived
        if self.stage.num_stages > 1:
            self.sending.append((0, [self._broadcast(arrived.contiguous())]))

    def _target(self, m: int) -> Any:
        if self.targets is None:
            raise SignalError(
                "step(target=...) is missing. The last stage needs the targets of the batch, and with DRTP every "
                "stage does."
            )
        return self.targets[m]

    def _agreed(self) -> bool:
        return self.schedule._settled

    def _agree(self) -> None:
        self.schedule._agree()
        if self.early and self.schedule._buffers:
            for m in range(len(self.args)):
                self._receive_error(m)

    def _receive(self, m: int) -> None:
        self.received[m] = [_start(op) for op in self.stage.get_fwd_recv_ops(m)]

    def _receive_error(self, m: int) -> None:
        self.errors[m] = [self._broadcast(self.schedule._buffers[m])]

    def _error(self, m: int) -> Tensor | None:
        """Return what the last stage sent for a micro-batch; nothing where the rule sends targets."""
        if not self.schedule._buffers:
            return None
        if m not in self.errors:
            self._receive_error(m)
        self.place.wait(self.errors.pop(m), self.stage.num_stages - 1, "the error", self.when(m))
        return self.schedule._buffers[m]

    def _broadcast(self, tensor: Tensor) -> distributed.Work:
        last = self.place.ranks[-1]
        work: distributed.Work | None = distributed.broadcast(tensor, last, group=self.schedule._errors, async_op=True)
        assert work is not None
        return work


def _start(op: distributed.P2POp) -> distributed.Work:
    # One by one: batches of operations are serialised on a device, and lost by some backends of torch 2.6 and 2.7.
    work: distributed.Work | None = op.op(op.tensor, op.peer, op.group, op.tag)
    assert work is not None
    return work


def _listed(shapes: Sequence[tuple[torch.Size, torch.dtype]]) -> str:
    return ", ".join(f"{list(shape)} ({str(dtype).removeprefix('torch.')})" for shape, dtype in shapes) or "none"


def _check_updates(part: torch.nn.Module, updates: str, optimizer: torch.optim.Optimizer | None, weights: str) -> None:
    """Raise unless the options of updates fit together.

    Raises:
        ValueError: They do not.
    """
    if updates not in ("step", "micro-batch") or weights not in ("copy", "recompute", "current"):
        raise ValueError(
            "updates must be 'step' or 'micro-batch', and weights 'copy', 'recompute' or 'current'; found "
            f"{updates!r} and {weights!r}."
        )
    if updates == "step":
        if optimizer is not None:
            raise ValueError("An optimizer is given, and updates='step' leaves its steps to you. Leave it out.")
        return
    if optimizer is None:
        raise ValueError("updates='micro-batch' expected the optimizer of this stage's parameters: optimizer=...")
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, p in part.named_parameters() if p.requires_grad and id(p) not in own]
    if missing:
        raise ValueError(f"optimizer expected all parameters of this stage, found none called {missing[0]!r} in it.")
    if any(isinstance(module, FSDPModule) for module in part.modules()):
        raise ValueError("updates='micro-batch' expected a stage whose parameters are whole, found fully_shard in it.")
