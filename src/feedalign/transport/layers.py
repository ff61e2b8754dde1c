"""Which layers a gradient can be carried through, and how."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from feedalign.errors import PointsError, listing
from feedalign.learned import LearnedFeedback
from feedalign.observe import undisturbed

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRODUCTS = (nn.Linear, *CONVOLUTIONS)
FUSED = (nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase)
WITHOUT_PRODUCTS = (nn.Embedding, nn.EmbeddingBag, LearnedFeedback)
"""These hold matrices and yet pass no gradient on through them."""


class Form(Enum):
    """How a layer uses its weight ``W``."""

    PRODUCT = "y = x W^T"
    """Or the convolution that has this form for every patch."""
    TRANSPOSED = "y = x W"
    """As the ``Conv1D`` of Hugging Face's GPT-2 does. Rules see its weight transposed, as that of ``nn.Linear``."""
    FUSED = "several products inside"


def layers(model: nn.Module, names: Sequence[str]) -> dict[str, Form]:
    """Return the layers at or below the modules ``names`` that a gradient can be carried through, by name.

    Raises:
        PointsError: There is none, or one is of a kind that no rule is defined for.
    """
    found: dict[str, Form] = {}
    unseen: list[str] = []
    for name, module in model.named_modules():
        wanted = any(not top or name == top or name.startswith(f"{top}.") for top in names)
        inside = any(name.startswith(f"{other}.") for other in found)
        if not wanted or inside or "parametrizations" in name.split("."):
            continue
        form = _form(name, module)
        if form is not None:
            _check_kind(name, module)
            found[name] = form
        elif not isinstance(module, WITHOUT_PRODUCTS) and any(_is_matrix(p) for p in own_parameters(module)):
            unseen.append(f"{name or 'the model itself'} ({type(module).__name__})")
    if not found:
        raise PointsError(
            "A rule that transports through layers expected linear, convolution, attention or recurrent layers among "
            f"{', '.join(map(repr, names))}, and found none. Name such layers, or modules that contain them."
        )
    if unseen:
        warnings.warn(
            "These modules hold matrices of their own, and if they multiply by them, the gradient passes back by the "
            f"transposed weights there:\n{listing(unseen)}\nMake the products nn.Linear layers for the rule to see.",
            stacklevel=4,
        )
    return found


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a module itself, also those that a parametrisation has put in a weight's place."""
    yield from module.parameters(recurse=False)
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def _form(name: str, module: nn.Module) -> Form | None:
    if isinstance(module, FUSED):
        return Form.FUSED
    if getattr(type(module), "forward", None) in [kind.forward for kind in PRODUCTS]:
        return Form.PRODUCT
    if isinstance(module, (torch.jit.ScriptModule, *WITHOUT_PRODUCTS)) or not _like_linear(module):
        return None
    if any(unshaped(parameter) for parameter in own_parameters(module)):
        raise PointsError(
            f"Layer {name!r} ({type(module).__name__}) has no shape yet. Run the model on one batch, then attach."
        )
    return _tried(name, module)


def _like_linear(module: nn.Module) -> bool:
    """Return whether a module holds a weight, perhaps a bias, and nothing else that its output could depend on."""
    parameters = [name for name, _ in module.named_parameters(recurse=False)]
    children = [name for name, _ in module.named_children()]
    return (
        ("weight" in parameters or "weight" in vars(module) or parametrize.is_parametrized(module, "weight"))
        and all(name == "bias" or name.split("_")[0] == "weight" for name in parameters)
        and all(name.split("_")[0] == "weight" for name, _ in module.named_buffers(recurse=False))
        and children in ([], ["parametrizations"])
    )


