"""Models with several inputs, outputs or ways of being run: control, flows, towers, tables, translation, operators."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contract.models.case import Case, Given, Sizes
from contract.models.signals import Block, case, mlp

# Letters: n samples, t tokens of the output, S tokens of another sequence, D width, C width of the error.


def rows(s: Sizes) -> Given:
    return (torch.randn(s.n, s.d),)


def chain(inner: int, width: int, outer: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inner, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outer)
    )


class Critic(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.net = chain(s.d + 2, s.d, 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return self.net(torch.cat([state, action], 1))


class TwinCritics(nn.Module):
    """Of TD3 and SAC: two networks of one class side by side, which share nothing."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.q1, self.q2 = Critic(s), Critic(s)

    def forward(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        return self.q1(state, action), self.q2(state, action)


def acts(s: Sizes) -> Given:
    return torch.randn(s.n, s.d), torch.randn(s.n, 2)


class ActorCritic(nn.Module):
    """Of PPO: trained by ``evaluate_actions``, which returns values, log probabilities and entropies."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(s.d, s.d), nn.Tanh(), nn.Linear(s.d, s.d), nn.Tanh())
        self.policy, self.value = nn.Linear(s.d, s.c), nn.Linear(s.d, 1)

    def forward(self, state: Tensor) -> Tensor:
        return self.policy(self.trunk(state)).argmax(1)

    def evaluate_actions(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(state)
        chosen = torch.distributions.Categorical(logits=self.policy(features), validate_args=False)
        return self.value(features).squeeze(1), chosen.log_prob(action), chosen.entropy()


def proximal(value: Any, tapped: Any, given: Given) -> Tensor:
    """The clipped objective of PPO."""
    values, logs, entropies = tapped
    gains = torch.linspace(-1, 1, len(values))
    ratio = (logs - logs.detach() * 1.1).exp()
    objective = torch.min(ratio * gains, ratio.clamp(0.8, 1.2) * gains)
    return 0.5 * (values - gains).square().mean() - objective.mean() - 0.01 * entropies.mean()


class Dueling(nn.Module):
    """The dueling network of deep Q learning."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU())
        self.value = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, 1))
        self.advantage = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, state: Tensor) -> Tensor:
        features = self.features(state)
        advantage = self.advantage(features)
        return self.value(features) + advantage - advantage.mean(1, keepdim=True)


class SquashedActor(nn.Module):
    """Of SAC: mean and log standard deviation of an action."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.d), nn.ReLU())
        self.mean, self.spread = nn.Linear(s.d, 2), nn.Linear(s.d, 2)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        features = self.net(state)
        return self.mean(features), self.spread(features).clamp(-5, 2)


class Coupling(nn.Module):
    """An affine coupling of RealNVP; the log determinant is handed from layer to layer."""

    def __init__(self, width: int, flip: bool) -> None:
        super().__init__()
        self.half, self.flip = width // 2, flip
        self.net = nn.Sequential(nn.Linear(width // 2, 12), nn.Tanh(), nn.Linear(12, width))

    def forward(self, x: Tensor, log_det: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.half, 1)
        if self.flip:
            first, second = second, first
        scale, shift = self.net(first).chunk(2, 1)
        second = second * scale.tanh().exp() + shift
        halves = (second, first) if self.flip else (first, second)
        return torch.cat(halves, 1), log_det + scale.tanh().sum(1)


class Flow(nn.Module):
    """A normalising flow, trained by ``log_prob`` or ``forward_kld`` and never by ``forward``."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(s.d, bool(i % 2)) for i in range(3))

    def log_prob(self, x: Tensor) -> Tensor:
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            x, log_det = coupling(x, log_det)
        return log_det - 0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def forward_kld(self, x: Tensor) -> Tensor:
        return -self.log_prob(x).mean()


@dataclass
class Embeddings:
    """What two towers return."""

    text: Tensor
    image: Tensor
    temperature: float = 5.0


class Towers(nn.Module):
    """Two towers that share nothing, as in CLIP, and a dataclass of their embeddings."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.words, self.pixels = nn.Embedding(s.c, s.d), nn.Linear(6, s.d)
        self.text = nn.Sequential(*(Block(s.d, s.heads) for _ in range(2)))
        self.image = nn.Sequential(*(Block(s.d, s.heads) for _ in range(2)))
        self.to_text, self.to_image = nn.Linear(s.d, s.c), nn.Linear(s.d, s.c)

    def forward(self, text: Tensor, image: Tensor) -> Embeddings:
        text, image = self.text(self.words(text)).mean(1), self.image(self.pixels(image)).mean(1)
        return Embeddings(F.normalize(self.to_text(text), dim=1), F.normalize(self.to_image(image), dim=1))


def contrastive(value: Any, tapped: Any, given: Given) -> Tensor:
    scores = 5 * tapped[0] @ tapped[1].T
    return F.cross_entropy(scores, torch.arange(len(scores)))


class SimCLR(nn.Module):
    """Two views of each sample through one encoder."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU())
        self.projector = nn.Linear(s.d, s.c)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        return self.projector(self.encoder(first)), self.projector(self.encoder(second))


