"""Which weights the publishers of the backbones gave out."""

IMAGENET_DIGESTS = {
    "efficientnet_lite0": ("57934424",),
    "efficientnet_lite1": ("77cc7160",),
    "efficientnet_lite2": ("9656183e",),
    "resnet18": ("f37072fd",),
    "resnet34": ("b627a593",),
    "resnet50": ("0676ba61", "11ad3fa6"),
    "resnet101": ("63fe2227", "cd907fc2"),
    "vit": (),
}
"""Name -> how the SHA-256 of its ImageNet-classification weights begins, as their publishers' file names say it.

The first is what the backbone takes unless a file is given (version 1 of torchvision's, of the paper's time); ``vit``
has none of its own.
"""
