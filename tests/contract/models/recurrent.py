"""Models that run over time: recurrent layers and cells, spiking networks, sequence to sequence, ordinary ODE loops."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from contract.models.case import Case, Given, Sizes

# Letters: n samples, t time steps, S steps of another sequence, L layers times directions, D width, C classes.


def series(s: Sizes) -> Given:
    return (torch.randn(s.n, s.t, s.d),)


def time_first(s: Sizes) -> Given:
    return (torch.randn(s.t, s.n, s.d),)


class Recurrent(nn.Module):
    """A recurrent layer and a head, with one output per step or one for the last step."""

    def __init__(self, layer: nn.Module, width: int, s: Sizes, last: bool = False) -> None:
        super().__init__()
        self.rnn, self.head, self.last = layer, nn.Linear(width, s.c), last

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.rnn(x)
        if self.last:
            steps = steps[:, -1] if self.rnn.batch_first else steps[-1]
        return self.head(steps)


class FinalState(nn.Module):
    """The final state of a recurrent layer is the code of a series."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(s.d, s.d, s.heads, batch_first=True), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[1][0][-1])


class TimeFirstInside(nn.Module):
    """Batch-first outside and time-first inside, as many speech models are."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.rnns = nn.ModuleList(nn.LSTM(s.d, s.d) for _ in range(2))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        for rnn in self.rnns:
            x = rnn(x)[0]
        return self.head(x.transpose(0, 1))


class Packed(nn.Module):
    """Series of different lengths, packed."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(s.d, s.d, batch_first=True), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


def ragged(s: Sizes) -> Given:
    return torch.randn(s.n, s.t, s.d), torch.tensor([s.t - 1, s.t, 1, 2][: s.n])


class Cells(nn.Module):
    """A cell in a loop over time, with an output at its end or one per step."""

    def __init__(self, cell: nn.Module, s: Sizes, every_step: bool = False) -> None:
        super().__init__()
        self.cell, self.head, self.every_step = cell, nn.Linear(s.d, s.c), every_step

    def forward(self, x: Tensor) -> Tensor:
        state, seen = None, []
        for step in x.unbind(1):
            state = self.cell(step, state)
            seen.append(state[0] if isinstance(state, tuple) else state)
        return self.head(torch.stack(seen, 1)) if self.every_step else self.head(seen[-1])


