"""Networks by family, with random weights: those of torchvision, timm, Hugging Face and keras.applications.

Each is explained at its default layer and checked by other means (`check_model`). "make zoo" does it for all, in an
environment of its own; "make test" for the small ones, which need only what the tests need.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        source: The library that it is from, by the name of its module.
        make: Makes it.
        size: (H, W) of its images.
        small: Whether it is one of "make test".
        asked: Further arguments of `check_model`.
        refused: The beginning of the error that says why it cannot be explained without more arguments; else empty.
    """

    family: str
    name: str
    source: str
    make: Callable[[], Any]
    size: tuple[int, int] = (64, 64)
    small: bool = False
    asked: tuple[tuple[str, Any], ...] = ()
    refused: str = ""

    def model(self) -> Any:
        """The network; its batch norms have the statistics of some images, or the signal would die out on its way."""
        net = self.make()
        if self.source == "keras":
            for layer in net.layers:
                if "BatchNormalization" in type(layer).__name__:
                    layer.momentum = 0.0
            net(self.images(4), training=True)
            return net
        norms = [one for one in net.modules() if isinstance(one, BatchNorm)]
        if norms:
            for norm in norms:
                norm.momentum = None
            with torch.no_grad():
                net.train()(self.images(4))
            net.eval()
        return net

    def images(self, count: int = 2) -> Any:
        """Smooth noise in the layout of the framework."""
        rough = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        images = nn.functional.interpolate(rough, self.size, mode="bilinear")
        return images.permute(0, 2, 3, 1).numpy() if self.source == "keras" else images


