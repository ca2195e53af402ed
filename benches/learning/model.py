"""The transformers that benches/learning trains, for timm and for ibot."""

from timm.models.vision_transformer import VisionTransformer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPES = {
    "vit-ti-8": {"img_size": 64, "patch_size": 8, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit-s-16": {"img_size": 96, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
}


def timm_model(name: str, **extra) -> VisionTransformer:
    return VisionTransformer(num_classes=0, **SHAPES[name], **extra)


def ibot_settings(name: str) -> str:
    """The same shape as TOML for `ibot train --config`, in dotted keys, so that others of the same table can follow."""
    shape = SHAPES[name]
    lines = [f"method.vit.{key} = {value}" for key, value in shape.items()]
    return "\n".join([f"method.image_size = {shape['img_size']}", *lines, ""])