def _tried(name: str, module: nn.Module) -> Form | None:
    """Return the form of a layer of someone's own, found by running it: its class says nothing of what it does.

    A plain weight is replaced by random numbers meanwhile, which tell ``[in, out]`` from ``[out, in]`` even where the
    weight is square and still zero. Inputs of several sizes, and both modes, show what is more than a product: dropout,
    a clamp, a non-linearity.
    """
    forms = [Form.PRODUCT, Form.TRANSPOSED]
    numbers = torch.Generator("cpu").manual_seed(0)
    with undisturbed(module), parametrize.cached(), torch.no_grad(), _other_numbers(module, numbers):
        weight, training = module.weight, module.training
        if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
            return None
        try:
            for mode, size in product((True, False), (1e-2, 1.0, 1e2)):
                module.training = mode
                forms = [form for form in forms if _has_form(module, form, weight, size, numbers)]
        finally:
            module.training = training
    if len(forms) > 1:
        raise PointsError(
            f"The weight of layer {name!r} ({type(module).__name__}) equals its transpose, so nothing tells whether it "
            "is [in, out] or [out, in]. Attach when it has other numbers, or leave the layer out with points=."
        )
    return forms[0] if forms else None


def _has_form(module: nn.Module, form: Form, weight: Tensor, size: float, numbers: torch.Generator) -> bool:
    matrix, bias = weight if form is Form.PRODUCT else weight.T, getattr(module, "bias", None)
    if isinstance(bias, Tensor) and bias.shape != matrix.shape[:1]:
        return False
    x = size * torch.randn(3, matrix.shape[1], generator=numbers, dtype=torch.float64, device="cpu").to(weight)
    expected = F.linear(x, matrix, bias if isinstance(bias, Tensor) else None)
    try:
        found = module.forward(x)
    except Exception:  # noqa: BLE001 - a module that cannot be run on rows of numbers is no such layer
        return False
    if not isinstance(found, Tensor) or found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    tolerance = torch.finfo(weight.dtype).eps ** 0.5 * expected.abs().max()
    return bool((found - expected).abs().max() <= tolerance)


@contextmanager
def _other_numbers(module: nn.Module, numbers: torch.Generator) -> Iterator[None]:
    """Let plain parameters be random ones, in float64 and on the CPU, inside the ``with`` block."""
    plain = {name: p for name, p in module.named_parameters(recurse=False) if "weight" in module._parameters}
    try:
        for name, parameter in plain.items():
            drawn = torch.randn(parameter.shape, generator=numbers, dtype=torch.float64, device="cpu")
            module._parameters[name] = nn.Parameter(drawn, requires_grad=False)
        yield
    finally:
        module._parameters.update(plain)


def _check_kind(name: str, module: nn.Module) -> None:
    if any(parameter.is_complex() for parameter in module.parameters() if not unshaped(parameter)):
        raise PointsError(
            f"Layer {name!r} has complex weights. Layer-wise rules are defined for real ones: leave it out with "
            "points=, or choose a rule that sends the error to points, such as DFA."
        )
    if isinstance(module, FUSED) and any(_reparametrised(each) for each in module.modules()):
        raise PointsError(
            f"A weight of {type(module).__name__} {name!r} is computed from other parameters (a parametrisation, "
            "weight or spectral norm, pruning), and its products are formed inside, out of sight. Leave it out with "
            "points=, or build it from nn.Linear layers, whose weights may be so computed."
        )
    if isinstance(module, CONVOLUTIONS) and module.padding_mode != "zeros":
        raise PointsError(
            f"Layer {name!r} pads with padding_mode={module.padding_mode!r}. Layer-wise rules are defined for zeros: "
            "pad before the layer with torch.nn.functional.pad, or leave the layer out."
        )
    if isinstance(module, CONVOLUTIONS) and module.padding == "same" and _uneven(module):
        raise PointsError(
            f"Layer {name!r} pads unevenly (padding='same' with an even kernel). Write the padding as numbers, or "
            "leave the layer out."
        )


def _is_matrix(parameter: nn.Parameter) -> bool:
    return unshaped(parameter) or parameter.dim() > 1


def unshaped(parameter: nn.Parameter) -> bool:
    """Return whether a lazy module has not run yet, and so does not know the shape of a parameter."""
    return isinstance(parameter, UninitializedParameter)


def _reparametrised(module: nn.Module) -> bool:
    """Return whether a weight is no parameter: what the older ways of PyTorch compute is a tensor among attributes."""
    return parametrize.is_parametrized(module) or any(isinstance(value, Tensor) for value in vars(module).values())


def _uneven(module: nn.Module) -> bool:
    return any(d * (k - 1) % 2 for d, k in zip(module.dilation, module.kernel_size, strict=True))  # type: ignore[arg-type]
