"""Points found by themselves: which modules of a model are its blocks, its sub-layers, its chains."""

import copy
import sys
import warnings
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
import torch_geometric.nn as pyg
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import feedalign as fa
from feedalign.advice import Untried, behind_convolutions
from feedalign.points import Point, select

# ---- models ----------------------------------------------------------------------------------------------------------


class MLP(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.net = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class WithFunctions(nn.Module):
    def __init__(self, a: int, b: int, c: int, d: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(a, b), nn.Linear(b, c), nn.Linear(c, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(F.relu(self.second(F.relu(self.first(x)))))


class TwinCritics(nn.Module):
    def __init__(self, *sizes: int, kind: type[nn.Module] = MLP) -> None:
        super().__init__()
        self.q1, self.q2 = kind(*sizes), kind(*sizes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.q1(x), self.q2(x)


class ManyCritics(nn.Module):
    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.critics = nn.ModuleList(MLP(*sizes) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([critic(x) for critic in self.critics])


class Agent(nn.Module):
    """Trained by methods: it has no forward of its own."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.actor, self.q1, self.q2 = MLP(4, hidden, 2), MLP(6, hidden, 1), MLP(6, hidden, 1)


class ActorCritic(nn.Module):
    """Its forward is the actor's; the critic is called by a method."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic, self.log_std = MLP(4, 8, 2), WithFunctions(4, 8, 8, 1), nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.actor(x) + self.log_std.exp()

    def value(self, x: Tensor) -> Tensor:
        return self.critic(x)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = MLP(8, 6, 3), MLP(3, 6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class Feedforward(nn.Module):
    def __init__(self, width: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.f = Feedforward(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class OneLayer(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.linear(x)).relu()


class Stack(nn.Module):
    def __init__(self, depth: int, kind: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(kind() for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class EncoderDecoder(nn.Module):
    def __init__(self, depth: int, kind: Callable[[], nn.Module] = Residual) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = Stack(depth, kind), Stack(depth, kind), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decoder(self.encoder(x)))


class Towers(nn.Module):
    """Encoders side by side, one per view, whose codes are added."""

    def __init__(self) -> None:
        super().__init__()
        self.towers, self.head = nn.ModuleList(Stack(2, Residual) for _ in range(4)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum(tower(x) for tower in self.towers))


class Attention(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


class Head(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(width, size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.query(x) @ self.key(x).transpose(-2, -1)).softmax(-1) @ self.value(x)


class Heads(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.heads, self.proj = nn.ModuleList(Head(width, width // 2) for _ in range(2)), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], -1))


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Block(nn.Module):
    """A block as in timm, with what may repeat inside: helpers, the heads of attention, two MLPs, experts."""

    def __init__(self, inside: str = "") -> None:
        super().__init__()
        self.inside = inside
        self.norm1, self.attn = nn.LayerNorm(8), Heads() if inside == "heads" else Attention()
        self.ls1, self.drop_path1 = LayerScale(8), DropPath()
        self.norm2, self.mlp, self.ls2, self.drop_path2 = nn.LayerNorm(8), Feedforward(), LayerScale(8), DropPath()
        if inside == "mlps":
            self.mlps = nn.ModuleList([Feedforward(), Feedforward()])
        if inside == "numbered":
            self.ffn1, self.ffn2 = Feedforward(), Feedforward()
        if inside == "experts":
            self.gate, self.experts = nn.Linear(8, 6), nn.ModuleList(Feedforward() for _ in range(6))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        h = self.mlp(self.norm2(x))
        if self.inside == "mlps":
            for mlp in self.mlps:
                h = mlp(h)
        if self.inside == "numbered":
            h = self.ffn2(self.ffn1(h))
        if self.inside == "experts":
            weights = self.gate(h).softmax(-1)
            h = sum(weights[..., i : i + 1] * expert(h) for i, expert in enumerate(self.experts))
        return x + self.drop_path2(self.ls2(h))


class ClassAttentionBlock(Block):
    pass


class PatchEmbed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class ViT(nn.Module):
    def __init__(self, depth: int = 2, inside: str = "") -> None:
        super().__init__()
        self.patch_embed, self.pos_drop = PatchEmbed(), nn.Dropout(0.0)
        self.blocks = nn.Sequential(*(Block(inside) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.pos_drop(self.patch_embed(x)))).mean(1))


class CaiT(nn.Module):
    """Blocks of two kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed()
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.blocks_token_only = nn.ModuleList(ClassAttentionBlock() for _ in range(2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in [*self.blocks, *self.blocks_token_only]:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(width), Feedforward(tokens)
        self.norm2, self.mlp_channels = nn.LayerNorm(width), Feedforward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class GatedBlock(nn.Module):
    """Its last layer, in the order of definition, is not the last to run."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.w1, self.w2, self.w3 = nn.LayerNorm(8), nn.Linear(8, 20), nn.Linear(20, 8), nn.Linear(8, 20)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


class Decoder(nn.Module):
    """A language model whose forward depends on values, with a head or with its embedding for one."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(11, 8), nn.ModuleList(GatedBlock() for _ in range(2))
        self.head = self.embedding if tied else nn.Linear(8, 11)
        self.tied = tied

    def forward(self, x: Tensor) -> Tensor:
        assert x.max() < 11
        h = self.embedding(x)
        for layer in self.layers:
            h = layer(h)
        return F.linear(h, self.head.weight) if self.tied else self.head(h)


class FunctionalHead(nn.Module):
    """Its head is a function of the embedding's weight, behind the last block."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layers = nn.Embedding(11, 8), nn.ModuleList(GatedBlock() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        for layer in self.layers:
            h = layer(h)
        return F.linear(h, self.embedding.weight)


class HeadFirst(nn.Module):
    """Its head is defined before its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.layers = nn.Linear(8, 3), nn.ModuleList(Residual() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class ConvNormAct(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class BasicBlock(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1), nn.BatchNorm2d(outside)
        self.act, self.downsample = nn.ReLU(), None
        if stride > 1 or inside != outside:
            self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.downsample is None else self.downsample(x)
        return self.act(skip + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """As in timm: a stem of helpers, then stages of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(ConvNormAct(3, 4), ConvNormAct(4, 4), nn.Conv2d(4, 8, 3))
        self.bn1, self.act1, self.maxpool = nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        self.layer1 = nn.Sequential(BasicBlock(8, 8), BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2), BasicBlock(16, 16))
        self.layer3 = nn.Sequential(BasicBlock(16, 32, 2))
        self.fc = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_dw, self.norm = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.GroupNorm(1, width)
        self.pw1, self.act, self.pw2 = nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pw2(self.act(self.pw1(self.norm(self.conv_dw(x)))))


class Stage(nn.Module):
    def __init__(self, inside: int, outside: int, depth: int) -> None:
        super().__init__()
        self.downsample = nn.Sequential(nn.GroupNorm(1, inside), nn.Conv2d(inside, outside, 1))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(outside) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    def __init__(self, widths: Iterable[int], depths: Iterable[int]) -> None:
        super().__init__()
        self.stem, before, stages = nn.Conv2d(3, 8, 2, 2), 8, []
        for width, depth in zip(widths, depths, strict=True):
            stages.append(Stage(before, width, depth))
            before = width
        self.stages, self.head = nn.Sequential(*stages), nn.Linear(before, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)).mean((2, 3)))


class DoubleConv(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU(), nn.Conv2d(outside, outside, 3, padding=1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inc, self.down1, self.down2 = DoubleConv(3, 8), DoubleConv(8, 16), DoubleConv(16, 32)
        self.up1, self.conv1 = nn.ConvTranspose2d(32, 16, 2, 2), DoubleConv(32, 16)
        self.up2, self.conv2 = nn.ConvTranspose2d(16, 8, 2, 2), DoubleConv(16, 8)
        self.outc = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.inc(x)
        b = self.down1(F.max_pool2d(a, 2))
        c = self.down2(F.max_pool2d(b, 2))
        return self.outc(self.conv2(torch.cat([a, self.up2(self.conv1(torch.cat([b, self.up1(c)], 1)))], 1)))


class SkipConnection(nn.Module):
    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.submodule(x)], 1)


class NestedUNet(nn.Module):
    """As in MONAI: each level is a sequence around the next, and the last block is the output."""

    def __init__(self) -> None:
        super().__init__()
        bottom = SkipConnection(DoubleConv(8, 8))
        middle = SkipConnection(nn.Sequential(DoubleConv(4, 8), bottom, DoubleConv(16, 4)))
        self.model = nn.Sequential(DoubleConv(1, 4), middle, DoubleConv(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class DenseLayer(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, 16, 1)
        self.norm2, self.conv2 = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: list[Tensor]) -> Tensor:
        return self.conv2(self.norm2(self.conv1(self.norm1(torch.cat(x, 1)).relu())).relu())


class DenseBlock(nn.ModuleDict):
    def __init__(self, inside: int, depth: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(inside + 4 * i) for i in range(depth)})

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        transition = nn.Sequential(nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1))
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), DenseBlock(8, 2), transition, DenseBlock(8, 3))
        self.classifier = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Inception(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.branch1, self.branch2 = ConvNormAct(inside, 4), nn.Sequential(ConvNormAct(inside, 4), ConvNormAct(4, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNormAct(3, 8), ConvNormAct(8, 8)
        self.inception3a, self.inception3b, self.fc = Inception(8), Inception(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inception3b(self.inception3a(self.conv2(self.conv1(x)))).mean((2, 3)))


class LoopTransformer(nn.Module):
    """As in vit-pytorch: the residual stream is a variable of its forward."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList([Attention(), Feedforward()]) for _ in range(depth))
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        for attention, feedforward in self.layers:
            x = attention(x) + x
            x = feedforward(x) + x
        return self.norm(x)


class LoopViT(nn.Module):
    def __init__(self, depth: int = 2) -> None:
        super().__init__()
        self.embed, self.transformer, self.head = PatchEmbed(), LoopTransformer(depth), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.transformer(self.embed(x)).mean(1))


class SequentialBlock(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = weight_norm(nn.Linear(8, 16)), weight_norm(nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x).relu())


class Crossing(nn.Module):
    """Its layer makes one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Linear(8, 1, bias=False), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight(x) + self.bias + x


class OtherBlock(nn.Module):
    """One of another kind in a list of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x).tanh())


def around(*inside: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), *inside, nn.Linear(8, 2))


def repeated(module: nn.Module, times: int) -> nn.Module:
    return nn.Sequential(*[module] * times)


# ---- their blocks ----------------------------------------------------------------------------------------------------


def numbered(prefix: str, *counts: int, inner: str = "") -> list[str]:
    """Return ``prefix0, prefix1, ..``, or with several counts ``prefix0 + inner + 0, ..``."""
    if len(counts) == 1:
        return [f"{prefix}{i}" for i in range(counts[0])]
    return [f"{prefix}{i}{inner}{j}" for i, count in enumerate(counts) for j in range(count)]


def found(model: nn.Module, points: str = "auto") -> list[str]:
    return [str(point) for point in select(model, points)]


BLOCKS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "encoder-decoder": (lambda: EncoderDecoder(6), [*numbered("encoder.block.", 6), *numbered("decoder.block.", 6)]),
    "encoder-decoder-2": (lambda: EncoderDecoder(2), [*numbered("encoder.block.", 2), *numbered("decoder.block.", 2)]),
    "encoder-decoder-1": (lambda: EncoderDecoder(1), ["encoder.block.0", "decoder.block.0"]),
    "encoder-decoder-layers": (
        lambda: EncoderDecoder(3, OneLayer),
        [*numbered("encoder.block.", 3), *numbered("decoder.block.", 3)],
    ),
    "towers": (Towers, numbered("towers.", 2, 2, 2, 2, inner=".block.")),
    "vit": (ViT, numbered("blocks.", 2)),
    "vit-1": (lambda: ViT(1), ["blocks.0"]),
    "vit-heads": (lambda: ViT(2, "heads"), numbered("blocks.", 2)),
    "vit-two-mlps": (lambda: ViT(2, "mlps"), numbered("blocks.", 2)),
    "vit-two-mlps-1": (lambda: ViT(1, "mlps"), ["blocks.0"]),
    "vit-numbered-mlps": (lambda: ViT(2, "numbered"), numbered("blocks.", 2)),
    "vit-experts": (lambda: ViT(2, "experts"), numbered("blocks.", 2)),
    "cait": (CaiT, [*numbered("blocks.", 3), *numbered("blocks_token_only.", 2)]),
    "mixer": (lambda: around(MixerBlock(5, 8), MixerBlock(5, 8)), ["1", "2"]),
    "mixer-square": (lambda: around(MixerBlock(8, 8), MixerBlock(8, 8)), ["1", "2"]),
    "gated": (Decoder, numbered("layers.", 2)),
    "gated-tied": (lambda: Decoder(tied=True), numbered("layers.", 2)),
    "functional-head": (FunctionalHead, numbered("layers.", 2)),
    "head-first": (HeadFirst, numbered("layers.", 2)),
    "resnet": (ResNet, ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0"]),
    "convnext": (lambda: ConvNeXt((8, 16, 32), (2, 1, 3)), numbered("stages.", 2, 1, 3, inner=".blocks.")),
    "convnext-one-width": (lambda: ConvNeXt((8, 8), (2, 2)), numbered("stages.", 2, 2, inner=".blocks.")),
    "unet": (UNet, ["inc", "down1", "down2", "conv1", "conv2"]),
    "densenet": (
        DenseNet,
        [*numbered("features.1.denselayer", 3)[1:], *numbered("features.3.denselayer", 4)[1:]],
    ),
    "googlenet": (GoogLeNet, ["inception3a", "inception3b"]),
    "convolutions": (
        lambda: nn.Sequential(ConvNormAct(3, 4), ConvNormAct(4, 8), nn.Flatten(), nn.Linear(8, 2)),
        ["0", "1"],
    ),
    "loop": (LoopViT, numbered("transformer.layers.", 2, 2, inner=".")),
    "sequential-subclass": (lambda: around(SequentialBlock(), SequentialBlock()), ["1", "2"]),
    "weight-norm": (lambda: around(Normalised(), Normalised()), ["1", "2"]),
    "crossings": (lambda: around(Crossing(), Crossing(), Crossing()), ["1", "2", "3"]),
    "one-block-run-three-times": (lambda: around(repeated(Residual(), 3)), ["1.0"]),
    "two-kinds-in-a-list": (
        lambda: around(Stack(1, lambda: nn.ModuleList([Residual(), OtherBlock(), Residual()])).block[0]),
        ["1.0", "1.1", "1.2"],
    ),
    "transformer": (
        lambda: nn.Sequential(nn.Transformer(8, 2, 2, 2, 16, batch_first=True), nn.Linear(8, 3)),
        [*numbered("0.encoder.layers.", 2), *numbered("0.decoder.layers.", 2)],
    ),
    # What shapes the output itself is left out.
    "last-is-output": (lambda: nn.Sequential(nn.Linear(4, 8), Residual(), Residual(), Residual()), ["1", "2"]),
    "last-before-softmax": (
        lambda: nn.Sequential(nn.Linear(4, 8), Residual(), Residual(), Residual(), nn.Softmax(-1)),
        ["1", "2"],
    ),
    "nested-unet": (
        NestedUNet,
        ["model.0", "model.1.submodule.0", "model.1.submodule.1.submodule", "model.1.submodule.2"],
    ),
    "encoder-alone": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False),
        numbered("layers.", 2),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("points", ["auto", "macro"])
def test_blocks(name: str, points: str) -> None:
    build, expected = BLOCKS[name]
    assert found(build(), points) == expected


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
IMAGE = {"image_size": 16, "patch_size": 4}
SEQ2SEQ = {
    "vocab_size": 30, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 20,
}  # fmt: skip
T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "window_size": 2}
BASIC = {"embedding_size": 8, "layer_type": "basic"}
SEGFORMER = {"hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 2], "decoder_hidden_size": 16}
MOE = {"num_experts": 4, "encoder_sparse_step": 2, "decoder_sparse_step": 2}

TRANSFORMERS: dict[str, tuple[str, dict[str, object], list[str]]] = {
    "T5ForConditionalGeneration": (
        "T5Config", T5 | {"num_layers": 3}, [*numbered("encoder.block.", 3), *numbered("decoder.block.", 3)]
    ),
    "T5ForConditionalGeneration-1": ("T5Config", T5 | {"num_layers": 1}, ["encoder.block.0", "decoder.block.0"]),
    "BartForConditionalGeneration": (
        "BartConfig", SEQ2SEQ, [*numbered("model.encoder.layers.", 2), *numbered("model.decoder.layers.", 2)]
    ),
    "CLIPModel": (
        "CLIPConfig",
        {"text_config": TINY | {"vocab_size": 30}, "vision_config": TINY | IMAGE, "projection_dim": 12},
        [*numbered("text_model.encoder.layers.", 2), *numbered("vision_model.encoder.layers.", 2)],
    ),
    "SwinForImageClassification": (
        "SwinConfig", SWIN | {"depths": [2, 2, 1], "num_heads": [1, 2, 2]},
        numbered("swin.encoder.layers.", 2, 2, 1, inner=".blocks."),
    ),
    "ViTForImageClassification": ("ViTConfig", TINY | IMAGE, numbered("vit.layers.", 2)),
    "ViTForImageClassification-1": ("ViTConfig", TINY | IMAGE | {"num_hidden_layers": 1}, ["vit.layers.0"]),
    "GPT2LMHeadModel": (
        "GPT2Config", {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2}, numbered("transformer.h.", 2)
    ),
    "LlamaForCausalLM": ("LlamaConfig", TINY | {"vocab_size": 30}, numbered("model.layers.", 2)),
    "BertForSequenceClassification": ("BertConfig", TINY | {"vocab_size": 30}, numbered("bert.encoder.layer.", 2)),
    "AlbertForMaskedLM": (
        "AlbertConfig", TINY | {"vocab_size": 30, "embedding_size": 8},
        ["albert.encoder.albert_layer_groups.0.albert_layers.0"],
    ),
    "ResNetForImageClassification": (
        "ResNetConfig", BASIC | {"hidden_sizes": [8, 16], "depths": [2, 2]},
        numbered("resnet.encoder.stages.", 2, 2, inner=".layers."),
    ),
    "ResNetForImageClassification-1": (
        "ResNetConfig", BASIC | {"hidden_sizes": [8, 16], "depths": [1, 2]},
        numbered("resnet.encoder.stages.", 1, 2, inner=".layers."),
    ),
    "ResNetForImageClassification-one-width": (
        "ResNetConfig", BASIC | {"hidden_sizes": [8, 8], "depths": [2, 2]},
        numbered("resnet.encoder.stages.", 2, 2, inner=".layers."),
    ),
    "SegformerForSemanticSegmentation": (
        "SegformerConfig", SEGFORMER | {"depths": [2, 2, 2, 2]},
        numbered("segformer.stages.", 2, 2, 2, 2, inner=".blocks."),
    ),
    "NllbMoeForConditionalGeneration": (
        "NllbMoeConfig", SEQ2SEQ | MOE, [*numbered("model.encoder.layers.", 2), *numbered("model.decoder.layers.", 2)]
    ),
    "MobileNetV2ForImageClassification": (
        "MobileNetV2Config", {"depth_multiplier": 0.25, "image_size": 32}, numbered("mobilenet_v2.layer.", 16)
    ),
    "Wav2Vec2ConformerForCTC": (
        "Wav2Vec2ConformerConfig",
        TINY | {"vocab_size": 30, "conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3)}
        | {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
        numbered("wav2vec2_conformer.encoder.layers.", 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_blocks_of_transformers(name: str) -> None:
    config, options, expected = TRANSFORMERS[name]
    model = getattr(transformers, name.split("-")[0])(getattr(transformers, config)(**options))
    assert found(model) == expected


class GraphClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = pyg.GCNConv(8, 16), pyg.GCNConv(16, 16), pyg.GCNConv(16, 16)
        self.lin = nn.Linear(16, 3)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x, edge_index).relu(), edge_index).relu()
        return self.lin(pyg.global_mean_pool(self.conv3(x, edge_index), batch))


class NodeClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(8, 16), pyg.GCNConv(16, 3)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return F.log_softmax(self.conv2(self.conv1(x, edge_index).relu(), edge_index), 1)


GRAPHS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "gcn": (lambda: pyg.GCN(8, 16, 3, 4), numbered("convs.", 2)),
    "gcn-one-width": (lambda: pyg.GCN(16, 16, 3, 16), numbered("convs.", 2)),
    "gat": (lambda: pyg.GAT(8, 16, 3, 4, heads=2), numbered("convs.", 2)),
    "sage": (lambda: pyg.GraphSAGE(8, 16, 3, 4), numbered("convs.", 2)),
    "gin": (lambda: pyg.GIN(8, 16, 3, 4, norm="batch_norm"), numbered("convs.", 2)),
    "gcn-jumping-knowledge": (lambda: pyg.GCN(8, 16, 3, 4, jk="cat"), numbered("convs.", 3)),
    "mlp": (lambda: pyg.MLP([8, 16, 16, 4]), ["act"]),
    "schnet": (
        lambda: pyg.SchNet(hidden_channels=16, num_filters=16, num_interactions=2, num_gaussians=5),
        numbered("interactions.", 2),
    ),
    "graphs": (GraphClassifier, ["conv1", "conv2", "conv3"]),
    "nodes": (NodeClassifier, ["conv1"]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_blocks_of_graph_networks(name: str) -> None:
    build, expected = GRAPHS[name]
    assert found(build()) == expected


def test_stages_hold_blocks_beside_a_list_of_patches_and_of_heads() -> None:
    """Helpers in lists of their own (patch embeddings, heads of several tasks) are no points."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.ModuleList(PatchEmbed() for _ in range(2))
            self.blocks = nn.ModuleList(nn.ModuleList(Block() for _ in range(2)) for _ in range(2))
            self.heads = nn.ModuleList(MLP(8, 8, 3) for _ in range(3))

        def forward(self, x: Tensor) -> list[Tensor]:
            x = self.patches[0](x)
            for block in [*self.blocks[0], *self.blocks[1]]:
                x = block(x)
            return [head(x) for head in self.heads]

    assert found(Pyramid()) == numbered("blocks.", 2, 2, inner=".")


def test_micro_keeps_the_sublayers_of_a_block_that_is_left_out() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    model = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    assert found(model, "macro") == ["1.layers.0"]
    assert found(model, "micro") == ["1.layers.0", *(f"1.layers.0.{name}" for name in ("dropout", "norm1", "norm2"))]


# ---- chains ----------------------------------------------------------------------------------------------------------

CHAINS: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "twin-critics": (lambda: TwinCritics(6, 32, 32, 1), ["q1.net.1", "q1.net.3", "q2.net.1", "q2.net.3"]),
    "twin-critics-hidden-as-wide-as-the-input": (
        lambda: TwinCritics(32, 32, 32, 1),
        ["q1.net.1", "q1.net.3", "q2.net.1", "q2.net.3"],
    ),
    "twin-critics-of-one-width": (
        lambda: TwinCritics(4, 4, 4, 4),
        ["q1.net.1", "q1.net.3", "q2.net.1", "q2.net.3"],
    ),
    "twin-critics-functional": (
        lambda: TwinCritics(6, 32, 32, 1, kind=WithFunctions),
        ["q1.second:input", "q1.third:input", "q2.second:input", "q2.third:input"],
    ),
    "many-critics": (lambda: ManyCritics(4, 4, 4), [f"critics.{i}.net.1" for i in range(3)]),
    "agent": (lambda: Agent(32), ["actor.net.1", "q1.net.1", "q2.net.1"]),
    "agent-hidden-as-wide-as-the-input": (lambda: Agent(6), ["actor.net.1", "q1.net.1", "q2.net.1"]),
    "actor-critic": (ActorCritic, ["actor.net.1", "critic.second:input", "critic.third:input"]),
    "autoencoder": (Autoencoder, ["encoder.net.1", "decoder.net.1"]),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyBatchNorm1d(), nn.LazyLinear(3)), ["1"]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_towers_that_are_chains(name: str) -> None:
    build, expected = CHAINS[name]
    assert found(build()) == expected
    with pytest.raises(fa.PointsError, match=r"points='macro' needs blocks that repeat"):
        found(build(), "macro")


def test_a_model_that_cannot_be_traced_has_its_functions_found_in_its_parts() -> None:
    class Untraced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = WithFunctions(4, 8, 8, 8), MLP(4, 8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.left(x) if x.sum() > 0 else self.right(x))

    assert found(Untraced()) == ["left.second:input", "left.third:input", "right.net.1"]


def test_readers_behind_many_forks_are_found_at_once() -> None:
    class Forks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x))
            for _ in range(60):
                x = x + 2 * x  # 2 ** 60 ways through
            return self.last(x)

    assert found(Forks()) == ["last:input"]


# ---- how they are found ----------------------------------------------------------------------------------------------


def test_discovery_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.a, self.act, self.b, self.seen = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), None

        def forward(self, x: Tensor) -> Tensor:
            warnings.warn("a warning of the model", stacklevel=2)
            self.count += 1
            self.seen = self.new = x
            return self.b(self.act(self.a(x)) + torch.rand(4))

    torch.manual_seed(0)
    model, state = nn.Sequential(Writing(), nn.Identity()), torch.get_rng_state()
    called: list[object] = []
    hook = model[0].register_forward_hook(lambda module, args, output: called.append(output))
    assert found(model) == ["0.act"]
    assert not called
    assert list(model[0]._forward_hooks) == [hook.id]
    model = model[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.count == 0
    assert model.seen is None
    assert not hasattr(model, "new")
    copy.deepcopy(model)  # no proxies are left on it


def test_points_say_whether_they_were_found_or_named() -> None:
    model = EncoderDecoder(2)
    assert all(point.found for word in ("auto", "macro", "micro") for point in select(model, word))
    assert all(point.found for point in select(MLP(4, 8, 2), "auto"))
    points = select(model, ["macro", "encoder.block.0"])
    assert [point.found for point in points] == [False, True, True, True]
    assert [point.found for point in select(model, ["encoder.block.0", "macro"])] == [False, True, True, True]
    assert Point("a", found=True) == Point("a")


def calls(build: Callable[[int], nn.Module], size: int) -> int:
    """Return how many Python functions are called to find the points of a model."""
    model, count = build(size), 0

    def tick(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(tick)
    try:
        select(model, "auto")
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize(
    "build",
    [
        lambda n: around(*(Block("heads") for _ in range(n))),
        lambda n: EncoderDecoder(n // 2),
        lambda n: nn.Sequential(*(layer for _ in range(n) for layer in (nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 2)),
    ],
    ids=["blocks", "stacks", "chain"],
)
def test_the_work_grows_with_the_modules_and_not_with_their_square(build: Callable[[int], nn.Module]) -> None:
    calls(build, 8)  # what is done once
    assert calls(build, 160) < 2.5 * calls(build, 80)


def test_what_is_found_trains() -> None:
    torch.manual_seed(0)
    model = TwinCritics(6, 32, 32, 1)
    handle = fa.attach(model, fa.DFA(seed=0))
    first, second = model(torch.randn(8, 6))
    (first.square().mean() + second.square().mean()).backward()
    assert set(handle.last.signals) == {"q1.net.1", "q1.net.3", "q2.net.1", "q2.net.3"}
    model = EncoderDecoder(3)
    handle = fa.attach(model, fa.DFA(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(5, 8)).square().mean().backward()
    assert list(handle.last.signals) == [*numbered("encoder.block.", 3), *numbered("decoder.block.", 3)]


# ---- advice ----------------------------------------------------------------------------------------------------------


def bypass(model: nn.Module, x: Tensor, points: object) -> str:
    fa.attach(model, fa.DFA(seed=0), points)
    with pytest.warns(UserWarning, match=r"a path that no point cuts") as caught:
        model(x).square().mean().backward()
    return str(caught[0].message)


def test_a_residual_stream_that_no_module_returns_is_said_to_be_none() -> None:
    said = bypass(LoopViT(), torch.randn(2, 3, 8, 8), "macro")
    assert "what lies below 'transformer.layers.0.0', 'transformer.layers.0.1', 'transformer.layers.1.0' and 1" in said
    assert "in the forward of LoopTransformer ('transformer'), so that no module returns it: move each step" in said
    assert "feedalign.splice" in said
    assert "macro" not in said  # it is in force


def test_points_inside_of_blocks_are_sent_to_the_blocks() -> None:
    said = bypass(EncoderDecoder(2), torch.randn(5, 8), "**.act")
    assert "points='macro' takes 'encoder.block.1', 'decoder.block.0', 'decoder.block.1'." in said


def test_a_skip_connection_around_blocks_is_not_answered_with_the_blocks() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Linear(8, 8), repeated(Residual(), 1), nn.Linear(8, 2)
            self.body.append(Residual())

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.body(x))

    said = bypass(Long(), torch.randn(5, 8), "macro")
    assert "Put the points on modules that return the sum of the paths; where none does" in said
    assert "macro" not in said


def test_convolutions_with_flattened_feedback_are_said_in_one_line() -> None:
    model = ResNet()
    handle = fa.attach(model, fa.DFA(seed=0))
    line = repr(handle).splitlines()[-1]
    assert line.startswith("Behind convolutions ('layer1.0', 'layer1.1', 'layer2.0' and 2 more) feedback")
    assert "feedback=Uniform(positions='repeat'), or take a sign-symmetric rule (USF, FRSF, BRSF)" in line
    points = handle.points
    assert behind_convolutions(model, points, fa.DFA(feedback=fa.Normal()))
    assert "feedback=Normal(positions='repeat')" in behind_convolutions(model, points, fa.DFA(feedback=fa.Normal()))
    assert not behind_convolutions(model, points, fa.DFA(feedback=fa.Uniform(positions="repeat")))
    assert not behind_convolutions(model, points, fa.Shallow())
    assert not behind_convolutions(model, points, fa.USF())
    assert not behind_convolutions(ViT(), select(ViT(), "auto"), fa.DFA())
    assert not behind_convolutions(MLP(4, 8, 2), select(MLP(4, 8, 2), "auto"), fa.DFA())


def test_of_a_small_network_only_what_is_behind_the_convolutions_is_named() -> None:
    class CNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
            self.fc1, self.fc2 = nn.Linear(64, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.conv2(F.relu(self.conv1(x))))
            return self.fc2(F.relu(self.fc1(x.flatten(1))))

    model = CNN()
    assert found(model) == ["conv2:input", "fc1:input", "fc2:input"]
    line = behind_convolutions(model, select(model, "auto"), fa.DFA())
    assert line.startswith("Behind convolutions ('conv2:input', 'fc1:input') feedback")


def test_what_an_audit_may_advise_is_not_in_force() -> None:
    inside = fa.attach(EncoderDecoder(2), fa.DFA(), ["**.act", "**.fc1"])
    assert Untried.on(inside) == (True, True, False)  # GELU, not ReLU
    assert not Untried.on(fa.attach(EncoderDecoder(2), fa.DFA(), "macro")).macro
    assert not Untried.on(fa.attach(EncoderDecoder(2), fa.FA())).macro  # no points
    model = MLP(4, 8, 2)
    assert Untried.on(fa.attach(model, fa.DKP(), example=torch.randn(3, 4))) == (False, False, True)
