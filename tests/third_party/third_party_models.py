"""Models of other libraries, each small, with random weights, and not called before it is pruned.

The table says per model how to build it, what to call it with, and what to expect:

- `forward`: a `forward_fn` that returns only what matters, for models whose own outputs are too much or depend on values;
- `stream`: a parameter of the residual stream, the coupling that many layers write. It has to be free to be pruned;
- `pinned`: the model's own outputs fix the stream. Without `forward`, its coupling is protected as an output;
- `undecided`: the model's own forward depends on values, so that without `forward` there is an error;
- `approximate`: why a channel of zeros is not quite the same as no channel, in which case a larger difference is allowed.

Libraries are imported when a model is built: a missing one fails only its own models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "PACKAGES", "ThirdPartyModel", "build"]

PACKAGES = {
    "transformers": "transformers",
    "ultralytics": "ultralytics",
    "vit_pytorch": "vit-pytorch",
    "monai": "monai",
    "kornia": "kornia",
    "open_clip": "open-clip-torch",
    "segmentation_models_pytorch": "segmentation-models-pytorch",
}
"""Distributions by the module that is imported."""


@dataclass(frozen=True)
class ThirdPartyModel:
    """How to build a model, how to call it, and what pruning it should do.

    Attributes:
        library: The module that is imported, a key of `PACKAGES`.
        build: Builds it.
        inputs: Makes its example inputs.
        forward: Called as `forward(model, inputs)` instead of the model; None to call the model.
        stream: A parameter of the residual stream, which has one entry per channel; empty if the model has none.
        pinned: Whether the model's own outputs fix the stream.
        undecided: Whether the model's own forward depends on values.
        single_precision: Whether the model's own forward casts to single precision.
        approximate: Why zeroed channels differ a little from removed ones; empty if they do not.
        note: What a reader of the table should know.
    """

    library: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    forward: Callable[[nn.Module, Any], Any] | None = None
    stream: str = ""
    pinned: bool = False
    undecided: bool = False
    single_precision: bool = False
    approximate: str = ""
    note: str = ""


def build(name: str) -> nn.Module:
    """Build a model of the table, in evaluation mode. Every call builds a new one with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name].build().eval()


def images(*shape: int) -> Callable[[], Tensor]:
    """Return a function that makes one batch of random images, all entries in 0..1."""
    return lambda: torch.rand(shape, generator=torch.Generator().manual_seed(1))


def pixels(*shape: int) -> Callable[[], dict[str, Tensor]]:
    """Images under the name that transformers gives them."""
    return lambda: {"pixel_values": images(*shape)()}


def tokens(count: int, vocabulary: int, last: int | None = None) -> Tensor:
    """One sequence of random token numbers, `(1, count)`; `last` ends it."""
    ids = torch.randint(3, vocabulary - 2, (1, count), generator=torch.Generator().manual_seed(2))
    if last is not None:
        ids[:, -1] = last
    return ids


def returns(*names: str) -> Callable[[nn.Module, Any], tuple[Tensor, ...]]:
    """Return a `forward_fn` for models that are called with keywords: it returns only these of their outputs."""

    def forward(model: nn.Module, inputs: Any) -> tuple[Tensor, ...]:
        result = model(**inputs)
        return tuple(getattr(result, name) for name in names)

    return forward


# transformers

VIT = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": 64,
    "patch_size": 16,
}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 100,
}


def hugging_face(kind: str, configuration: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a model of transformers from a configuration."""

    def make() -> nn.Module:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, configuration)(**options))

    return make


def clip_config(kind: str) -> Callable[[], nn.Module]:
    """CLIP, whole or one tower with its projection."""
    text = TEXT | {"max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 99, "projection_dim": 48}
    vision = VIT | {"projection_dim": 48}

    def make() -> nn.Module:
        import transformers

        if kind == "CLIPModel":
            config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=48)
        elif "Text" in kind:
            config = transformers.CLIPTextConfig(**text)
        else:
            config = transformers.CLIPVisionConfig(**vision)
        return getattr(transformers, kind)(config)

    return make


def clip_text() -> dict[str, Tensor]:
    return {"input_ids": tokens(12, 100, last=99), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def clip_inputs() -> dict[str, Tensor]:
    return clip_text() | pixels(1, 3, 64, 64)()


def bert_inputs() -> dict[str, Tensor]:
    mask = torch.ones(1, 16, dtype=torch.long)
    mask[:, 12:] = 0
    return {"input_ids": tokens(16, 100), "attention_mask": mask}


def detr() -> nn.Module:
    """DETR with a ResNet of transformers' own in place of timm's."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = transformers.DetrConfig(
        backbone_config=backbone,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=10,
        num_labels=7,
    )
    return transformers.DetrForObjectDetection(config)


