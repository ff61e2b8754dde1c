"""DFA in float64 against formulas written out by hand, without autograd.

Letters: e error [N, C], B_i feedback [C, D_i], s_i = e B_i signal, a_i pre-activation, h_i point, W_i weights.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import feedalign as fa
from closed_form.oracle_numbers import Array, array, close, shared_uniform, softmax

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_mlp_with_cross_entropy(activation: str) -> None:
    kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    model = nn.Sequential(nn.Linear(5, 9), kind(), nn.Linear(9, 7), kind(), nn.Linear(7, 4))
    x, y = torch.randn(8, 5), torch.randint(4, (8,))
    fa.attach(model, fa.DFA(seed=3))
    F.cross_entropy(model(x), y).backward()

    def phi(a: Array) -> Array:
        return np.maximum(a, 0) if activation == "relu" else np.tanh(a)

    def dphi(a: Array) -> Array:
        return (a > 0).astype(float) if activation == "relu" else 1 - np.tanh(a) ** 2

    (w1, b1), (w2, b2), (w3, b3) = ((array(model[i].weight), array(model[i].bias)) for i in (0, 2, 4))
    h0 = array(x)
    a1 = h0 @ w1.T + b1
    a2 = phi(a1) @ w2.T + b2
    z = phi(a2) @ w3.T + b3
    e = (softmax(z) - np.eye(4)[y.numpy()]) / 8  # the mean's 1/N is in the error
    B1, B2 = shared_uniform(3, 4, [9, 7])
    d1, d2 = (e @ B1) * dphi(a1), (e @ B2) * dphi(a2)
    for layer, delta, below in ((0, d1, h0), (2, d2, phi(a1)), (4, e, phi(a2))):
        close(model[layer].weight.grad, delta.T @ below)
        close(model[layer].bias.grad, delta.sum(0))


def test_with_transposed_weights_for_feedback_it_is_backprop() -> None:
    """The limit of the rule: B_i equal to the product of the weights above, on a linear network."""
    W1, W2, W3 = nn.Linear(5, 8, bias=False), nn.Linear(8, 6, bias=False), nn.Linear(6, 3, bias=False)
    x, y = torch.randn(10, 5), torch.randn(10, 3)
    weights = [W1.weight, W2.weight, W3.weight]
    expected = torch.autograd.grad(F.mse_loss(W3(W2(W1(x))), y), weights)
    h1 = W1(x)
    h2 = W2(h1.detach())
    out = fa.splice(
        W3(h2.detach()), [h1, h2], lambda e: [e @ W3.weight.detach() @ W2.weight.detach(), e @ W3.weight.detach()]
    )
    found = torch.autograd.grad(F.mse_loss(out, y), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_grouped_strided_convolution() -> None:
    conv, head = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.Linear(6 * 3 * 3, 3)
    model = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), head)
    x, y = torch.randn(5, 4, 5, 5), torch.randn(5, 3)
    fa.attach(model, fa.DFA(seed=2), points="1")
    F.mse_loss(model(x), y).backward()

    padded = np.pad(array(x), ((0, 0), (0, 0), (1, 1), (1, 1)))
    w, b = array(conv.weight), array(conv.bias)
    a, patches = np.zeros((5, 6, 3, 3)), np.zeros((5, 6, 3, 3, 2, 3, 3))
    for o in range(6):
        group = slice(0, 2) if o < 3 else slice(2, 4)
        for i in range(3):
            for j in range(3):
                patch = padded[:, group, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
                patches[:, o, i, j] = patch
                a[:, o, i, j] = (patch * w[o]).sum((1, 2, 3)) + b[o]
    h = np.tanh(a)
    z = h.reshape(5, -1) @ array(head.weight).T + array(head.bias)
    e = 2 * (z - array(y)) / z.size
    (B,) = shared_uniform(2, 3, [54])
    delta = (e @ B).reshape(h.shape) * (1 - h**2)
    close(conv.weight.grad, np.einsum("noij,noijckl->ockl", delta, patches))
    close(conv.bias.grad, delta.sum((0, 2, 3)))
    close(head.weight.grad, e.T @ h.reshape(5, -1))


def test_convolution_with_feedback_repeated_over_positions() -> None:
    conv, head = nn.Conv2d(2, 4, 1, bias=False), nn.Linear(4 * 9, 3, bias=False)
    model = nn.Sequential(conv, nn.Flatten(), head)
    x = torch.randn(5, 2, 3, 3)
    fa.attach(model, fa.DFA(seed=2, feedback=fa.Uniform(positions="repeat")), points="0")
    model(x).sum().backward()
    (B,) = shared_uniform(2, 3, [4])
    per_channel = B * np.sqrt(4) / np.sqrt(36)  # scaled by the whole width, so that the norm is that of "flatten"
    s = (np.ones((5, 3)) @ per_channel)[:, :, None, None] * np.ones((5, 4, 3, 3))
    np.testing.assert_allclose(array(conv.weight.grad)[:, :, 0, 0], np.einsum("noij,ncij->oc", s, array(x)), rtol=1e-10)


def test_lstm_cell_reused_in_time() -> None:
    """Cut at every step: each step's weights learn from its own (h, c) signals, and nothing travels in time."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(3, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            state = (x.new_zeros(len(x), 5), x.new_zeros(len(x), 5))
            for step in x.unbind(1):
                state = self.cell(step, state)
            return self.head(state[0])

    model, x, y = Net(), torch.randn(4, 3, 3), torch.randn(4, 2)
    fa.attach(model, fa.DFA(seed=5), points="cell")
    F.mse_loss(model(x), y).backward()

    def sigmoid(a: Array) -> Array:
        return 1 / (1 + np.exp(-a))

    wi, wh = array(model.cell.weight_ih), array(model.cell.weight_hh)
    bias = array(model.cell.bias_ih) + array(model.cell.bias_hh)
    h = c = np.zeros((4, 5))
    steps = []
    for t in range(3):
        i, f, g, o = np.split(array(x)[:, t] @ wi.T + h @ wh.T + bias, 4, axis=1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        new = f * c + i * g
        steps.append((h, c, i, f, g, o, new))
        h, c = o * np.tanh(new), new
    e = 2 * (h @ array(model.head.weight).T + array(model.head.bias) - array(y)) / 8
    (B,) = shared_uniform(5, 2, [5])
    s = e @ B  # the same for h and for c, at every step but for the last c, which nothing reads
    grad_wi, grad_wh = np.zeros_like(wi), np.zeros_like(wh)
    for t, (h0, c0, i, f, g, o, new) in enumerate(steps):
        dc = s * (t < 2) + s * o * (1 - np.tanh(new) ** 2)
        gates = [dc * g * i * (1 - i), dc * c0 * f * (1 - f), dc * i * (1 - g**2), s * np.tanh(new) * o * (1 - o)]
        d = np.concatenate(gates, axis=1)
        grad_wi += d.T @ array(x)[:, t]
        grad_wh += d.T @ h0
    close(model.cell.weight_ih.grad, grad_wi)
    close(model.cell.weight_hh.grad, grad_wh)


def test_residual_stream_is_cut_once() -> None:
    """With points behind the blocks, block 1 gets its own signal and nothing through the skip path of block 2."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.linear(x).tanh()

    model = nn.Sequential(Block(), Block(), nn.Linear(4, 3, bias=False))
    x = torch.randn(6, 4)
    handle = fa.attach(model, fa.DFA(seed=4))
    assert [str(point) for point in handle.points] == ["0", "1"]
    model(x).square().sum().backward()
    w1, w2, w3 = array(model[0].linear.weight), array(model[1].linear.weight), array(model[2].weight)
    h0 = array(x)
    t1 = np.tanh(h0 @ w1.T)
    h1 = h0 + t1
    t2 = np.tanh(h1 @ w2.T)
    h2 = h1 + t2
    e = 2 * h2 @ w3.T
    (B,) = shared_uniform(4, 3, [4])
    close(model[0].linear.weight.grad, ((e @ B) * (1 - t1**2)).T @ h0)
    close(model[1].linear.weight.grad, ((e @ B) * (1 - t2**2)).T @ h1)
    close(model[2].weight.grad, e.T @ h2)


def test_tokens_share_one_matrix_and_tied_weights_add_up() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(6, 4)
            self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh())
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(self.embedding(x)))

    model, x = Net(), torch.randint(6, (3, 5))
    fa.attach(model, fa.DFA(seed=6), points="body")
    F.cross_entropy(model(x).flatten(0, 1), x.roll(-1, 1).flatten()).backward()
    E, W, tokens = array(model.embedding.weight), array(model.body[0].weight), x.numpy().ravel()
    h = np.tanh(E[tokens] @ W.T)
    e = (softmax(h @ E.T) - np.eye(6)[x.roll(-1, 1).numpy().ravel()]) / 15
    (B,) = shared_uniform(6, 6, [4])
    d = (e @ B) * (1 - h**2)
    close(model.body[0].weight.grad, d.T @ E[tokens])
    through_embedding = np.zeros_like(E)
    np.add.at(through_embedding, tokens, d @ W)
    close(model.embedding.weight.grad, e.T @ h + through_embedding)


def test_graph_convolution_shares_one_matrix_over_nodes() -> None:
    A = torch.rand(7, 7)
    A = A / A.sum(1, keepdim=True)
    lin1, lin2 = nn.Linear(5, 6, bias=False), nn.Linear(6, 3, bias=False)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin1, self.relu, self.lin2 = lin1, nn.ReLU(), lin2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return A @ self.lin2(self.relu(A @ self.lin1(x)))

    model, x, y = Net(), torch.randn(7, 5), torch.randint(3, (7,))
    fa.attach(model, fa.DFA(seed=1), points=nn.ReLU)
    labelled = torch.tensor([0, 3])
    F.cross_entropy(model(x)[labelled], y[labelled]).backward()
    a, X = array(A), array(x)
    a1 = a @ X @ array(lin1.weight).T
    h = np.maximum(a1, 0)
    z = a @ h @ array(lin2.weight).T
    e = np.zeros_like(z)
    e[labelled] = (softmax(z)[labelled] - np.eye(3)[y[labelled].numpy()]) / 2
    (B,) = shared_uniform(1, 3, [6])
    d = (e @ B) * (a1 > 0)  # an unlabelled node has no error, so it receives no signal
    close(lin1.weight.grad, (a.T @ d).T @ X)
    close(lin2.weight.grad, (a.T @ e).T @ h)


def test_siamese_streams_get_their_own_errors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False)

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
            a, b = self.encoder(x), self.encoder(z)
            return self.head(a).sum() + 3 * self.head(b).square().sum()

    model, x, z = Net(), torch.randn(6, 4), torch.randn(6, 4)
    fa.attach(model, fa.DFA(seed=8), points="encoder", output="head")
    model(x, z).backward()
    b = array(z) @ array(model.encoder.weight).T
    e_a, e_b = np.ones((6, 2)), 6 * b @ array(model.head.weight).T
    (B,) = shared_uniform(8, 2, [5])
    close(model.encoder.weight.grad, (e_a @ B).T @ array(x) + (e_b @ B).T @ array(z))


def test_several_outputs_form_one_error() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.first, self.second = nn.Linear(4, 5, bias=False), nn.Linear(5, 2), nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            h = self.body(x)
            return {"first": self.first(h), "second": self.second(h)}

    model, x = Net(), torch.randn(6, 4)
    fa.attach(model, fa.DFA(seed=9), points="body")
    model(x)["second"].sum().backward()  # the first head takes no part in the loss: its error is zero
    (B,) = shared_uniform(9, 5, [5])
    e = np.concatenate([np.zeros((6, 2)), np.ones((6, 3))], axis=1)
    close(model.body.weight.grad, (e @ B).T @ array(x))
