"""A small language model with its loss outside, and text-like tokens that have something to learn in them."""

import torch
from torch import Tensor, nn

VOCABULARY = 13


class LanguageModel(nn.Module):
    """[N, T] tokens to [N, T, C] logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=self.head.weight.dtype)
        return self.head(self.encoder(self.embedding(tokens), mask=mask, is_causal=True))


def build(dtype: torch.dtype = torch.float32) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LanguageModel().to(dtype)


def sentences(count: int, seed: int = 0, length: int = 9) -> tuple[Tensor, Tensor]:
    """Return tokens [N, T] and the tokens that follow them: every word tells which step comes next."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCABULARY, (count, 1), generator=generator)
    for _ in range(length):
        tokens = torch.cat([tokens, (3 * tokens[:, -1:] + 1) % VOCABULARY], 1)
    return tokens[:, :-1], tokens[:, 1:]