def rt_detr() -> nn.Module:
    import transformers

    backbone = transformers.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[32, 48, 64],
        encoder_hidden_dim=64,
        d_model=64,
        decoder_in_channels=[64, 64, 64],
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        decoder_layers=2,
        num_queries=20,
        num_labels=7,
    )
    return transformers.RTDetrForObjectDetection(config)


# ultralytics


def ultralytics_model(name: str, kind: str = "DetectionModel") -> Callable[[], nn.Module]:
    """Return a function that builds a detector from ultralytics' own description of it."""

    def make() -> nn.Module:
        from ultralytics.nn import tasks

        return getattr(tasks, kind)(name, ch=3, nc=7, verbose=False)

    return make


def predictions(model: nn.Module, inputs: Tensor) -> Tensor:
    """Decoded predictions without the features that ultralytics returns beside them."""
    return model(inputs)[0]


# vit-pytorch


def vit_pytorch(module: str, kind: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a model of vit-pytorch with ten classes."""

    def make() -> nn.Module:
        from importlib import import_module

        return getattr(import_module(f"vit_pytorch.{module}"), kind)(num_classes=10, **options)

    return make


PLAIN = {"image_size": 64, "patch_size": 16, "dim": 96, "depth": 3, "heads": 4, "mlp_dim": 192, "dim_head": 24}
STAGES = {
    f"s{number}_{key}": value
    for number, width in enumerate((32, 64, 96), 1)
    for key, value in {"emb_dim": width, "heads": number, "depth": 1}.items()
}


# monai


def monai(kind: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a network of monai."""

    def make() -> nn.Module:
        from monai.networks import nets

        return getattr(nets, kind)(**options)

    return make


def noisy_image() -> tuple[Tensor, Tensor]:
    return images(1, 1, 32, 32)(), torch.tensor([7])


# kornia


def kornia(kind: str, *args: Any, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a model of kornia without weights of its own."""

    def make() -> nn.Module:
        from kornia import feature

        return getattr(feature, kind)(*args, **options)

    return make


def image_pair() -> tuple[dict[str, Tensor]]:
    both = images(2, 1, 64, 64)()
    return ({"image0": both[:1], "image1": both[1:]},)


def dense(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """DISK before it picks keypoints."""
    return model.heatmap_and_dense_descriptors(inputs)


def similarities(model: nn.Module, inputs: tuple[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """LoFTR with the first four cells of both images as matches, in place of those that values decide on."""
    data = inputs[0]
    stride_c, stride_f = model.config["resolution"]
    features = [model.extract_features(data[name]) for name in ("image0", "image1")]
    coarse = [feature["coarse"].flatten(2).transpose(1, 2) for feature in features]
    coarse = model.loftr_coarse(*coarse)
    cells = torch.arange(4)
    picked = {
        "stride_c": stride_c,
        "stride_f": stride_f,
        "b_ids": torch.zeros_like(cells),
        "i_ids": cells,
        "j_ids": cells,
    }
    fine = model.fine_preprocess(features[0]["fine"], features[1]["fine"], *coarse, picked)
    fine = model.loftr_fine(*fine)
    centre = fine[0][:, fine[0].shape[1] // 2]
    return torch.einsum("nlc,nsc->nls", *coarse), torch.einsum("mc,mrc->mr", centre, fine[1])


# open_clip


def coca() -> nn.Module:
    """CoCa as in open_clip's own `coca_ViT-B-32`, smaller in all respects."""
    from open_clip import CoCa

    text = {"context_length": 12, "vocab_size": 100, "width": 64, "heads": 4, "layers": 2}
    vision = {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 16,
        "patch_size": 16,
        "attentional_pool": True,
        "attn_pooler_queries": 16,
        "attn_pooler_heads": 4,
        "output_tokens": True,
    }
    model = CoCa(
        embed_dim=64,
        multimodal_cfg=text | {"attn_pooler_heads": 4},
        text_cfg=text | {"embed_cls": True, "output_tokens": True},
        vision_cfg=vision,
    )
    for part in (model.text, model.text_decoder):
        nn.init.normal_(part.text_projection, std=0.125)  # open_clip leaves it as the memory was
    return model


def coca_inputs() -> tuple[Tensor, Tensor]:
    return images(1, 3, 64, 64)(), tokens(12, 100)


# segmentation_models_pytorch


def segmentation(kind: str, encoder: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that builds a segmentation model of five classes."""

    def make() -> nn.Module:
        import segmentation_models_pytorch as smp

        return getattr(smp, kind)(encoder_name=encoder, encoder_weights=None, classes=5, **options)

    return make


def _entry(library: str) -> Callable[..., ThirdPartyModel]:
    return lambda *args, **facts: ThirdPartyModel(library, *args, **facts)


_hf, _ultra, _vit, _monai, _kornia, _clip, _smp = map(_entry, PACKAGES)

MODELS: dict[str, ThirdPartyModel] = {
    "hf_vit": _hf(
        hugging_face("ViTForImageClassification", "ViTConfig", **VIT, num_labels=10),
        pixels(1, 3, 64, 64),
        stream="vit.layernorm.weight",
    ),
    "hf_deit": _hf(
        hugging_face("DeiTForImageClassification", "DeiTConfig", **VIT, num_labels=10),
        pixels(1, 3, 64, 64),
        stream="deit.layernorm.weight",
    ),
    "hf_swin": _hf(
        hugging_face(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=64,
            patch_size=4,
            embed_dim=32,
            depths=[2, 2],
            num_heads=[2, 4],
            window_size=4,
            num_labels=10,
        ),
        pixels(1, 3, 64, 64),
        stream="swin.layernorm.weight",
    ),
    "hf_convnext": _hf(
        hugging_face(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[24, 32, 48, 64],
            depths=[1, 1, 2, 1],
            num_labels=10,
        ),
        pixels(1, 3, 64, 64),
        stream="convnext.layernorm.weight",
    ),
    "hf_segformer": _hf(
        hugging_face(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            hidden_sizes=[16, 32, 48, 64],
            depths=[1, 1, 1, 1],
            num_attention_heads=[1, 2, 3, 4],
            decoder_hidden_size=64,
            num_labels=5,
        ),
        pixels(1, 3, 64, 64),
        stream="segformer.stages.0.blocks.0.layernorm_before.weight",
    ),
    "hf_detr": _hf(
        detr,
        pixels(1, 3, 96, 96),
        returns("logits", "pred_boxes"),
        stream="model.decoder.layernorm.weight",
        pinned=True,
        note="returns its decoder's and its encoder's hidden states",
    ),
    "hf_rt_detr": _hf(
        rt_detr,
        pixels(1, 3, 96, 96),
        returns("logits", "pred_boxes"),
        stream="model.decoder.layers.0.encoder_attn_layer_norm.weight",
        pinned=True,
        note="returns the hidden states of every layer",
    ),
    "hf_clip_vision": _hf(
        clip_config("CLIPVisionModelWithProjection"),
        pixels(1, 3, 64, 64),
        returns("image_embeds"),
        stream="vision_model.encoder.layers.0.layer_norm1.weight",
        pinned=True,
        note="returns its hidden states",
    ),
    "hf_clip_text": _hf(
        clip_config("CLIPTextModelWithProjection"),
        clip_text,
        returns("text_embeds"),
        stream="text_model.encoder.layers.0.layer_norm1.weight",
        pinned=True,
        note="returns its hidden states",
    ),
    "hf_clip": _hf(
        clip_config("CLIPModel"),
        clip_inputs,
        returns("logits_per_image", "logits_per_text"),
        stream="text_model.encoder.layers.0.layer_norm1.weight",
        pinned=True,
        note="returns the hidden states of both towers",
    ),
    "hf_dinov2": _hf(
        hugging_face(
            "Dinov2ForImageClassification",
            "Dinov2Config",
            **{key: value for key, value in VIT.items() if key != "intermediate_size"},
            mlp_ratio=2,
            num_labels=10,
        ),
        pixels(1, 3, 64, 64),
        stream="dinov2.layernorm.weight",
    ),
    "hf_bert": _hf(
        hugging_face("BertForSequenceClassification", "BertConfig", **TEXT, max_position_embeddings=32, num_labels=4),
        bert_inputs,
        note="with an `attention_mask`",
        stream="bert.encoder.layer.0.output.LayerNorm.weight",
    ),
    "yolov8n": _ultra(
        ultralytics_model("yolov8n.yaml"),
        images(1, 3, 128, 128),
        predictions,
        stream="model.15.cv2.bn.weight",
        pinned=True,
        note="returns the features of its neck",
    ),
    "yolo11n": _ultra(
        ultralytics_model("yolo11n.yaml"),
        images(1, 3, 128, 128),
        predictions,
        stream="model.16.cv2.bn.weight",
        pinned=True,
        note="returns the features of its neck",
    ),
    "rtdetr_l": _ultra(ultralytics_model("rtdetr-l.yaml", "RTDETRDetectionModel"), images(1, 3, 128, 128)),
    "vit_pytorch_vit": _vit(vit_pytorch("vit", "ViT", **PLAIN), images(1, 3, 64, 64), stream="transformer.norm.weight"),
    "vit_pytorch_simple_vit": _vit(
        vit_pytorch("simple_vit", "SimpleViT", **PLAIN), images(1, 3, 64, 64), stream="transformer.norm.weight"
    ),
    "vit_pytorch_cvt": _vit(
        vit_pytorch("cvt", "CvT", **STAGES), images(1, 3, 64, 64), stream="layers.0.2.layers.0.0.norm.g"
    ),
    "vit_pytorch_crossformer": _vit(
        vit_pytorch(
            "crossformer",
            "CrossFormer",
            dim=(32, 48, 64, 96),
            depth=(1, 1, 2, 1),
            global_window_size=(4, 4, 2, 1),
            local_window_size=4,
        ),
        images(1, 3, 128, 128),
        single_precision=True,
        note="local windows are as large as the last stages' images",
        stream="layers.0.1.layers.0.0.norm.g",
    ),
    "vit_pytorch_maxvit": _vit(
        vit_pytorch("max_vit", "MaxViT", dim=32, depth=(1, 1), dim_head=16, dim_conv_stem=32, window_size=4),
        images(1, 3, 64, 64),
        stream="layers.0.2.fn.norm.weight",
    ),
    "vit_pytorch_twins": _vit(
        vit_pytorch(
            "twins_svt",
            "TwinsSVT",
            **{f"s{n}_emb_dim": width for n, width in enumerate((32, 48, 64, 96), 1)},
            **{f"s{n}_local_patch_size": size for n, size in enumerate((4, 4, 4, 2), 1)},
            **{f"s{n}_global_k": size for n, size in enumerate((4, 4, 4, 2), 1)},
            s3_depth=1,
            s4_depth=1,
        ),
        images(1, 3, 64, 64),
        stream="layers.3.3.layers.0.3.fn.net.0.g",
    ),
    "vit_pytorch_xcit": _vit(
        vit_pytorch("xcit", "XCiT", **PLAIN, cls_depth=2), images(1, 3, 64, 64), stream="mlp_head.0.weight"
    ),
    "vit_pytorch_vivit": _vit(
        vit_pytorch(
            "vivit",
            "ViViT",
            **{key: value for key, value in PLAIN.items() if key not in ("patch_size", "depth")},
            image_patch_size=16,
            frames=4,
            frame_patch_size=2,
            spatial_depth=2,
            temporal_depth=2,
        ),
        images(1, 3, 4, 64, 64),
        stream="spatial_transformer.norm.weight",
    ),
    "vit_pytorch_nvit": _vit(
        vit_pytorch("normalized_vit", "nViT", **PLAIN), images(1, 3, 64, 64), stream="residual_lerp_scales.2.0"
    ),
    "monai_unet": _monai(
        monai(
            "UNet",
            spatial_dims=2,
            in_channels=1,
            out_channels=3,
            channels=(16, 32, 48, 64),
            strides=(2, 2, 2),
            num_res_units=2,
        ),
        images(1, 1, 64, 64),
    ),
    "monai_swin_unetr": _monai(
        monai("SwinUNETR", spatial_dims=3, in_channels=1, out_channels=3, feature_size=12, depths=(1, 1, 1, 1)),
        images(1, 1, 64, 64, 64),
        stream="swinViT.layers1.0.blocks.0.norm1.weight",
    ),
    "monai_vnet": _monai(monai("VNet", spatial_dims=3, in_channels=1, out_channels=3), images(1, 1, 32, 32, 32)),
    "monai_diffusion_unet": _monai(
        monai(
            "DiffusionModelUNet",
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=(16, 32, 32),
            num_res_blocks=1,
            attention_levels=(False, True, True),
            num_head_channels=8,
            norm_num_groups=8,
        ),
        noisy_image,
        stream="down_blocks.1.attentions.0.norm.weight",
    ),
    "kornia_hardnet": _kornia(kornia("HardNet", pretrained=False), images(2, 1, 32, 32)),
    "kornia_disk": _kornia(
        kornia("DISK"),
        images(1, 3, 64, 64),
        dense,
        undecided=True,
        note="picks keypoints by value; `forward_fn` returns the dense maps",
    ),
    "kornia_loftr": _kornia(
        kornia("LoFTR", None),
        image_pair,
        similarities,
        undecided=True,
        approximate="its attention adds one to queries and keys, so that channels of zeros take part",
        note="matches by value; `forward_fn` returns similarities",
    ),
    "open_clip_coca": _clip(coca, coca_inputs, stream="text.transformer.resblocks.0.ln_1.weight"),
    "smp_unet": _smp(segmentation("Unet", "tu-resnet10t"), images(1, 3, 64, 64)),
    "smp_unet_mobilenet": _smp(segmentation("Unet", "tu-mobilenetv3_small_100"), images(1, 3, 64, 64)),
    "smp_deeplabv3plus": _smp(segmentation("DeepLabV3Plus", "tu-resnet10t"), images(1, 3, 64, 64)),
    "smp_fpn": _smp(segmentation("FPN", "tu-efficientnet_b0"), images(1, 3, 64, 64)),
}
"""Every model by its name."""
