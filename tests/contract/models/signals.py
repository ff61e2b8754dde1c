"""Models of images, waves, sets of points and rays, written as the libraries for them have it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contract.models.case import DIFFERENT, EQUAL, Case, Given, Sizes

# Letters: n samples, t tokens, D width, C width of the error, H W L and S positions, h w a b i j parts of a raster.


def images(size: int) -> Any:
    return lambda s: (torch.randn(s.n, 3, size, size),)


class Attention(nn.Module):
    """Self-attention with one linear map for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def mlp(width: int, hidden: int = 12) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """A pre-norm Transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(3, width, 4, stride=4), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    """As in timm: patches, a class token, blocks, a norm and a head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.patch_embed, self.cls_token = PatchEmbed(s.d), nn.Parameter(torch.zeros(1, 1, s.d))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, s.d))
        self.blocks = nn.Sequential(*(Block(s.d, s.heads) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(s.d), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class LowRank(nn.Module):
    """A frozen linear layer and the product of two narrow ones that trains."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapted(s: Sizes) -> nn.Module:
    """A Vision Transformer of which only adapters and the head train."""
    model = VisionTransformer(s).requires_grad_(False)
    for block in model.blocks:
        block.attn.qkv = LowRank(block.attn.qkv)
    model.head.requires_grad_(True)
    return model


class PreNorm(nn.Module):
    def __init__(self, width: int, function: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), function

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class OpenStream(nn.Module):
    """As in vit-pytorch: the residual stream is added up outside of the modules."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.embed = PatchEmbed(s.d)
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(s.d, Attention(s.d, s.heads)), PreNorm(s.d, mlp(s.d))]) for _ in range(2)
        )
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return self.head(x.mean(1))


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.mlp_tokens = nn.LayerNorm(width), mlp(tokens)
        self.norm2, self.mlp_channels = nn.LayerNorm(width), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.stem = PatchEmbed(s.d)
        self.blocks = nn.Sequential(*(MixerBlock(4, s.d) for _ in range(2)))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(1))


class ConvMixerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(F.gelu(self.depthwise(x)))
        return self.norm2(F.gelu(self.pointwise(x)))


class Bottleneck(nn.Module):
    """Of ResNeXt: grouped convolutions between two of size one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.conv3 = nn.Conv2d(6, width, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(x + self.bn3(self.conv3(y)))


class ConvClassifier(nn.Module):
    def __init__(self, s: Sizes, block: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, s.d, 2, stride=2)
        self.blocks = nn.Sequential(*(block(s.d) for _ in range(2)))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class TimedBlock(nn.Module):
    """A residual block of a diffusion U-Net, shifted by the embedding of the time."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(2, width_in), nn.Conv2d(width_in, width, 3, padding=1)
        self.time, self.norm2 = nn.Linear(6, width), nn.GroupNorm(2, width)
        self.conv2, self.skip = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class UNet(nn.Module):
    """Predicts the noise in an image at a time of the diffusion."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.time, self.stem = nn.Sequential(nn.Linear(6, 6), nn.SiLU()), nn.Conv2d(3, s.d, 3, padding=1)
        self.down1, self.down2, self.middle = (TimedBlock(s.d, s.d) for _ in range(3))
        self.up2, self.up1 = (TimedBlock(2 * s.d, s.d) for _ in range(2))
        self.out = nn.Conv2d(s.d, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.tensor([1.0, 0.1, 0.01])
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        first = self.down1(self.stem(x), time)
        second = self.down2(F.avg_pool2d(first, 2), time)
        x = self.middle(second, time)
        x = self.up2(torch.cat([x, second], 1), time)
        x = self.up1(torch.cat([F.interpolate(x, scale_factor=2.0), first], 1), time)
        return self.out(x)


class HybridTokens(nn.Module):
    """Convolutions whose positions become tokens, with one output each."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Conv2d(3, s.d, 3, padding=1), nn.ReLU(), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.stem(x)).flatten(2).transpose(1, 2))


