"""Complex numbers: feedback is real, what weights carry back is their conjugate, and a cosine is of both parts."""

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from closed_form.oracle_numbers import shared_uniform
from feedalign.cosine import cosine, row_cosines

pytestmark = pytest.mark.usefixtures("float64")

FAMILIES = [
    fa.Uniform(), fa.Normal(shared=False), fa.Orthogonal(), fa.Regenerated(), fa.Hadamard(), fa.Sparse(),
    fa.Sparse(shared=False, nonzeros=2),
]  # fmt: skip


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(i, o, dtype=torch.complex128) for i, o in ((4, 6), (6, 5), (5, 3))]
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, e = (torch.randn(7, n, generator=generator, dtype=torch.complex128) for n in (4, 3))
    return x, e


@pytest.mark.parametrize("feedback", FAMILIES, ids=repr)
def test_dfa_sends_a_complex_error_through_real_matrices(feedback: fa.Feedback) -> None:
    model, (x, e) = net(), batch()
    handle = fa.attach(model, fa.DFA(seed=3, feedback=feedback))
    for _ in range(2):
        model.zero_grad()
        (model(x) * e.conj()).real.sum().backward()  # so that the gradient at the output is e
    B = [matrix.to(torch.complex128) for matrix in handle.planner.matrices()]
    hand = net()
    h1 = hand[:2](x)
    h2 = hand[2:4](h1.detach())
    (hand[4](h2.detach()) * e.conj()).real.sum().backward()
    torch.autograd.backward([h1, h2], [e @ B[0], e @ B[1]])
    for (name, found), expected in zip(model.named_parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


def test_sparse_products_of_real_and_imaginary_parts() -> None:
    feedback, error = fa.Sparse(shared=False, nonzeros=2), batch()[1].requires_grad_()
    parts = (("a", 5, 0.7), ("b", 4, 1.3))
    kept = feedback.keep(3, parts, 3, torch.complex128, torch.device("cpu"))
    dense = feedback.scaled(3, parts, 3, torch.complex128)
    torch.testing.assert_close(feedback.product(error, parts, kept), error @ dense)
    assert torch.autograd.gradcheck(lambda e: feedback.product(e, parts, kept), error)


def test_cosines_are_those_of_real_and_imaginary_parts() -> None:
    a, b = batch()[0], batch()[0].roll(1, 0)
    parts = [torch.cat([t.real, t.imag], dim=1) for t in (a, b)]
    assert cosine([(a, b)]) == pytest.approx(cosine([(parts[0], parts[1])]), rel=1e-12)
    torch.testing.assert_close(row_cosines(a, b, 7), torch.cosine_similarity(*parts, dim=1))
    assert cosine([(a, a.conj())]) == pytest.approx(float((a.real**2 - a.imag**2).sum() / a.abs().square().sum()))
    assert cosine([(a, 1j * a)]) == pytest.approx(0, abs=1e-12)


class Transposed(fa.BroadcastRule):
    """Backpropagation through one linear layer above the point, conjugate as PyTorch has it."""

    weight: Tensor

    def signals(self, sent: fa.Broadcast) -> list[Tensor]:
        return [sent.error @ type(self).weight.conj()]


def test_alignment_with_the_conjugate_weight_is_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, dtype=torch.complex128), nn.Tanh(), nn.Linear(6, 3, dtype=torch.complex128))
    Transposed.weight = model[2].weight.detach()
    handle = fa.attach(model, Transposed(), ["1"])
    x, e = batch()

    def loss() -> Tensor:
        return (model(x) * e.conj()).real.sum()

    found = fa.alignment(handle, loss, block_samples=3)
    assert found.points["1"].mean == pytest.approx(1, abs=1e-12)
    assert found.updates["1"] == pytest.approx(1, abs=1e-12)
    assert found.blocks["1"].mean == pytest.approx(1, abs=1e-12)
    assert fa.audit(handle, loss).batch.depths[0].alignment.mean == pytest.approx(1, abs=1e-12)


def test_conditioning_is_refused() -> None:
    model, (x, e) = net(), batch()
    handle = fa.attach(model, fa.DFA())
    with pytest.raises(fa.SignalError, match="conditioning is defined for real errors, and the output is complex"):
        fa.conditioning(handle, lambda: (model(x) * e.conj()).real.sum())


def test_weight_alignment_is_with_the_conjugate() -> None:
    model, (x, e) = net(), batch()
    handle = fa.attach(model, fa.DFA(seed=3))
    (model(x) * e.conj()).real.sum().backward()
    B1, B2 = (torch.as_tensor(b) for b in shared_uniform(3, 3, [6, 5]))
    found = fa.weight_alignment(handle)
    for name, target in (("2", B2.T @ B1), ("4", B2)):
        weight = model.get_submodule(name).weight.detach()
        expected = (weight.conj() * target).real.sum() / (weight.norm() * target.norm())
        assert found[name] == pytest.approx(float(expected), rel=1e-10)


def test_direct_kolen_pollack_learns_the_conjugate_of_the_last_weight() -> None:
    """W - conj(B) shrinks by exactly 1 - rate * decay in every step, since the two get conjugate gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5, dtype=torch.complex128), nn.Tanh(), nn.Linear(5, 3, dtype=torch.complex128))
    x, e = batch()
    handle = fa.attach(model, fa.DKP(seed=3), ["1"], example=x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.3)
    learned = handle.learned.get("1")
    assert learned.is_complex()
    before = model[2].weight.detach() - learned.detach().conj()
    for step in range(1, 20):
        optimizer.zero_grad()
        (model(x) - e).abs().square().mean().backward()
        optimizer.step()
        after = model[2].weight.detach() - learned.detach().conj()
        torch.testing.assert_close(after, before * 0.97**step, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("rule", [fa.IFA, fa.FDFA, fa.GrAPE])
def test_rules_that_push_tangents_forward_refuse_complex_weights(rule: type[fa.Rule]) -> None:
    with pytest.raises(fa.PointsError, match=rf"{rule.__name__} pushes tangents.*real weights.*Sequential has complex"):
        fa.attach(net(), rule(), example=batch()[0])
