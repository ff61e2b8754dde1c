"""The hooks on one layer that carry the gradient through it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from feedalign.backward_hooks import has_any
from feedalign.checks import check_compiled
from feedalign.errors import PointsError, SignalError
from feedalign.installed import Installed
from feedalign.learned import LearnedFeedback
from feedalign.rules import TransportRule
from feedalign.splice import Pull, splice
from feedalign.transport.exchange import Exchange
from feedalign.transport.layers import Form, unshaped
from feedalign.transport.products import adjoint, weight_gradient
from feedalign.transport.weight import Weight
from feedalign.tree import flatten, is_floating

if TYPE_CHECKING:
    from feedalign.attach import Attachment


class Carrier:
    """The hooks on one layer.

    The weight of a layer that is one product may be computed in every forward pass from other parameters: a
    parametrisation, or a hook of the older weight and spectral norm. The rule sees the one that the layer used, which
    is not computed again (spectral norm would go on by another step of its power iteration).
    """

    def __init__(self, attachment: "Attachment", rule: TransportRule, name: str, form: Form) -> None:
        self.attachment = attachment
        self.name = name
        self.module = attachment.model.get_submodule(name)
        self.form = form
        if form is Form.FUSED and rule.follows:
            raise PointsError(
                f"{type(rule).__name__} needs the gradient of each weight by itself, and {type(self.module).__name__} "
                f"{name!r} forms it inside. Leave it out with points=, or build it from nn.Linear layers."
            )
        own = [key for key, parameter in self.module.named_parameters() if form is Form.FUSED and parameter.dim() > 1]
        self.rule = rule
        self.weights = {key: Weight(rule, f"{name}.{key}" if name else key) for key in own or ["weight"]}
        self._fed = False  # whether its input ever needed a gradient
        self._entered: list[Any] = []
        self._computed: Tensor | None = None  # what a parametrisation returned for the weight, in a forward pass
        self._shape: torch.Size | None = None  # of such a weight
        self._example: Tensor | None = None  # the weight as the example met it, until learning starts

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_entered": [], "_computed": None}

    def install(self, hooks: Installed) -> list[RemovableHandle]:
        """Put the hooks on the layer; return those that have to be the last of their kind on it."""
        if self.form is Form.FUSED:
            hooks.before(self.module, self.name, self._exchange)
            hooks.behind(self.module, self.name, self._exchanged, always_call=True)
            return []
        if parametrize.is_parametrized(self.module, "weight"):
            computing = self.module.get_submodule("parametrizations.weight")
            hooks.behind(computing, f"{self.name}.parametrizations.weight", self._compute)
        # The input is cut and the output spliced next to the layer's own forward, inside of all other hooks.
        hooks.behind(self.module, self.name, self._leave, prepend=True)
        return [hooks.before(self.module, self.name, self._enter)]

    def start(self, store: LearnedFeedback) -> None:
        """Begin to learn, after a forward pass has shown whether anything below the layer wants a gradient."""
        example, self._example = self._example, None
        if not self.rule.learns or not (self._fed or self.form is Form.FUSED):
            return
        for key, weight in self.weights.items():
            value = self.module.get_parameter(key) if self.form is Form.FUSED else example
            assert value is not None  # the layer has run on the example
            weight.start(store, value)

    def shape(self, key: str) -> torch.Size | None:
        """Return the shape of a weight; None if no forward pass has shown it yet."""
        if self.form is Form.FUSED:
            return self.module.get_parameter(key).shape
        parameter = self.module._parameters.get(key)
        return self._shape if parameter is None or unshaped(parameter) else parameter.shape

    @property
    def on(self) -> bool:
        """Whether the rule is at work in this forward pass."""
        return self.attachment._on and torch.is_grad_enabled()

    # A layer that is one product.

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        del self._entered[:]  # left behind by a forward pass that raised
        if not self.on:
            return None
        check_compiled([self.rule])
        if not args:
            raise PointsError(f"Layer {self.name!r} expected a positional input, as in layer(x).")
        if has_any(module) and isinstance(args[0], Tensor) and args[0].requires_grad:
            self.attachment._of_user.without_input(self.name)
        self._entered.append(args[0])
        return (args[0].detach(), *args[1:])

    def _compute(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if self._entered:
            self._computed = output

    def _weight(self) -> Tensor:
        """Return the weight that the layer has just used, ``[out, in]`` or that of a convolution."""
        computed, self._computed = self._computed, None
        value: Any = self.module._parameters.get("weight") if computed is None else computed
        if value is None:
            if parametrize.is_parametrized(self.module, "weight") and not parametrize._cache_enabled:
                raise SignalError(
                    f"The weight of layer {self.name!r} was parametrised after attach(). Parametrise it, then attach."
                )
            # An attribute that an older norm has set for this forward pass, or what parametrize.cached() holds.
            value = self.module.weight
        assert isinstance(value, Tensor)
        if self._shape is None and not isinstance(value, nn.Parameter):
            self._shape = value.shape
        return value.T if self.form is Form.TRANSPOSED else value

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        if not self._entered:
            return None
        uncut: Tensor = self._entered.pop()
        value = self._weight()
        (weight,) = self.weights.values()
        learned, below = weight.learned, uncut.requires_grad
        self._fed = self._fed or below
        if self.rule.learns and self.attachment._observation is not None:
            self._example = value.detach()
        if below and self.rule.learns and learned is None and self.attachment._observation is None:
            raise SignalError(
                f"The input of layer {self.name!r} needs a gradient, and did not when the model ran on example=, so "
                "no feedback is learned for it. Attach with an example like the training batches, nothing frozen."
            )
        ends = [uncut] * below + ([] if learned is None else [learned])
        spliced: Tensor = splice(output, ends, self._pull(weight, value, uncut, learned)) if ends else output
        self._observe(spliced)
        return spliced

    def _pull(self, weight: Weight, value: Tensor, uncut: Tensor, learned: Tensor | None) -> Pull:
        shape, dtype, below = uncut.shape, uncut.dtype, uncut.requires_grad
        # The activations are kept where the lesson needs them; autograd keeps the same ones for the weight.
        seen = uncut.detach() if weight.rule.follows and below else None
        observation = self.attachment._observation

        def pull(error: Tensor | None) -> Sequence[Tensor | None]:
            if error is None or self.attachment._mute:  # without an error, all above is cut off and delivers nothing
                return [None] * (below + (learned is not None))
            true = observation is not None and observation.open
            matrix = value.detach() if true else weight.matrix(value, learned)
            found = [adjoint(self.module, matrix.to(error.dtype), error, shape).to(dtype)] if below else []
            if learned is not None:
                found.append(self._lesson(weight, value, learned, error, seen) if below else torch.zeros_like(learned))
            return found

        return pull

    def _lesson(self, weight: Weight, value: Tensor, learned: Tensor, error: Tensor, seen: Tensor | None) -> Tensor:
        gradient = None if seen is None else weight_gradient(self.module, value, error, seen.to(error.dtype))
        return weight.lesson(value, learned, gradient)

    def _observe(self, output: Tensor) -> None:
        if self.attachment._observation is not None:
            self.attachment._observation.layers.append((self.name, output))

    # A layer with products inside.

    def _exchange(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        del self._entered[:]
        if not self.on:
            return
        if torch.compiler.is_compiling():
            raise SignalError(
                f"{type(module).__name__} {self.name!r} cannot be compiled with a layer-wise rule: what autograd "
                "saves is exchanged there, unseen by torch.compile. Leave it out with points=, or train in eager mode."
            )
        exchange = Exchange(self)
        self._entered.append(exchange)
        exchange.hooks.__enter__()

    def _exchanged(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not self._entered:
            return None
        exchange = self._entered.pop()
        exchange.hooks.__exit__(None, None, None)
        leaves = [leaf for leaf in flatten(output)[0] if is_floating(leaf)]
        fed = self._fed = any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in flatten(args)[0])
        if fed and leaves and not exchange.found:
            raise SignalError(
                f"The weights of {type(module).__name__} {self.name!r} were not among what autograd saved, so the "
                "gradient would pass back through them. (cuDNN packs recurrent weights: move the model to "
                "the CPU, or write `with torch.backends.cudnn.flags(enabled=False):`.)"
            )
        if leaves:
            self._observe(leaves[0])
        return self._teach(output) if any(leaf.requires_grad for leaf in leaves) else None

    def _teach(self, output: Any) -> Any:
        """Let what is learned have its gradient when one reaches the layer's output; the way back is not touched."""
        ends = {key: weight.learned for key, weight in self.weights.items()}
        learned = {key: matrix for key, matrix in ends.items() if matrix is not None}
        if not learned:
            return None

        def pull(errors: Any) -> Sequence[Tensor | None]:
            if self.attachment._mute:
                return [None] * len(learned)
            found = self.module.get_parameter
            return [self.weights[key].lesson(found(key), matrix, None) for key, matrix in learned.items()]

        return splice(output, list(learned.values()), pull)