class Spike(torch.autograd.Function):
    """A step forward and a fast sigmoid's slope backward."""

    @staticmethod
    def forward(ctx: Any, voltage: Tensor) -> Tensor:
        ctx.save_for_backward(voltage)
        return (voltage > 0).to(voltage.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (voltage,) = ctx.saved_tensors
        return gradient / (1 + 5 * voltage.abs()) ** 2


class Leaky(nn.Module):
    """Leaky integrate-and-fire neurons; returns spikes and membrane voltages."""

    def forward(self, current: Tensor, voltage: Tensor) -> tuple[Tensor, Tensor]:
        voltage = 0.8 * voltage + current
        spikes = Spike.apply(voltage - 0.5)
        return spikes, voltage - 0.5 * spikes.detach()


class HoldingLeaky(nn.Module):
    """The same neurons, which hold their voltage themselves and return spikes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.neuron, self.voltage = Leaky(), torch.zeros(())

    def forward(self, current: Tensor) -> Tensor:
        spikes, self.voltage = self.neuron(current, self.voltage)
        return spikes


class Spiking(nn.Module):
    """Two layers of spiking neurons over time; the states are arguments."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(s.d, s.d), nn.Linear(s.d, s.d), nn.Linear(s.d, s.c)
        self.lif1, self.lif2 = Leaky(), Leaky()

    def forward(self, x: Tensor) -> Tensor:
        first = second = x.new_zeros(x.shape[1], self.fc1.out_features)
        out = []
        for step in x:
            spikes, first = self.lif1(self.fc1(step), first)
            spikes, second = self.lif2(self.fc2(spikes), second)
            out.append(self.fc3(spikes))
        return torch.stack(out)


class HiddenSpiking(nn.Module):
    """Neurons that hold their states; the output is the mean over time."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(s.d, s.d), nn.Linear(s.d, s.d), nn.Linear(s.d, s.c)
        self.lif1, self.lif2 = HoldingLeaky(), HoldingLeaky()

    def forward(self, x: Tensor) -> Tensor:
        self.lif1.voltage = self.lif2.voltage = x.new_zeros(())
        return torch.stack([self.fc3(self.lif2(self.fc2(self.lif1(self.fc1(step))))) for step in x]).mean(0)


class Translator(nn.Module):
    """A recurrent encoder, and a decoder that attends to it at every step (Bahdanau et al. 2015)."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.words, self.encoder, self.decoder = nn.Embedding(s.c, s.d), nn.GRU(s.d, s.d), nn.GRUCell(2 * s.d, s.d)
        self.score, self.head = nn.Bilinear(s.d, s.d, 1), nn.Linear(s.d, s.c)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:  # [N, S], [N, T]
        memory = self.encoder(self.words(source.T))[0]
        state, out = memory[-1], []
        for word in self.words(target).unbind(1):
            weights = self.score(memory, state.expand_as(memory)).softmax(0)
            state = self.decoder(torch.cat([word, (weights * memory).sum(0)], -1), state)
            out.append(self.head(state))
        return torch.stack(out, 1)


class Step(nn.Module):
    """One step of Euler's method for a learned ordinary differential equation."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(s.d + 1, s.d), nn.Linear(s.d, s.d)

    def forward(self, time: float, x: Tensor) -> Tensor:
        clocked = torch.cat([x, torch.full_like(x[:, :1], time)], 1)
        return x + 0.25 * self.outer(self.inner(clocked).tanh())


class NeuralODE(nn.Module):
    """Four steps with the same parameters."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.lift, self.step, self.head = nn.Linear(s.d, s.d), Step(s), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        for step in range(4):
            x = self.step(step / 4, x)
        return self.head(x)


def rows(s: Sizes) -> Given:
    return (torch.randn(s.n, s.d),)


def case(name: str, build: Any, given: Any, error: str, layout: dict[str, str], points: Any, **more: Any) -> Case:
    return Case(name, "own", build, given, (error,), layout, arguments={"points": points}, **more)


STATES = {"rnn[1]": "-", "rnn[2]": "-"}
RECURRENT = [
    case("nn.LSTM, batch-first", lambda s: Recurrent(nn.LSTM(s.d, s.d, batch_first=True), s.d, s), series, "n t C",
         {"rnn[0]": "n t D", **STATES}, "rnn[0]"),
    case("nn.LSTM, time-first", lambda s: Recurrent(nn.LSTM(s.d, s.d), s.d, s), time_first, "t n C",
         {"rnn[0]": "t n D", **STATES}, "rnn", notes="nothing reads the final states, which get no signal"),
    case("nn.LSTM, time-first inside", TimeFirstInside, series, "n t C",
         {"rnns.*[0]": "t n D", "rnns.*[1]": "-", "rnns.*[2]": "-"}, "rnns.*"),
    case("nn.GRU, bidirectional, last step", lambda s: Recurrent(
        nn.GRU(s.d, s.d, num_layers=2, bidirectional=True, batch_first=True), 2 * s.d, s, last=True), series, "n C",
         {"rnn[0]": "n S D", "rnn[1]": "-"}, "rnn"),
    case("nn.RNN, time-first, last step", lambda s: Recurrent(nn.RNN(s.d, s.d), s.d, s, last=True), time_first, "n C",
         {"rnn[0]": "S n D", "rnn[1]": "-"}, "rnn"),
    case("nn.LSTM, final state", FinalState, series, "n C", {"rnn[0]": "-", "rnn[1]": "L n D", "rnn[2]": "-"}, "rnn",
         notes="only the states [layers, N, D] are read"),
    case("nn.GRU, packed", Packed, ragged, "n t C", {"head:input": "n t D"}, "head:input",
         notes="the layer itself returns ragged rows, so the cut is where they are padded again"),
    case("nn.GRUCell, last step", lambda s: Cells(nn.GRUCell(s.d, s.d), s), series, "n C", {"cell": "n D"}, "cell"),
    case("nn.LSTMCell, every step", lambda s: Cells(nn.LSTMCell(s.d, s.d), s, every_step=True), series, "n t C",
         {"cell": "n D"}, "cell", stated=(False, True),
         notes="a state belongs to no step of the error, whose rows are added up for it"),
    case("spiking network, states passed on", Spiking, time_first, "t n C", {"lif*": "n D"}, ["lif1", "lif2"],
         stated=(False, True), notes="as snntorch has it: spikes and voltage [N, D] per step, outputs [T, N, C]"),
    case("spiking network, states held", HiddenSpiking, time_first, "n C", {"lif*": "n D"}, ["lif1", "lif2"]),
    case("sequence to sequence with attention", Translator,
         lambda s: (torch.randint(s.c, (s.n, s.s)), torch.randint(s.c, (s.n, s.t))), "n t C",
         {"encoder[0]": "S n D", "encoder[1]": "-", "decoder": "n D"}, ["encoder", "decoder"],
         stated=(False, True)),
    case("neural ODE", NeuralODE, rows, "n C", {"step": "n D"}, "step"),
]  # fmt: skip
