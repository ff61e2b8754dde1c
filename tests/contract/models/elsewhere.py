"""Models of libraries that the tests do not need, checked by hand: ``python -m contract.models.elsewhere``.

The libraries are imported when a model is built, so that the page of models can list them without having them.
"""

from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from contract.models.case import Case, Given, Sizes, own_loss
from contract.models.oracle import expected
from contract.models.signals import images

SEED = 1


def vit(s: Sizes) -> nn.Module:
    from vit_pytorch.vit import ViT

    return ViT(image_size=8, patch_size=4, num_classes=s.c, dim=s.d, depth=2, heads=s.heads, mlp_dim=12, dim_head=4)


def simple_vit(s: Sizes) -> nn.Module:
    from vit_pytorch.simple_vit import SimpleViT

    return SimpleViT(
        image_size=8, patch_size=4, num_classes=s.c, dim=2 * s.d, depth=2, heads=s.heads, mlp_dim=12, dim_head=4
    )


def x_transformer(s: Sizes) -> nn.Module:
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=s.d, depth=2, heads=s.heads, attn_dim_head=4)
    return TransformerWrapper(num_tokens=s.c, max_seq_len=16, attn_layers=layers)


def unet(s: Sizes) -> nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=2, norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"), add_attention=False,
    )  # fmt: skip


def segmenter(s: Sizes) -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(spatial_dims=2, in_channels=3, out_channels=s.c, channels=(4, 6, 8), strides=(2, 2), num_res_units=1)


class Spiking(nn.Module):
    """Two layers of snntorch's neurons over time, as in its tutorials."""

    def __init__(self, s: Sizes) -> None:
        import snntorch

        super().__init__()
        self.fc1, self.fc2 = nn.Linear(s.d, s.d), nn.Linear(s.d, s.c)
        self.lif1, self.lif2 = snntorch.Leaky(beta=0.9), snntorch.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        first, second, voltages = self.lif1.init_leaky().double(), self.lif2.init_leaky().double(), []
        for step in x:
            spikes, first = self.lif1(self.fc1(step), first)
            _, second = self.lif2(self.fc2(spikes.to(x.dtype)), second)
            voltages.append(second)
        return torch.stack(voltages)


class Field(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(s.d, s.d), nn.Tanh(), nn.Linear(s.d, s.d))

    def forward(self, time: Tensor, x: Tensor) -> Tensor:
        return self.net(x)


class Solved(nn.Module):
    """An ordinary differential equation between two linear layers, solved by torchdiffeq."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.lift, self.field, self.head = nn.Linear(s.d, s.d), Field(s), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        from torchdiffeq import odeint

        return self.head(odeint(self.field, self.lift(x), torch.linspace(0, 1, 4), method="rk4")[-1])


def flow(s: Sizes) -> nn.Module:
    import normflows as nf

    couplings = [nf.flows.AffineCouplingBlock(nf.nets.MLP([2, s.d, 4])) for _ in range(3)]
    layers = [layer for coupling in couplings for layer in (coupling, nf.flows.Permute(4, mode="swap"))]
    return nf.NormalizingFlow(nf.distributions.DiagGaussian(4), layers)


def adapters(s: Sizes) -> nn.Module:
    import peft

    from contract.models.hugging_face import gpt2, hf

    config = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True)
    return peft.get_peft_model(hf.GPT2LMHeadModel(gpt2(s)), config)


def words(s: Sizes) -> Given:
    return (torch.randint(s.c, (s.n, s.t)),)


def labelled(s: Sizes) -> Given:
    return {"input_ids": words(s)[0], "labels": words(s)[0]}


def case(name: str, library: str, build: Any, given: Any, error: str, layout: dict[str, str], **more: Any) -> Case:
    return Case(name, library, build, given, (error,), layout, **more)


AROUND: dict[str, Any] = {"warns": True, "notes": "with a warning: part of the error passes around the points"}
ELSEWHERE = [
    case("ViT", "vit-pytorch 1.26", vit, images(8), "n C", {"transformer.layers.*.*": "n S D"},
         arguments={"points": "transformer.layers.*.*"}, **AROUND),
    case("SimpleViT", "vit-pytorch 1.26", simple_vit, images(8), "n C", {"transformer.layers.*.*": "n S D"},
         arguments={"points": "transformer.layers.*.*"}, **AROUND),
    case("Decoder", "x-transformers 2.31", x_transformer, words, "n t C", {"attn_layers.layers.*.2": "n t D"},
         arguments={"points": "attn_layers.layers.*.2"}),
    case("UNet2DModel", "diffusers 0.42", unet, lambda s: (torch.randn(s.n, 3, 8, 8), torch.arange(s.n)), "n C H W",
         {"down_blocks.*.resnets.*": "n D H W", "mid_block.resnets.*": "n D H W", "up_blocks.*.resnets.*": "n D H W"},
         tap=lambda value: [value.sample]),
    case("UNet", "monai 1.6", segmenter, images(8), "n C H W", {"model.0": "n D H W", "model.1": "n D H W"},
         arguments={"points": ["model.0", "model.1"]}, coupled=True),
    case("Leaky, over time", "snntorch 1.0", Spiking, lambda s: (torch.randn(s.t, s.n, s.d),), "t n C", {"lif1": "n D"},
         arguments={"points": "lif1"}, stated=(True, True)),
    case("odeint, rk4", "torchdiffeq 0.2", Solved, lambda s: (torch.randn(s.n, s.d),), "n C", {"field.net.1": "n D"},
         arguments={"points": "field.net.1"}, **AROUND),
    case("NormalizingFlow", "normflows 1.7", flow, lambda s: (torch.randn(s.n, 4),), "n",
         {"flows.*.flows.1.param_map.net.1": "n D"}, method="log_prob",
         arguments={"points": "flows.*.flows.1.param_map.net.1"}, **AROUND),
    case("LoRA of GPT-2, labels=", "peft 0.21", adapters, labelled, "n t C",
         {"base_model.model.transformer.h.*": "n t D"}, tap=lambda value: [value.logits], loss=own_loss, inside=True),
]  # fmt: skip


def check(one: Case, which: int) -> str:
    """Return ``ok``, or what is wrong."""
    sizes = one.sizes[which]
    model, given = one.model(sizes), one.batch(sizes)
    stated = {"rows": one.rows()} if one.stated[which] else {}
    handle = fa.attach(model, fa.DFA(seed=SEED), **one.arguments, **stated)
    if one.method:
        handle.register_forward_method(one.method)
    value = one.call(model, given)
    one.loss(value, one.tap(value), given).backward()
    wanted = expected(one, sizes, SEED)
    for name, parameter in model.named_parameters():
        if (gradient := wanted.get(name)) is not None:
            close = 1e-7 if one.library.startswith("snntorch") else 1e-9  # its spikes are float32
            torch.testing.assert_close(parameter.grad, gradient, rtol=close, atol=close)
    points = [str(point) for point in handle.points]
    return "ok" if points == one.points(model) else f"other points: {points}"


def main() -> None:
    """Check every model, in both sizes."""
    torch.set_default_dtype(torch.float64)
    for one in ELSEWHERE:
        for which in (0, 1):
            try:
                found = check(one, which)
            except Exception as problem:  # noqa: BLE001 - every problem is reported
                found = f"{type(problem).__name__}: {' '.join(str(problem).split())[:160]}"
            print(f"{one.library}: {one.name}, {('sizes differ', 'sizes coincide')[which]}: {found}")


if __name__ == "__main__":
    main()