def of_torchvision(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return with_a_head(importlib.import_module("torchvision.models").get_model(name, weights=None, **more).eval())


def with_a_head(net: Any) -> Any:
    """The network with random weights where it begins with a head of zeros."""
    for module in net.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return net


def of_timm(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return with_a_head(
        importlib.import_module("timm").create_model(name, pretrained=False, num_classes=10, **more).eval()
    )


def of_transformers(name: str, **config: Any) -> Any:
    torch.manual_seed(0)
    library = importlib.import_module("transformers")
    kind, task = name.split(" ")
    net = getattr(library, f"{kind}For{task}")(getattr(library, f"{kind}Config")(num_labels=5, **config)).eval()
    for module in net.modules():  # theirs are so small that a signal dies out on its way
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return net


def of_keras(name: str) -> Any:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    return getattr(tf.keras.applications, name)(weights=None, input_shape=(64, 64, 3), classes=10)


def _torchvision() -> Iterator[Network]:
    of: dict[str, str] = {
        "AlexNet": "alexnet", "VGG": "vgg11 vgg11_bn", "SqueezeNet": "squeezenet1_1", "ResNet": "resnet18 resnet50",
        "ResNeXt": "resnext50_32x4d", "Wide ResNet": "wide_resnet50_2", "DenseNet": "densenet121",
        "Inception": "inception_v3 googlenet", "MobileNet": "mobilenet_v2 mobilenet_v3_small", "MNASNet": "mnasnet0_5",
        "ShuffleNet": "shufflenet_v2_x0_5", "RegNet": "regnet_x_400mf regnet_y_400mf",
        "EfficientNet": "efficientnet_b0 efficientnet_v2_s", "ConvNeXt": "convnext_tiny", "ViT": "vit_b_32",
        "Swin": "swin_t swin_v2_t", "MaxViT": "maxvit_t",
    }  # fmt: skip
    sizes = {"inception_v3": (299, 299), "vit_b_32": (224, 224), "maxvit_t": (224, 224), "alexnet": (96, 96)}
    for family, names in of.items():
        for name in names.split():
            more = {"init_weights": True} if family == "Inception" else {}
            size = sizes.get(name, (96, 96) if family in ("DenseNet", "SqueezeNet", "VGG") else (64, 64))
            yield Network(family, name, "torchvision", partial(of_torchvision, name, **more), size)

    def pixels(output: Any) -> Tensor:
        scores: Tensor = output["out"]
        return scores[:, 1].mean((1, 2))

    for name in ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"):
        for aux in (False, True) if "lraspp" not in name else (False,):
            more = {"weights_backbone": None, "num_classes": 4} | ({"aux_loss": True} if aux else {})
            said = f"{name}, auxiliary head" if aux else name
            asked = (("target", pixels),)
            yield Network("segmentation", said, "torchvision", partial(of_torchvision, name, **more), asked=asked)


def _timm() -> Iterator[Network]:
    plain: dict[str, str] = {
        "ResNet": "resnet18d seresnet18 ecaresnet26t resnetrs50 skresnet18 resnest14d res2net50_14w_8s",
        "DLA, HRNet": "dla34 hrnet_w18_small", "NFNet": "dm_nfnet_f0 nf_resnet26", "RepVGG": "repvgg_a0",
        "mobile": "ghostnet_050 mixnet_s tinynet_e mobileone_s0 mobilenetv4_conv_small fbnetc_100 spnasnet_100 "
        "lcnet_050 hardcorenas_a", "VoVNet, CSP": "ese_vovnet19b_dw cspresnet50 cspdarknet53 selecsls42 rexnet_100",
        "ConvNeXt": "convnextv2_atto inception_next_atto starnet_s1 mambaout_femto rdnet_tiny convmixer_768_32",
        "MetaFormer": "poolformer_s12 poolformerv2_s12 caformer_s18 convformer_s18",
        "hybrid": "fastvit_t8 edgenext_xx_small mobilevitv2_050 repvit_m0_9 efficientvit_b0 efficientvit_m0 "
        "nextvit_small",
        "Xception": "xception41", "VGG": "vgg11_bn", "DarkNet": "darknet53", "ResNetV2": "resnetv2_50d",
    }  # fmt: skip
    at_their_size: dict[str, str] = {
        "ViT": "vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 deit3_small_patch16_224 deit_tiny_distilled_patch16_224 "
        "beit_base_patch16_224 eva02_tiny_patch14_224 vit_relpos_small_patch16_224",
        "attention": "cait_xxs24_224 xcit_nano_12_p16_224 crossvit_tiny_240 pit_ti_224 visformer_tiny coat_tiny "
        "volo_d1_224 tnt_s_legacy_patch16_224 levit_128s",
        "windows": "swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 twins_svt_small twins_pcpvt_small "
        "davit_tiny maxvit_rmlp_pico_rw_256 coatnet_pico_rw_224 gcvit_xxtiny tiny_vit_5m_224 mvitv2_tiny "
        "hiera_tiny_224",
        "FocalNet": "focalnet_tiny_srf",
        "MLP": "mixer_s32_224 gmlp_ti16_224 resmlp_12_224",
        "EfficientFormer": "efficientformer_l1 efficientformerv2_s0",
    }  # fmt: skip
    at_another = {
        "crossvit_tiny_240": (240, 240),
        "maxvit_rmlp_pico_rw_256": (256, 256),
        "efficientvit_m0": (224, 224),  # of 64 pixels its last map is a single place
    }
    for table, size in ((plain, (64, 64)), (at_their_size, (224, 224))):
        for family, names in table.items():
            for name in names.split():
                at = at_another.get(name, size)
                yield Network(family, name, "timm", partial(of_timm, name), at)
    small = {"img_size": 64, "patch_size": 8}
    for said, more in {
        "average pooling": {"global_pool": "avg"}, "registers": {"reg_tokens": 4},
        "no class token": {"class_token": False, "global_pool": "avg"},
        "attention pooling": {"class_token": False, "global_pool": "map"},
    }.items():  # fmt: skip
        make = partial(of_timm, "vit_tiny_patch16_224", depth=3, **small, **more)
        yield Network("ViT", f"vit_tiny, {said}", "timm", make)


_ATTENTION = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "ResNet": ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    "RegNet": ("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 4}),
    "Bit": ("ResNetV2", {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4}),
    "ConvNextV2": ("ConvNeXt", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "MobileNetV2": ("MobileNet", {"depth_multiplier": 0.35}),
    "MobileViTV2": ("hybrid", {"image_size": 64, "base_attn_unit_dims": [16, 24, 32], "n_attn_blocks": [1, 1, 1]}),
    "PoolFormer": ("MetaFormer", {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]}),
    "SwiftFormer": ("MetaFormer", {"embed_dims": [8, 16, 16, 24], "depths": [1, 1, 1, 1]}),
    "ViT": ("ViT", {"image_size": 64, **_ATTENTION}),
    "Dinov2": ("ViT", {"image_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}),
    "Dinov2WithRegisters": ("ViT", {"image_size": 64, "hidden_size": 24, "num_hidden_layers": 2,
                                    "num_attention_heads": 2}),
    "Beit": ("ViT", {"image_size": 64, **_ATTENTION}),
    "Data2VecVision": ("ViT", {"image_size": 64, **_ATTENTION}),
    "ViTMSN": ("ViT", {"image_size": 64, **_ATTENTION}),
    "Swinv2": ("windows", {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}),
    "FocalNet": ("FocalNet", {"image_size": 64, "embed_dim": 16, "depths": [1, 1]}),
    "PvtV2": ("windows", {"image_size": 64, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1],
                          "num_attention_heads": [1, 2, 2, 4]}),
    "Segformer": ("windows", {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1],
                              "num_attention_heads": [1, 2, 2, 4]}),
    "Levit": ("hybrid", {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 2, 2],
                         "key_dim": [8, 8, 8], "depths": [1, 1, 1]}),
    "EfficientNet": ("EfficientNet", {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25,
                                      "hidden_dim": 320}),
    "Hiera": ("windows", {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1],
                          "num_heads": [1, 2, 2, 4], "mlp_ratio": 2.0}),
}  # fmt: skip


def _transformers() -> Iterator[Network]:
    for kind, (family, config) in _SMALL.items():
        make = partial(of_transformers, f"{kind} ImageClassification", **config)
        yield Network(family, kind, "transformers", make, small=True)

    def pixels(output: Any) -> Tensor:
        scores: Tensor = output.logits
        return scores[:, 1].mean((1, 2))

    make = partial(of_transformers, "Segformer SemanticSegmentation", **_SMALL["Segformer"][1])
    yield Network(
        "segmentation", "Segformer, segmentation", "transformers", make, small=True, asked=(("target", pixels),)
    )


def _keras() -> Iterator[Network]:
    for family, names in {
        "MobileNet": "MobileNet MobileNetV2 MobileNetV3Small", "ResNet": "ResNet50 ResNet50V2", "VGG": "VGG16",
        "DenseNet": "DenseNet121", "EfficientNet": "EfficientNetB0 EfficientNetV2B0", "ConvNeXt": "ConvNeXtTiny",
        "RegNet": "RegNetX002 RegNetY002", "NASNet": "NASNetMobile",
    }.items():  # fmt: skip
        for name in names.split():
            yield Network(family, name, "keras", partial(of_keras, name))


NETWORKS: tuple[Network, ...] = (*_torchvision(), *_timm(), *_transformers(), *_keras())

SMALL: tuple[Network, ...] = tuple(one for one in NETWORKS if one.small)


def as_array(images: Any) -> np.ndarray[Any, Any]:
    """Images of either framework as an array."""
    return np.asarray(images)