class CRNN(nn.Module):
    """Reads text: columns of convolutional features are the steps of a recurrent layer."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, s.d, 3, padding=1), nn.ReLU()
        self.rnn, self.head = nn.LSTM(s.d * s.t, s.d, batch_first=True), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:  # [N, 3, H, W]
        columns = self.act(self.conv(x)).flatten(1, 2).transpose(1, 2)
        return self.head(self.rnn(columns)[0])


class WindowBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Windowed(nn.Module):
    """Blocks over windows of a raster of tokens, ``[N * windows, K, D]``, and one output per token of the raster."""

    def __init__(self, s: Sizes, rows: int, columns: int, side: int) -> None:
        super().__init__()
        self.rows, self.columns, self.side = rows, columns, side
        self.embed = nn.Linear(3, s.d)
        self.blocks = nn.ModuleList(WindowBlock(s.d, s.heads) for _ in range(2))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:  # [N, rows * columns, 3]
        samples, side, a, b = len(x), self.side, self.rows // self.side, self.columns // self.side
        x = self.embed(x).view(samples, a, side, b, side, -1).transpose(2, 3).reshape(samples * a * b, side * side, -1)
        for block in self.blocks:
            x = block(x)
        x = x.view(samples, a, b, side, side, -1).transpose(2, 3).reshape(samples, self.rows * self.columns, -1)
        return self.head(x)


class Autoencoder(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(s.c, s.d), nn.ReLU(), nn.Linear(s.d, 3), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(3, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class VariationalAutoencoder(nn.Module):
    """Returns what it reconstructs, and means and log variances of the code."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(s.c, s.d), nn.ReLU(), nn.Linear(s.d, s.d), nn.ReLU())
        self.mean, self.spread = nn.Linear(s.d, 2), nn.Linear(s.d, 2)
        self.decoder = nn.Sequential(nn.Linear(2, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        code = self.encoder(x)
        mean, spread = self.mean(code), self.spread(code)
        return self.decoder(mean + (spread / 2).exp() * noise), mean, spread


def evidence(value: Any, tapped: Any, given: Given) -> Tensor:
    """The negative lower bound of the likelihood."""
    seen, mean, spread = tapped
    return ((seen - given[0]).square().sum() + 0.5 * (mean.square() + spread.exp() - 1 - spread).sum()) / len(mean)


class Gated(nn.Module):
    """A block of WaveNet: dilated, gated, with a residual and a skip."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
        self.pad, self.residual, self.skip = dilation, nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, gate = self.dilated(F.pad(x, (self.pad, 0))).chunk(2, 1)
        y = kept.tanh() * gate.sigmoid()
        return x + self.residual(y), self.skip(y)


class WaveNet(nn.Module):
    """One output per position of a wave, ``[N, C, L]``."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.lift, self.blocks = nn.Conv1d(1, s.d, 1), nn.ModuleList(Gated(s.d, 2**i) for i in range(3))
        self.head = nn.Conv1d(s.d, s.c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.lift(x), []
        for block in self.blocks:
            x, skip = block(x)
            skips.append(skip)
        return self.head(torch.stack(skips).sum(0).relu())


class TemporalBlock(nn.Module):
    """A block of a temporal convolutional network, with weight normalisation."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        normed = nn.utils.parametrizations.weight_norm
        self.conv1 = normed(nn.Conv1d(width, width, 2, dilation=dilation))
        self.conv2 = normed(nn.Conv1d(width, width, 2, dilation=dilation))
        self.pad = dilation

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(F.pad(x, (self.pad, 0))))
        return F.relu(x + self.conv2(F.pad(y, (self.pad, 0))))


class TCN(nn.Module):
    """A label per series, from the last step."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.lift, self.network = nn.Conv1d(1, s.d, 1), nn.Sequential(*(TemporalBlock(s.d, 2**i) for i in range(2)))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.network(self.lift(x))[:, :, -1])


def wave(s: Sizes) -> Given:
    return (torch.randn(s.n, 1, s.t),)


class PointNet(nn.Module):
    """A label per set of points: one network for every point, as convolutions of size one, and a maximum."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.each = nn.Sequential(
            nn.Conv1d(3, s.d, 1), nn.BatchNorm1d(s.d), nn.ReLU(), nn.Conv1d(s.d, s.d, 1), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.each(x).amax(2))


class PointSegmenter(nn.Module):
    """A label per point of a set, from channels-first features and their maximum over the set."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(3, s.d, 1), nn.ReLU(), nn.Conv1d(s.d, s.d, 1), nn.ReLU())
        self.head = nn.Conv1d(2 * s.d, s.c, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.each(x)
        return self.head(torch.cat([x, x.amax(2, keepdim=True).expand_as(x)], 1)).transpose(1, 2)


class DeepSets(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.phi = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.d), nn.Tanh())
        self.rho = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, x: Tensor) -> Tensor:
        return self.rho(self.phi(x).sum(1))


class CrossBlock(nn.Module):
    """Latent vectors that read a memory, and then themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.own = Block(width, heads)

    def forward(self, latents: Tensor, memory: Tensor) -> Tensor:
        return self.own(latents + self.cross(latents, memory, memory, need_weights=False)[0])


class Perceiver(nn.Module):
    """As many latent vectors as wanted read an input of any length; queries read the latents."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.latents, self.queries = nn.Parameter(torch.zeros(s.s, s.d)), nn.Parameter(torch.zeros(s.t, s.d))
        self.embed = nn.Linear(3, s.d)
        self.layers = nn.ModuleList(CrossBlock(s.d, s.heads) for _ in range(2))
        self.read, self.head = nn.MultiheadAttention(s.d, s.heads, batch_first=True), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        memory, latents = self.embed(x), self.latents.expand(len(x), -1, -1)
        for layer in self.layers:
            latents = layer(latents, memory)
        queries = self.queries.expand(len(x), -1, -1)
        return self.head(self.read(queries, latents, latents, need_weights=False)[0])


class RadianceField(nn.Module):
    """Colour and density at points along rays; the input joins again half-way."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, s.d), nn.Linear(s.d, s.d), nn.Linear(s.d + 3, s.d)])
        self.acts = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.density, self.colour = nn.Linear(s.d, 1), nn.Linear(s.d, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = x
        for i, (layer, act) in enumerate(zip(self.layers, self.acts, strict=True)):
            h = act(layer(torch.cat([h, x], -1) if i == 2 else h))
        return {"colour": self.colour(h).sigmoid(), "density": F.softplus(self.density(h))}


def composited(value: Any, tapped: Any, given: Given) -> Tensor:
    """The squared error of the colour of each ray, by volume rendering."""
    colour, density = tapped
    opacity = 1 - (-0.2 * density).exp()
    weights = opacity * torch.cumprod(torch.cat([torch.ones_like(opacity[:, :1]), 1 - opacity[:, :-1]], 1), 1)
    return ((weights * colour).sum(1) - 0.3).square().mean()


def critic(s: Sizes) -> nn.Module:
    """The critic of a GAN, its weights divided by their spectral norms."""
    normed = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        normed(nn.Conv2d(3, s.d, 3, stride=2, padding=1)), nn.LeakyReLU(0.2),
        normed(nn.Conv2d(s.d, s.d, 3, stride=2, padding=1)), nn.LeakyReLU(0.2), nn.Flatten(),
        normed(nn.Linear(4 * s.d, 1)),
    )  # fmt: skip


def case(name: str, build: Any, given: Any, error: Any, layout: dict[str, str], **more: Any) -> Case:
    return Case(name, "own", build, given, (error,) if isinstance(error, str) else error, layout, **more)


SIGNALS = [
    case("Vision Transformer, as in timm", VisionTransformer, images(8), "n C", {"blocks.*": "n S D"}),
    case("Vision Transformer with low-rank adapters", adapted, images(8), "n C", {"blocks.*": "n S D"},
         notes="all else is frozen"),
    case("Vision Transformer, as in vit-pytorch", OpenStream, images(8), "n C", {"layers.*.*": "n S D"},
         arguments={"points": "layers.*.*"}, warns=True,
         notes="the residual stream is no module's output and stays on backpropagation, with a warning"),
    case("MLP-Mixer", Mixer, images(8), "n C", {"blocks.*": "n S D"}),
    case("ConvMixer", lambda s: ConvClassifier(s, ConvMixerBlock), images(8), "n C", {"blocks.*": "n D H W"},
         coupled=True),
    case("ResNeXt", lambda s: ConvClassifier(s, Bottleneck), images(8), "n C", {"blocks.*": "n D H W"}, coupled=True),
    case("diffusion U-Net", UNet, lambda s: (torch.randn(s.n, 3, 4, 4), torch.rand(s.n)), "n C H W",
         {"down1": "n D H W", "down2": "n D H W", "middle": "n D H W", "up2": "n D H W", "up1": "n D H W"}),
    case("convolutions, then tokens", HybridTokens, images(4), "n (h w) C", {"act": "n D h w"},
         merged=lambda s: {"h": 4, "w": 4}, sizes=(DIFFERENT, EQUAL._replace(d=16))),
    case("CRNN", CRNN, lambda s: (torch.randn(s.n, 3, s.t, s.s),), "n w C",
         {"act": "n D H w", "rnn[0]": "n w D", "rnn[1]": "-", "rnn[2]": "-"}, arguments={"points": ["act", "rnn"]}),
    case("blocks over windows of a raster", lambda s: Windowed(s, 4, 6, 2), lambda s: (torch.randn(s.n, 24, 3),),
         "n (a i b j) C", {"blocks.*": "(n a b) (i j) D"}, merged=lambda s: {"a": 2, "i": 2, "b": 3, "j": 2}),
    case("autoencoder", Autoencoder, lambda s: (torch.randn(s.n, s.c),), "n C",
         {"encoder.1": "n D", "encoder.3": "n D", "decoder.1": "n D"}),
    case("variational autoencoder", VariationalAutoencoder,
         lambda s: (torch.randn(s.n, s.c), torch.randn(s.n, 2)), ("n C", "n C", "n C"),
         {"encoder.1": "n D", "encoder.3": "n D", "decoder.1": "n D"}, loss=evidence,
         warns=True, notes="the decoder hears the reconstruction alone; with a warning, since means and log variances "
         "are outputs and lie below it"),
    case("spectrally normalised critic", critic, images(8), "n C", {"1": "n D H W", "3": "n D H W"}),
    case("WaveNet", WaveNet, wave, "n C t", {"blocks.*": "n D t"},
         notes="blocks return a residual and a skip; nothing reads the last residual"),
    case("temporal convolutional network", TCN, wave, "n C", {"network.*": "n D L"}),
    case("PointNet", PointNet, lambda s: (torch.randn(s.n, 3, s.t),), "n C",
         {"each.2": "n D S", "each.4": "n D S", "head.1": "n D"}, coupled=True),
    case("PointNet, segmentation", PointSegmenter, lambda s: (torch.randn(s.n, 3, s.t),), "n t C",
         {"each.1": "n D t", "each.3": "n D t"}),
    case("DeepSets", DeepSets, lambda s: (torch.randn(s.n, s.t, s.d),), "n C",
         {"phi.1": "n S D", "phi.3": "n S D", "rho.1": "n D"}),
    case("Perceiver", Perceiver, lambda s: (torch.randn(s.n, 9, 3),), "n t C", {"layers.*": "n S D"},
         stated=(False, True), notes="latent vectors belong to no output token"),
    case("NeRF", RadianceField, lambda s: (torch.randn(s.n, s.t, 3),), ("n t C", "n t C"), {"acts.*": "n t D"},
         loss=composited),
]  # fmt: skip