class TwoTowerRecommender(nn.Module):
    """A user's and an item's tower; one score per pair."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, s.d), nn.Embedding(9, s.d)
        self.user_net = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, 4))
        self.item_net = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, 4))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user_net(self.user(user)) * self.item_net(self.item(item))).sum(1)


class FactorisationNetwork(nn.Module):
    """DeepFM: pairwise products of embeddings, and a network on all of them; one logit per row."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.fields, self.linear = nn.Embedding(20, 3), nn.Embedding(20, 1)
        self.deep = chain(3 * s.t, s.d, 1)

    def forward(self, x: Tensor) -> Tensor:
        fields = self.fields(x)
        pairs = 0.5 * (fields.sum(1).square() - fields.square().sum(1)).sum(1)
        return self.linear(x).sum((1, 2)) + pairs + self.deep(fields.flatten(1)).squeeze(1)


class TableTransformer(nn.Module):
    """FT-Transformer: every column of a table is a token; as TabTransformer for categories."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(s.t, s.d)), nn.Parameter(torch.zeros(s.t, s.d))
        self.categories, self.cls = nn.Embedding(9, s.d), nn.Parameter(torch.zeros(s.d))
        self.blocks = nn.ModuleList(Block(s.d, s.heads) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        columns = [self.cls.expand(len(numbers), 1, -1), numbers[..., None] * self.weight + self.bias]
        x = torch.cat([*columns, self.categories(categories)], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class DeepONet(nn.Module):
    """An operator: functions given by samples, evaluated at places that all of them share."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.branch, self.trunk = chain(s.d, s.d, 4), chain(1, s.d, 4)

    def forward(self, functions: Tensor, places: Tensor) -> Tensor:
        return self.branch(functions) @ self.trunk(places).T


