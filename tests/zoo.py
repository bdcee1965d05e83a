"""One model of every timm model file and of every torchvision family, the smallest that there is."""

import torchvision
from timm.models import is_model, list_models, list_modules

TIMM = """
    beit_base_patch16_224 halonet_h1 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
    deepseek_vit_412m deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
    efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0
    vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny gemma4_vit_167m
    ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hieradet_small hrnet_w18_small iformer_t
    inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0
    test_mambaout test_coatnet poolformerv2_s12 gmlp_ti16_224 mobilenetv3_small_050 mobilenetv5_base
    mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge nest_tiny nextvit_small
    test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_002 repghostnet_050
    repvit_m1 res2next50 resnest14d test_resnet resnetv2_18 rexnet_100 selecsls42 legacy_seresnet18
    sequencer2d_s shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
    swinv2_tiny_window8_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m
    twins_svt_small vgg11 visformer_tiny test_vit vit_tiny_r_s16_p8_224 test_vit_relpos
    samvit_base_patch16_224 vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
    xcit_nano_12_p8_224
""".split()

FURTHER = ["tf_efficientnet_cc_b0_4e"]
"""Models with operators that the smallest of their file does not have: convolutions by weights made from data."""

TORCHVISION = """
    alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5
    mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d wide_resnet50_2 shufflenet_v2_x0_5
    squeezenet1_0 swin_t swin_v2_t vgg11 vgg11_bn vit_b_16 deeplabv3_mobilenet_v3_large fcn_resnet50
    lraspp_mobilenet_v3_large mc3_18 r3d_18 r2plus1d_18 s3d swin3d_t mvit_v1_b mvit_v2_s raft_small
    fasterrcnn_mobilenet_v3_large_320_fpn fcos_resnet50_fpn keypointrcnn_resnet50_fpn maskrcnn_resnet50_fpn
    retinanet_resnet50_fpn ssd300_vgg16 ssdlite320_mobilenet_v3_large
""".split()


def timm_zoo() -> list[str]:
    """A model for every file of the installed timm, also for files that are newer than the list above."""
    by_module = {module: list_models(module=module) for module in list_modules()}
    known = set(TIMM)
    smallest = [next((name for name in names if name in known), names[0]) for names in by_module.values() if names]
    return smallest + [name for name in FURTHER if is_model(name)]


def torchvision_zoo() -> list[str]:
    """The torchvision models above that the installed version has."""
    available = set(torchvision.models.list_models())
    return [f"torchvision/{name}" for name in TORCHVISION if name in available]
