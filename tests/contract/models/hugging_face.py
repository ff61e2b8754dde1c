"""Models of Hugging Face Transformers, built tiny from their configurations, without dropout."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from contract.models.case import EQUAL, Case, Given, Sizes, own_loss

# Letters: n samples, t tokens of the output, S other tokens and patches, D width, C classes, H heads.

LABELLED: dict[str, Any] = {"tap": lambda value: [value.logits], "loss": own_loss, "inside": True}
"""The model is given labels and returns its loss next to the logits; ``attach`` needs no arguments for it."""


def no_dropout(**more: Any) -> dict[str, Any]:
    return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **more}


def encoder(s: Sizes, **more: Any) -> dict[str, Any]:
    """The fields that most configurations of Transformers share."""
    return {
        "hidden_size": s.d, "num_hidden_layers": 2, "num_attention_heads": s.heads, "intermediate_size": 12, **more,
    }  # fmt: skip


def text(s: Sizes, **more: Any) -> dict[str, Any]:
    return encoder(s, vocab_size=s.c, max_position_embeddings=16, pad_token_id=0, **more)


def decoder(s: Sizes, **more: Any) -> dict[str, Any]:
    return text(s, num_key_value_heads=1, use_cache=False, bos_token_id=1, eos_token_id=2, **more)


def image(s: Sizes, **more: Any) -> dict[str, Any]:
    return encoder(s, image_size=8, patch_size=4, num_labels=s.c, **more)


def ids(samples: int, length: int, vocabulary: int) -> Tensor:
    return torch.randint(1, vocabulary, (samples, length))


def sentences(s: Sizes) -> Given:
    return {"input_ids": ids(s.n, s.t, s.c)}


def labelled(s: Sizes) -> Given:
    return {"input_ids": ids(s.n, s.t, s.c), "labels": ids(s.n, s.t, s.c)}


def translated(s: Sizes) -> Given:
    return {"input_ids": ids(s.n, s.s, s.c), "labels": ids(s.n, s.t, s.c)}


def pictures(size: int, frames: int = 0) -> Callable[[Sizes], Given]:
    shape = (frames, 3, size, size) if frames else (3, size, size)
    return lambda s: {"pixel_values": torch.randn(s.n, *shape)}


def marked(size: int) -> Callable[[Sizes], Given]:
    return lambda s: {**pictures(size)(s), "labels": torch.randint(s.c, (s.n,))}


def classifier(model: type, config: type, layers: str, **more: Any) -> Case:
    """A text encoder with one label per sentence."""
    return Case(
        f"{model.__name__}", "transformers", lambda s: model(config(**text(s, num_labels=s.c, **more))), sentences,
        ("n C",), {layers: "n S D"},
    )  # fmt: skip


def causal(model: type, build: Callable[[Sizes], nn.Module], layers: str, **more: Any) -> Case:
    """A language model that is given labels."""
    return Case(
        f"{model.__name__}, labels=", "transformers", build, labelled, ("n t C",),
        more.pop("layout", {layers: "n t D"}), **LABELLED, **more,
    )  # fmt: skip


def vision(model: type, build: Callable[[Sizes], nn.Module], layout: dict[str, str], size: int, **more: Any) -> Case:
    return Case(model.__name__, "transformers", build, pictures(size), ("n C",), layout, **more)


def experts(model: type, config: Any) -> nn.Module:
    """Build a mixture of experts whose products also exist in float64."""
    return model._from_config(config, experts_implementation="eager")


def gpt2(s: Sizes) -> hf.GPT2Config:
    return hf.GPT2Config(
        vocab_size=s.c, n_positions=16, n_embd=s.d, n_layer=2, n_head=s.heads, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, use_cache=False, bos_token_id=1, eos_token_id=2, loss_type="ForCausalLM",
    )  # fmt: skip


def seq2seq(s: Sizes, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": s.c, "d_model": s.d, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0,
        "encoder_attention_heads": s.heads, "decoder_attention_heads": s.heads, "encoder_ffn_dim": 12,
        "decoder_ffn_dim": 12, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 2, **more,
    }  # fmt: skip


def resnet(s: Sizes, **more: Any) -> hf.ResNetConfig:
    return hf.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[2, 2], layer_type="basic", num_labels=s.c, **more
    )


def clip(s: Sizes) -> nn.Module:
    words = text(s, bos_token_id=1, eos_token_id=2)
    pixels = encoder(s, image_size=8, patch_size=4)
    return hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config=pixels, projection_dim=s.c))


def pairs(s: Sizes) -> Given:
    return {**sentences(s), **pictures(8)(s)}


def in_batch(value: Any, tapped: Any, given: Given) -> Tensor:
    """The contrastive loss over all pairs of a batch."""
    scores = 5 * tapped[0] @ tapped[1].T
    place = torch.arange(len(scores))
    return nn.functional.cross_entropy(scores, place) + nn.functional.cross_entropy(scores.T, place)


def wav2vec2(s: Sizes) -> nn.Module:
    config = hf.Wav2Vec2Config(
        **encoder(s), vocab_size=s.c, conv_dim=[4, 4], conv_stride=[4, 2], conv_kernel=[4, 2],
        num_feat_extract_layers=2, num_conv_pos_embeddings=3, num_conv_pos_embedding_groups=2, hidden_dropout=0.0,
        attention_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0, final_dropout=0.0, layerdrop=0.0,
        mask_time_prob=0.0, apply_spec_augment=False, pad_token_id=0,
    )  # fmt: skip
    return hf.Wav2Vec2ForCTC(config)


def detr(s: Sizes) -> nn.Module:
    config = hf.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_queries=s.t, d_model=s.d,
        backbone_config=resnet(s, out_features=["stage2"]), encoder_layers=2, decoder_layers=2, num_labels=s.c,
        encoder_attention_heads=s.heads, decoder_attention_heads=s.heads, encoder_ffn_dim=12, decoder_ffn_dim=12,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    return hf.DetrForObjectDetection(config)


def decisions(s: Sizes) -> Given:
    return {
        "states": torch.randn(s.n, s.t, 3), "actions": torch.randn(s.n, s.t, 2), "rewards": torch.randn(s.n, s.t, 1),
        "returns_to_go": torch.randn(s.n, s.t, 1), "timesteps": torch.arange(s.t).repeat(s.n, 1),
        "attention_mask": torch.ones(s.n, s.t),
    }  # fmt: skip


WIDE = EQUAL._replace(d=8)
"""For models whose heads must be wider than one: everything coincides but the width."""
SQUARE = EQUAL._replace(heads=2)
"""For models whose heads must be wider than one: everything coincides but the heads."""
EVEN = {"sizes": (Sizes(), SQUARE)}
FREE = {"sizes": (Sizes(), WIDE)}

TEXT = [
    Case("BertForMaskedLM, labels=", "transformers",
         lambda s: hf.BertForMaskedLM(hf.BertConfig(**text(s), **no_dropout())), labelled,
         ("n t C",), {"bert.encoder.layer.*": "n t D"}, **LABELLED),
    classifier(hf.BertForSequenceClassification, hf.BertConfig, "bert.encoder.layer.*", **no_dropout()),
    Case("BertModel", "transformers", lambda s: hf.BertModel(hf.BertConfig(**text(s), **no_dropout())), sentences,
         ("n t D", "n C"), {"encoder.layer.0": "n t D"},
         tap=lambda value: [value.last_hidden_state, value.pooler_output],
         notes="two errors, one per token and one per sentence; the last layer's tensor is returned and is no point"),
    Case("DistilBertForSequenceClassification", "transformers", lambda s: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(vocab_size=s.c, dim=s.d, n_layers=2, n_heads=s.heads, hidden_dim=12, num_labels=s.c,
                            max_position_embeddings=16, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)),
         sentences, ("n C",), {"distilbert.transformer.layer.*": "n S D"}),
    Case("RobertaForTokenClassification, labels=", "transformers", lambda s: hf.RobertaForTokenClassification(
        hf.RobertaConfig(**text(s, num_labels=s.c), **no_dropout())), labelled, ("n t C",),
         {"roberta.encoder.layer.*": "n t D"}, **LABELLED),
    Case("AlbertForMaskedLM, labels=", "transformers", lambda s: hf.AlbertForMaskedLM(
        hf.AlbertConfig(**text(s), **no_dropout(), embedding_size=6)), labelled, ("n t C",),
         {"albert.encoder.albert_layer_groups.0": "n t D"},
         arguments={"points": "albert.encoder.albert_layer_groups.0"}, **LABELLED,
         notes="one layer runs twice: one point, a signal per call"),
    Case("ElectraForPreTraining", "transformers", lambda s: hf.ElectraForPreTraining(
        hf.ElectraConfig(**text(s), **no_dropout(), embedding_size=6)), sentences, ("n t",),
         {"electra.encoder.layer.*": "n t D"}, arguments={"rows": {"": (0, 1)}},
         notes="one number per token: [N, T] would be read as N rows of width T"),
    classifier(hf.DebertaV2ForSequenceClassification, hf.DebertaV2Config, "deberta.encoder.layer.*", **no_dropout(),
               relative_attention=True, pos_att_type="p2c|c2p"),
    Case("FNetForSequenceClassification", "transformers", lambda s: hf.FNetForSequenceClassification(
        hf.FNetConfig(vocab_size=s.c, hidden_size=s.d, num_hidden_layers=2, intermediate_size=12, pad_token_id=0,
                      hidden_dropout_prob=0.0, max_position_embeddings=16, num_labels=s.c)), sentences, ("n C",),
         {"fnet.encoder.layer.*": "n S D"}),
    Case("XLNetLMHeadModel, labels=", "transformers", lambda s: hf.XLNetLMHeadModel(
        hf.XLNetConfig(vocab_size=s.c, d_model=s.d, n_layer=2, n_head=s.heads, d_inner=12, dropout=0.0,
                       use_mems_train=False, use_mems_eval=False)), labelled, ("n t C",),
         {"transformer.layer.*": "t n D"}, **LABELLED, notes="computes time-first inside"),
    causal(hf.GPT2LMHeadModel, lambda s: hf.GPT2LMHeadModel(gpt2(s)), "transformer.h.*"),
    causal(hf.LlamaForCausalLM, lambda s: hf.LlamaForCausalLM(hf.LlamaConfig(**decoder(s))), "model.layers.*", **EVEN),
    Case("MistralForCausalLM", "transformers", lambda s: hf.MistralForCausalLM(hf.MistralConfig(**decoder(s))),
         sentences, ("n t C",), {"model.layers.*": "n t D"}, **EVEN),
    causal(hf.MixtralForCausalLM, lambda s: experts(hf.MixtralForCausalLM, hf.MixtralConfig(
        **decoder(s, num_local_experts=3))), "model.layers.*", **EVEN, notes="mixture of experts"),
    causal(hf.Qwen2MoeForCausalLM, lambda s: experts(hf.Qwen2MoeForCausalLM, hf.Qwen2MoeConfig(
        **decoder(s, num_experts=3, num_experts_per_tok=2, moe_intermediate_size=6,
                     shared_expert_intermediate_size=6))),
        "model.layers.*", **EVEN, notes="mixture of experts with a shared one"),
    causal(hf.Qwen3ForCausalLM, lambda s: hf.Qwen3ForCausalLM(hf.Qwen3Config(**decoder(s, head_dim=4))),
           "model.layers.*"),
    causal(hf.Gemma2ForCausalLM, lambda s: hf.Gemma2ForCausalLM(hf.Gemma2Config(
        **decoder(s, head_dim=4, query_pre_attn_scalar=4, sliding_window=3))), "model.layers.*", module="lm_head",
        arguments={"output": "lm_head"}, notes="the returned logits are no module's output: they are capped by a tanh"),
    causal(hf.GPTNeoXForCausalLM, lambda s: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(
        **text(s), use_cache=False, hidden_dropout=0.0, attention_dropout=0.0, bos_token_id=1, eos_token_id=2)),
        "gpt_neox.layers.*", **FREE),
    causal(hf.OPTForCausalLM, lambda s: hf.OPTForCausalLM(hf.OPTConfig(
        vocab_size=s.c, hidden_size=s.d, ffn_dim=12, num_hidden_layers=2, num_attention_heads=s.heads, dropout=0.0,
        max_position_embeddings=16, word_embed_proj_dim=6, use_cache=False, pad_token_id=0, bos_token_id=1,
        eos_token_id=2)), "model.decoder.layers.*"),
    causal(hf.BloomForCausalLM, lambda s: hf.BloomForCausalLM(hf.BloomConfig(
        vocab_size=s.c, hidden_size=s.d, n_layer=2, n_head=s.heads, hidden_dropout=0.0, attention_dropout=0.0,
        use_cache=False, bos_token_id=1, eos_token_id=2)), "transformer.h.*",
        layout={"transformer.h.*[0]": "n t D", "transformer.h.*[1]": "-"},
        notes="the blocks also return their attention weights, which nothing reads"),
    causal(hf.MambaForCausalLM, lambda s: hf.MambaForCausalLM(hf.MambaConfig(
        vocab_size=s.c, hidden_size=s.d, state_size=4, num_hidden_layers=2, use_cache=False, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, residual_in_fp32=False)), "backbone.layers.*", module="lm_head",
        arguments={"output": "lm_head"}, notes="without output= in float32; in float64 the model rounds its logits"),
    causal(hf.RwkvForCausalLM, lambda s: hf.RwkvForCausalLM(hf.RwkvConfig(
        vocab_size=s.c, hidden_size=s.d, attention_hidden_size=s.d, intermediate_size=12, num_hidden_layers=2,
        use_cache=False, context_length=16, bos_token_id=1, eos_token_id=2)), "rwkv.blocks.*"),
    Case("T5ForConditionalGeneration, labels=", "transformers", lambda s: hf.T5ForConditionalGeneration(hf.T5Config(
        vocab_size=s.c, d_model=s.d, d_kv=4, d_ff=12, num_layers=2, num_heads=s.heads, dropout_rate=0.0,
        use_cache=False, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)), translated, ("n t C",),
         {"encoder.block.*[0]": "n S D", "encoder.block.*[1]": "-", "decoder.block.*[0]": "n t D",
          "decoder.block.*[1]": "-", "decoder.block.*[2]": "-"},
         arguments={"points": ["encoder.block.*[0]", "decoder.block.*[0]"]},
         stated=(False, True), **LABELLED,
         notes="the blocks also return their position biases, which belong to no sample"),
    Case("BartForConditionalGeneration, labels=", "transformers", lambda s: hf.BartForConditionalGeneration(
        hf.BartConfig(**seq2seq(s), max_position_embeddings=16, forced_eos_token_id=2)), translated, ("n t C",),
         {"model.encoder.layers.*": "n S D", "model.decoder.layers.*": "n t D"},
         stated=(False, True), **LABELLED),
]  # fmt: skip

VISION = [
    vision(hf.ViTForImageClassification, lambda s: hf.ViTForImageClassification(
        hf.ViTConfig(**image(s), **no_dropout())), {"vit.layers.*": "n S D"}, 8),
    Case("ViTForImageClassification, labels=", "transformers", lambda s: hf.ViTForImageClassification(
        hf.ViTConfig(**image(s), **no_dropout(), problem_type="single_label_classification")), marked(8), ("n C",),
         {"vit.layers.*": "n S D"}, **LABELLED),
    Case("DeiTForImageClassificationWithTeacher", "transformers", lambda s: hf.DeiTForImageClassificationWithTeacher(
        hf.DeiTConfig(**image(s), **no_dropout())), pictures(8), ("n C", "n C", "n C"), {"deit.layers.*": "n S D"},
         notes="three tensors with the same rows form one error"),
    vision(hf.BeitForImageClassification, lambda s: hf.BeitForImageClassification(
        hf.BeitConfig(**image(s), **no_dropout(), drop_path_rate=0.0)), {"beit.layers.*": "n S D"}, 8),
    vision(hf.Dinov2ForImageClassification, lambda s: hf.Dinov2ForImageClassification(hf.Dinov2Config(
        hidden_size=s.d, num_hidden_layers=2, num_attention_heads=s.heads, mlp_ratio=2, image_size=8, patch_size=4,
        num_labels=s.c)), {"dinov2.encoder.layer.*": "n S D"}, 8),
    vision(hf.SwinForImageClassification, lambda s: hf.SwinForImageClassification(hf.SwinConfig(
        image_size=16, patch_size=2, embed_dim=s.d, depths=[2, 2], num_heads=[s.heads, s.heads], window_size=2,
        mlp_ratio=2.0, drop_path_rate=0.0, num_labels=s.c, **no_dropout())),
        {"swin.encoder.layers.*.blocks.*": "n S D"}, 16),
    Case("SwinForImageClassification, stages", "transformers", lambda s: hf.SwinForImageClassification(hf.SwinConfig(
        image_size=16, patch_size=2, embed_dim=s.d, depths=[1, 1], num_heads=[s.heads, s.heads], window_size=2,
        mlp_ratio=2.0, drop_path_rate=0.0, num_labels=s.c, **no_dropout())), pictures(16), ("n C",),
         {"swin.encoder.layers.*[0]": "n S D", "swin.encoder.layers.*[1]": "-"},
         arguments={"points": "swin.encoder.layers.*"},
         notes="a stage returns its tensor before and after downsampling; the last returns one tensor twice"),
    vision(hf.ConvNextForImageClassification, lambda s: hf.ConvNextForImageClassification(hf.ConvNextConfig(
        patch_size=2, num_stages=2, hidden_sizes=[s.d, 6], depths=[2, 2], num_labels=s.c,
        layer_scale_init_value=1.0)), {"convnext.encoder.stages.*.layers.*": "n D H W"}, 16),
    vision(hf.ResNetForImageClassification, lambda s: hf.ResNetForImageClassification(resnet(s)),
           {"resnet.encoder.stages.*.layers.*": "n D H W"}, 32, coupled=True),
    vision(hf.RegNetForImageClassification, lambda s: hf.RegNetForImageClassification(hf.RegNetConfig(
        embedding_size=4, hidden_sizes=[4, 6], depths=[2, 2], groups_width=2, num_labels=s.c)),
        {"regnet.encoder.stages.*.layers.*": "n D H W"}, 32, coupled=True),
    Case("SegformerForSemanticSegmentation", "transformers", lambda s: hf.SegformerForSemanticSegmentation(
        hf.SegformerConfig(num_encoder_blocks=2, depths=[2, 2], sr_ratios=[2, 1], hidden_sizes=[4, 8],
                           patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2],
                           decoder_hidden_size=6, drop_path_rate=0.0, classifier_dropout_prob=0.0, num_labels=s.c,
                           **no_dropout())),
         pictures(8), ("n C H W",), {"segformer.stages.*.blocks.*": "n S D"}, coupled=True,
         warns=True, notes="with a warning: the norm behind a stage is read by the next stage and by the head"),
    Case("DetrForObjectDetection", "transformers", detr, pictures(32), ("n t C", "n t C"),
         {"model.backbone.model.encoder.stages.*.layers.*": "n D H W", "model.encoder.layers.*": "n S D",
          "model.decoder.layers.*": "n t D"}, tap=lambda value: [value.logits, value.pred_boxes],
         arguments={"output": (".logits", ".pred_boxes"), "rows": {"model.backbone.**": (0, None)}},
         stated=(False, True),
         sizes=(Sizes(t=5), EQUAL._replace(t=16)), coupled=True,
         notes="two heads, one row per query; the frozen part of the backbone, which rows= states, counts for the "
         "width of the matrix alone"),
    Case("VideoMAEForVideoClassification", "transformers", lambda s: hf.VideoMAEForVideoClassification(
        hf.VideoMAEConfig(**image(s), **no_dropout(), num_frames=2, tubelet_size=2)), pictures(8, 2), ("n C",),
         {"videomae.encoder.layer.*": "n S D"}),
]  # fmt: skip

MIXED = [
    Case("CLIPModel", "transformers", clip, pairs, ("n C", "n C"),
         {"text_model.encoder.layers.*": "n S D", "vision_model.encoder.layers.*": "n S D"},
         tap=lambda value: [value.text_embeds, value.image_embeds], loss=in_batch,
         arguments={"output": (".text_embeds", ".image_embeds")},
         notes="each tower hears its own embeddings"),
    Case("WhisperForConditionalGeneration, labels=", "transformers", lambda s: hf.WhisperForConditionalGeneration(
        hf.WhisperConfig(**seq2seq(s), num_mel_bins=5, max_source_positions=s.s, max_target_positions=16,
                         suppress_tokens=None, begin_suppress_tokens=None)),
         lambda s: {"input_features": torch.randn(s.n, 5, 2 * s.s), "labels": ids(s.n, s.t, s.c)}, ("n t C",),
         {"model.encoder.layers.*": "n S D", "model.decoder.layers.*": "n t D"},
         stated=(False, True), **LABELLED),
    Case("Wav2Vec2ForCTC", "transformers", wav2vec2, lambda s: {"input_values": torch.randn(s.n, 8 * s.t)}, ("n t C",),
         {"wav2vec2.encoder.layers.*": "n t D"}),
    Case("ASTForAudioClassification", "transformers", lambda s: hf.ASTForAudioClassification(hf.ASTConfig(
        **encoder(s), patch_size=4, frequency_stride=4, time_stride=4, max_length=12, num_mel_bins=8,
        num_labels=s.c, **no_dropout())), lambda s: {"input_values": torch.randn(s.n, 12, 8)}, ("n C",),
         {"audio_spectrogram_transformer.layers.*": "n S D"}),
    Case("PerceiverForSequenceClassification", "transformers", lambda s: hf.PerceiverForSequenceClassification(
        hf.PerceiverConfig(num_latents=s.t, d_latents=s.d, d_model=8, num_blocks=1, num_self_attends_per_block=2,
                           num_self_attention_heads=s.heads, num_cross_attention_heads=s.heads, vocab_size=s.c,
                           max_position_embeddings=16, attention_probs_dropout_prob=0.0, num_labels=s.c)),
         lambda s: {"inputs": ids(s.n, s.s, s.c)}, ("n C",),
         {"perceiver.encoder.cross_attention": "n S D", "perceiver.encoder.self_attends.*": "n S D",
          "perceiver.decoder.decoder.decoding_cross_attention": "n S D"}),
    Case("PatchTSTForPrediction", "transformers", lambda s: hf.PatchTSTForPrediction(hf.PatchTSTConfig(
        num_input_channels=s.c, context_length=4 * s.t, patch_length=4, patch_stride=4, prediction_length=s.s,
        d_model=s.d, num_hidden_layers=2, num_attention_heads=s.heads, ffn_dim=12, positional_dropout=0.0,
        attention_dropout=0.0, ff_dropout=0.0, path_dropout=0.0, head_dropout=0.0, loss="mse")),
         lambda s: {"past_values": torch.randn(s.n, 4 * s.t, s.c)}, ("n P C",), {"model.encoder.layers.*": "n C P D"},
         tap=lambda value: [value.prediction_outputs],
         arguments={"output": ".prediction_outputs", "rows": {"": (0,)}}, coupled=True,
         notes="one error per series: the patches are not the predicted steps"),
    Case("DecisionTransformerModel", "transformers", lambda s: hf.DecisionTransformerModel(
        hf.DecisionTransformerConfig(state_dim=3, act_dim=2, hidden_size=s.d, max_ep_len=20, n_layer=2, n_head=s.heads,
                                     n_positions=32, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
                                     bos_token_id=None, eos_token_id=None)), decisions, ("n t A", "n t S", "n t R"),
         {"encoder.h.*": "n (t K) D"},
         tap=lambda value: [value.state_preds, value.action_preds, value.return_preds],
         arguments={"output": (".state_preds", ".action_preds", ".return_preds")},
         notes="three tokens per time step: return, state, action"),
]  # fmt: skip