class HyperNetwork(nn.Module):
    """A network that makes the weights of another from a code that is not part of the batch."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.hyper = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, s.d * s.d))
        self.act, self.head = nn.ReLU(), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        weight = self.hyper(code).view(x.shape[1], x.shape[1])
        return self.head(self.act(F.linear(x, weight)))


class NanoGPT(nn.Module):
    """Given targets, returns logits and the loss, as nanoGPT does; the decoder is the embedding."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(s.c, s.d), nn.Embedding(16, s.d)
        self.h = nn.ModuleList(CausalBlock(s.d, s.heads) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(s.d), nn.Linear(s.d, s.c, bias=False)
        self.wte.weight = self.lm_head.weight

    def forward(self, words: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        x = self.wte(words) + self.wpe(torch.arange(words.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())


class CausalBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2, self.mlp = nn.LayerNorm(width), nn.LayerNorm(width), mlp(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y, mask = self.ln_1(x), nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Residual(nn.Module):
    """Adds a branch to the stream."""

    def forward(self, branch: Tensor, stream: Tensor) -> Tensor:
        return branch + stream


class LayerTriples(nn.Module):
    """As in x-transformers: triples of norm, branch and residual."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(s.c, s.d), nn.Linear(s.d, s.c)
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.LayerNorm(s.d), SelfAttention(s.d, s.heads) if i % 2 == 0 else mlp(s.d), Residual()])
            for i in range(4)
        )

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for norm, branch, residual in self.layers:
            x = residual(branch(norm(x)), x)
        return self.head(x)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x, need_weights=False)[0]


def words(*lengths: str) -> Any:
    return lambda s: tuple(torch.randint(s.c, (s.n, getattr(s, length))) for length in lengths)


class TorchTranslator(nn.Module):
    """``nn.Transformer``, time-first as it is by default."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = nn.Embedding(s.c, s.d)
        self.transformer = nn.Transformer(s.d, s.heads, 2, 2, 12, dropout=0.0)
        self.head = nn.Linear(s.d, s.c)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.transformer(self.embed(source.T), self.embed(target.T), tgt_mask=mask))


class TorchEncoder(nn.Module):
    """``nn.TransformerEncoder``, time-first inside and batch-first outside."""

    def __init__(self, s: Sizes, pooled: bool = False) -> None:
        super().__init__()
        self.embed, self.pooled = nn.Embedding(s.c, s.d), pooled
        layer = nn.TransformerEncoderLayer(s.d, s.heads, 12, dropout=0.0)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder(self.embed(x.T))
        return self.head(x.mean(0)) if self.pooled else self.head(x).transpose(0, 1)


class Sigmoids(nn.Module):
    """A decoder of neural processes: a context set, summed up, tells how targets are read."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, s.d), nn.ReLU(), nn.Linear(s.d, s.d), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(s.d + 1, s.d), nn.ReLU(), nn.Linear(s.d, 2))

    def forward(self, context: Tensor, places: Tensor) -> Tensor:
        summary = self.encoder(context).mean(1, keepdim=True).expand(-1, places.shape[1], -1)
        return self.decoder(torch.cat([summary, places], -1))


COUPLINGS = {"couplings.0[0]": "n D", "couplings.0[1]": "n", "couplings.1[0]": "n D", "couplings.1[1]": "n"}
SYSTEMS = [
    case("twin critics", TwinCritics, acts, ("n C", "n C"), {"q*.net.1": "n D", "q*.net.3": "n D"},
         notes="each critic hears its own error"),
    case("actor-critic", ActorCritic, lambda s: (torch.randn(s.n, s.d), torch.randint(s.c, (s.n,))),
         ("n", "n", "n"), {"trunk.1": "n D", "trunk.3": "n D"}, method="evaluate_actions", loss=proximal,
         arguments={"points": ["trunk.1", "trunk.3"]}),
    case("dueling Q network", Dueling, rows, "n C", {"features.1": "n D", "value.1": "n D", "advantage.1": "n D"}),
    case("actor of SAC", SquashedActor, rows, ("n C", "n C"), {"net.1": "n D", "net.3": "n D"}),
    case("normalising flow, log_prob", Flow, rows, "n", COUPLINGS, method="log_prob",
         notes="the last coupling is left open, as the block that ends the model"),
    case("normalising flow, forward_kld", Flow, rows, ("n C", "n"), COUPLINGS, module="couplings.2",
         method="forward_kld", loss=lambda value, tapped, given: value, inside=True,
         arguments={"points": ["couplings.0", "couplings.1"], "output": "couplings.2"},
         notes="the method returns a loss, so the output is named"),
    case("two towers, contrastive", Towers, lambda s: (torch.randint(s.c, (s.n, s.t)), torch.randn(s.n, s.s, 6)),
         ("n C", "n C"), {"text.*": "n S D", "image.*": "n S D"}, loss=contrastive,
         notes="a dataclass; each tower hears its own embedding"),
    case("SimCLR", SimCLR, lambda s: (torch.randn(s.n, s.d), torch.randn(s.n, s.d)), ("n C", "n C"),
         {"encoder": "n D"}, arguments={"points": "encoder"}, loss=contrastive,
         notes="one encoder for two views: each call hears its own view"),
    case("recommender of two towers", TwoTowerRecommender, lambda s: tuple(torch.randint(9, (2, s.n))), "n",
         {"user_net.1": "n D", "item_net.1": "n D"}),
    case("DeepFM", FactorisationNetwork, lambda s: (torch.randint(20, (s.n, s.t)),), "n",
         {"deep.1": "n D", "deep.3": "n D"}),
    case("FT-Transformer", TableTransformer, lambda s: (torch.randn(s.n, s.t), torch.randint(9, (s.n, 2))), "n C",
         {"blocks.*": "n S D"}),
    case("DeepONet", DeepONet, lambda s: (torch.randn(s.n, s.d), torch.randn(s.t, 1)), "n C",
         {"branch.1": "n D", "branch.3": "n D", "trunk.1": "P D", "trunk.3": "P D"},
         stated=(False, True), notes="the places of the trunk belong to no sample, and hear the sum of all"),
    case("hypernetwork", HyperNetwork, lambda s: (torch.randn(s.n, s.d), torch.randn(3)), "n C",
         {"hyper.1": "D", "act": "n D"}, arguments={"points": ["hyper.1", "act"]},
         notes="the code belongs to no sample, and hears the sum of all"),
    case("neural process", Sigmoids, lambda s: (torch.randn(s.n, s.s, 2), torch.randn(s.n, s.t, 1)), "n t C",
         {"encoder.1": "n S D", "encoder.3": "n S D", "decoder.1": "n t D"},
         stated=(False, True)),
    Case("nanoGPT", "own", NanoGPT, words("t", "t"), ("n t C",), {"h.*": "n t D"}, tap=lambda value: [value[0]],
         loss=lambda value, tapped, given: value[1], inside=True),
    case("Transformer, as in x-transformers", LayerTriples, words("t"), "n t C", {"layers.*.2": "n t D"},
         arguments={"points": "layers.*.2"}),
    case("nn.Transformer, time-first", TorchTranslator, words("s", "t"), "t n C",
         {"transformer.encoder.layers.*": "S n D", "transformer.decoder.layers.*": "t n D"},
         stated=(False, True)),
    case("nn.TransformerEncoder, time-first inside", TorchEncoder, words("t"), "n t C", {"encoder.layers.*": "t n D"}),
    case("nn.TransformerEncoder, time-first, pooled", lambda s: TorchEncoder(s, pooled=True), words("t"), "n C",
         {"encoder.layers.*": "S n D"}),
]  # fmt: skip
