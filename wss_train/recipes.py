"""Everything that a training run depends on, as values: the presets and their sources.

A preset differs from another by values only; no code asks for a preset's name.

Sources, by the names used in the meanings below:
    paper: Shen, Lin, Liu, Shen and Reid, *Weakly Supervised Semantic Segmentation Based on Web Image
        Co-segmentation*, BMVC 2017.
    code: the authors' released MXNet code.
    habit: what the field does where the paper is silent (DeepLab and its successors).
    DeepLabv2: Chen, Papandreou, Kokkinos, Murphy and Yuille, TPAMI 2018.
    ours: chosen by us for a machine without a GPU; no claim beyond what the documentation reports.
"""

import types
import typing
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, field, fields, replace
from typing import Annotated, Any, Literal

from wss_data.backbones.published import NETWORK_NAME, pixel_statistics
from wss_data.crf.settings import CrfSettings
from wss_data.errors import RecipeError, shown
from wss_data.reading.settings import Expected, Rule, settings, unchecked

Kind = Literal["generator", "final"]
"""The two networks of the method: the mask generator (section 3.2) and the final model (section 3.3)."""

MEAN_ALONE = (123.0, 117.0, 104.0), (1.0, 1.0, 1.0)  # RGB minus these, not divided (code)

# Upper bounds far beyond what anybody trains with: a recipe may come with a stranger's checkpoint.
_Channels = Annotated[int, Rule(gt=0, le=16_384)]
_Pixels = Annotated[int, Rule(gt=0, le=20_000)]
_Count = Annotated[int, Rule(gt=0, le=1_000_000)]
_Iterations = Annotated[int, Rule(gt=0, le=1_000_000_000)]
_Factor = Annotated[float, Rule(gt=0)]
_Weight = Annotated[float, Rule(ge=0)]

REMOVED = {
    "pixel_loss": "cross_entropy",
    "boundary_band_px": 0,
    "small_loss_share": 1,
    "average_decay": 0,
    "rounds": 1,
    # Without effect beside the values above.
    **dict.fromkeys(("bootstrap_weight", "symmetric_alpha", "symmetric_beta", "small_loss_ramp")),
}
"""Values of earlier recipes that gained nothing, and what each was where it was off; ``None`` for any."""


@settings("recipe", RecipeError)
class TrainRecipe:
    """Everything that a training run depends on, apart from the data. The defaults are the preset ``paper``."""

    preset: Annotated[str, "The preset it started from; a note for the reader."] = "paper"

    backbone: Annotated[str, NETWORK_NAME, "Network below the head (paper 4.2)."] = "resnet50"
    # The final model starts from them, too, not from the generator (code).
    weights: Annotated[str, "First weights of the backbone: imagenet for its own, none or a file."] = "imagenet"
    normalisation: Annotated[
        Literal["weights", "subtract_mean"],
        "Pixels as the backbone's weights were trained (habit), or RGB minus (123, 117, 104) undivided (code).",
    ] = "weights"
    output_stride: Annotated[Literal[8, 16, 32], "Pixels per cell of the segmentation logits (paper 4.2)."] = 8
    dilate_first_block: Annotated[
        bool,
        "Whether the first block of a dilated stage has that stage's dilation (code), or that of the stage before, "
        "as in torchvision and EfficientNet-Lite (habit). ResNet only.",
    ] = False
    batch_norm_epsilon: Annotated[
        Annotated[float, Rule(ge=0, le=1)] | None,
        "Added to the variance in batch normalisation; none keeps the backbone's own (habit: 1e-5).",
    ] = None
    head: Annotated[
        Literal["convolutions", "descriptors"],
        "convolutions: the head is trained with the network below it (paper); descriptors: it is trained alone, on "
        "descriptors of cells, at two depths, of a network that stays as it is (ours; mask generator only).",
    ] = "convolutions"
    head_channels: Annotated[_Channels, "Channels of the head's hidden layers (code)."] = 512
    head_dilation: Annotated[_Pixels, "Dilation of the head's 3x3 convolution (code)."] = 12
    dropout: Annotated[float, Rule(ge=0, lt=1), "Dropout in head and branch: fraction zeroed (code)."] = 0.5
    new_layer_std: Annotated[_Factor, "Deviation of new layers' first weights (code); biases are 0."] = 0.01

    multilabel: Annotated[bool, "Whether the final model has the multi-label branch (paper 3.3)."] = True
    multilabel_weight: Annotated[_Weight, "Lambda of eq. 4 (paper 4.2)."] = 1.0
    score_fusion: Annotated[bool, "Whether the branch's scores are added to the pixel logits (code)."] = True
    branch_target: Annotated[
        Literal["image_labels", "mask_classes"],
        "What the branch learns: the image's labels, C scores (paper eq. 3), or the classes present in the mask, "
        "background included, C + 1 scores (code).",
    ] = "image_labels"
    branch_channels: Annotated[_Channels, "Units of the branch's two hidden layers (code)."] = 1024

    label_weight: Annotated[
        _Weight,
        "Weight of what the target's image-level labels say to the mask generator, beside the web's masks; 0: "
        "nothing (paper). With head=descriptors only.",
    ] = 0.0

    long_side: Annotated[_Pixels, "Longer side before augmentation, pixels (paper 4.2)."] = 500
    crop: Annotated[_Pixels, "Side of the square training crop, pixels (paper 4.2)."] = 320
    flip: Annotated[float, Rule(ge=0, le=1), "Probability of a horizontal flip (code)."] = 0.5
    scale_range: Annotated[tuple[_Factor, _Factor], "Smallest and largest random scale (code)."] = (0.7, 1.3)
    loss_resolution: Annotated[
        Literal["mask", "stride"], "Logits upsampled to the mask (habit), or mask sampled to the logits (code)."
    ] = "mask"

    batch: Annotated[_Count, "Images an iteration (paper 4.2)."] = 16
    optimizer: Annotated[Literal["sgd", "adamw"], "Optimizer (paper 4.2: SGD)."] = "sgd"
    learning_rate: Annotated[_Factor, "First learning rate of the pretrained layers (paper 4.2)."] = 16e-4
    momentum: Annotated[_Weight, "Momentum of SGD (paper 4.2); AdamW has its own, (0.9, 0.999)."] = 0.9
    weight_decay: Annotated[_Weight, "Weight decay: L2 term of SGD (paper 4.2), decoupled for AdamW."] = 5e-4
    new_layer_rate_factor: Annotated[_Factor, "Learning rate of new layers, relative to the rest (code)."] = 1.0
    new_bias_rate_factor: Annotated[_Factor, "That of their biases, relative to their weights (habit)."] = 1.0
    decay_new_biases: Annotated[bool, "Whether weight decay applies to biases of new layers (habit)."] = True
    rate_policy: Annotated[
        Literal["step", "restart", "poly"],
        "step: the rate falls once (paper 4.2); restart: the same, and the optimizer forgets its state, as a "
        "second run from the first one's weights would (code); poly: it falls smoothly to zero as "
        "(1 - iteration / all) ** poly_power (DeepLabv2).",
    ] = "step"
    poly_power: Annotated[_Factor, "Exponent of poly (DeepLabv2)."] = 0.9
    low_rate_factor: Annotated[_Factor, "Factor on the rate in the tail of step and restart (paper 4.2)."] = 0.1
    generator_iterations: Annotated[
        _Iterations, "Iterations of the mask generator, tail included (paper 4.2: 2.15 epochs of 37,211 images)."
    ] = 5_000
    generator_low_rate_iterations: Annotated[
        int, Rule(ge=0), "How many of them are the tail (ours: the paper only says that the rate falls once)."
    ] = 1_000
    final_iterations: Annotated[
        _Iterations, "Iterations of the final model, tail included (paper 4.2: 11,000, then some at a tenth)."
    ] = 13_000
    final_low_rate_iterations: Annotated[int, Rule(ge=0), "How many are the tail (ours: the paper's some)."] = 2_000

    accumulate: Annotated[_Count, "Parts that a batch is computed in where memory is short; divides batch."] = 1
    precision: Annotated[
        Literal["float32", "bf16", "fp16"],
        "Number format of the network (habit of 2017: float32); the others by autocast, fp16 on a GPU only.",
    ] = "float32"
    compile: Annotated[bool, "Whether torch.compile translates the network: minutes that pay on a GPU."] = False
    channels_last: Annotated[bool, "Whether convolutions see channels-last memory; faster with bf16."] = False
    image_weighting: Annotated[
        Literal["none", "confidence", "quality"],
        "What an image counts by: nothing (paper), the confidence of its co-segmentation, or its mask's quality, "
        "solidity times colour contrast. Pseudo masks have neither and count alike.",
    ] = "none"
    balanced_sampling: Annotated[bool, "Whether classes come equally often, whatever their size."] = False

    seed: Annotated[
        int, Rule(ge=0, le=2**63 - 1), "Seed of new layers, order of the images, augmentation and dropout."
    ] = 0
    checkpoint_every: Annotated[_Iterations, "Iterations between checkpoints."] = 500
    keep_checkpoints: Annotated[_Count, "How many of the newest checkpoints are kept."] = 2

    scales: Annotated[
        tuple[Annotated[float, Rule(gt=0, le=16)], ...],
        Rule(min_length=1, max_length=20),
        "Image scales whose softmax outputs are summed, for masks and in evaluation (code).",
    ] = (0.7, 1.0, 1.3)
    crf_iterations: Annotated[int, Rule(ge=0, le=20_000), "Iterations of the dense CRF (habit, code)."] = 10
    crf_position_px: Annotated[_Factor, "CRF: deviation of the position kernel, pixels (habit)."] = 3.0
    crf_position_weight: Annotated[_Weight, "CRF: weight of the position kernel (code)."] = 3.0
    crf_bilateral_px: Annotated[_Factor, "CRF: deviation of the bilateral kernel, pixels (code)."] = 55.0
    crf_bilateral_rgb: Annotated[_Factor, "CRF: its deviation in colour, 0..255 (code)."] = 3.0
    crf_bilateral_weight: Annotated[_Weight, "CRF: weight of the bilateral kernel (code)."] = 4.0
    mask_crf: Annotated[bool, "Whether the CRF also sharpens the target's pseudo masks (paper 3.2: no)."] = False
    mask_presence: Annotated[
        Annotated[float, Rule(ge=0, le=1)],
        "Pseudo masks: probabilities of a class that the image is labelled with are divided by their maximum in "
        "the image to this power; 0: as they are (paper), 1: each one somewhere is as likely as can be (ours).",
    ] = 0.0
    mask_background: Annotated[
        _Factor, "Pseudo masks: what probabilities of the background are divided by; 1: as they are (paper)."
    ] = 1.0
    generator: Annotated[
        Mapping[str, Any],
        Expected("values of a recipe by name"),
        "Values of the mask generator that differ from those of the final model, by name (paper: none).",
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch % self.accumulate:
            raise RecipeError(f"recipe: accumulate is {self.accumulate}, expected a divisor of batch ({self.batch}).")
        if self.scale_range[0] > self.scale_range[1]:
            raise RecipeError(f"recipe: scale_range is {self.scale_range}, expected the smaller factor first.")
        for kind in typing.get_args(Kind):
            if self.low_rate_iterations(kind) > self.iterations(kind):
                raise RecipeError(
                    f"recipe: {kind}_low_rate_iterations is {self.low_rate_iterations(kind)}, expected at most "
                    f"{kind}_iterations ({self.iterations(kind)})."
                )
        if self.backbone == "vit":
            raise RecipeError(
                "recipe: backbone is 'vit', whose sizes only a file knows, and a checkpoint must know them, too. Name "
                "the network of timm that the file is of, such as vit_small_patch16_224 or vit_small_patch14_dinov2."
            )
        if self.label_weight and self.head != "descriptors":
            raise RecipeError(
                f"recipe: label_weight is {self.label_weight}, and head is {self.head}; labels alone can teach the "
                "head descriptors only. Set head=descriptors, or label_weight=0."
            )
        if "generator" in self.generator:
            raise RecipeError(
                "recipe: generator holds values of the mask generator, and may not hold a generator itself."
            )
        if self.generator:
            self.of("generator")  # refuses what no recipe may hold

    def of(self, kind: Kind) -> "TrainRecipe":
        """The recipe of one of the two networks: what ``generator`` holds is in place for the mask generator.

        >>> recipe = TrainRecipe(crop=256, generator={"crop": 512})
        >>> recipe.of("generator").crop, recipe.of("final").crop
        (512, 256)
        """
        return replace(self, **{"generator": {}, **(self.generator if kind == "generator" else {})})

    def iterations(self, kind: Kind) -> int:
        """All iterations of the generator or the final model, low-rate tail included."""
        return self.generator_iterations if kind == "generator" else self.final_iterations

    def low_rate_iterations(self, kind: Kind) -> int:
        """How many of the last iterations run at the low rate (``step`` and ``restart``)."""
        return self.generator_low_rate_iterations if kind == "generator" else self.final_low_rate_iterations

    @property
    def pixel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Mean and divisor, each (R, G, B), that turn pixels of 0..255 into the network's input."""
        if self.normalisation == "subtract_mean":
            return MEAN_ALONE
        return pixel_statistics(self.backbone)

    @property
    def crf_settings(self) -> CrfSettings:
        """The settings of the dense CRF."""
        return CrfSettings(**{field.name: getattr(self, f"crf_{field.name}") for field in fields(CrfSettings)})

    def training_values(self, kind: Kind) -> dict[str, Any]:
        """The values that shape the weights of one of the two networks; runs that share them are one run.

        Left out are inference, book-keeping, the other network, and ``multilabel``: a run notes what it has itself.

        >>> recipe = TrainRecipe()
        >>> [name for name in recipe.training_values("generator") if name.startswith(("final", "branch"))]
        []
        """
        left_out = ("preset", "checkpoint_every", "keep_checkpoints", "scales", "generator", "multilabel")
        of_others = ("final_", "branch_", "multilabel", "score_") if kind == "generator" else ("generator_",)
        others = ("crf_", "mask_", *of_others)
        return {k: v for k, v in self.to_dict().items() if k not in left_out and not k.startswith(others)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainRecipe":
        """The recipe that ``to_dict`` wrote, also in earlier versions; a missing value takes the preset ``paper``'s."""
        return cls(**without_removed(values))


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    # The authors pick the snapshot that scores best on val. That looks at pixel truth: here a run always ends after a
    # fixed number of iterations, whatever the preset.
    "authors-code": {
        "normalisation": "subtract_mean",  # code: RGB minus (123, 117, 104), no division
        "dilate_first_block": True,  # code: dilation 2 in stage 4, 4 in stage 5, first blocks included
        "batch_norm_epsilon": 1.001e-5,  # code
        "loss_resolution": "stride",  # code: mask sampled (nearest) to stride 8
        "rate_policy": "restart",  # code: constant, then a restart at a tenth
        "final_iterations": 16_100,  # code
        "final_low_rate_iterations": 4_900,  # code: "about 4,900 of them low"
        "new_bias_rate_factor": 2.0,  # code: biases of new layers at twice the rate ...
        "decay_new_biases": False,  # ... and without decay
        "branch_target": "mask_classes",  # code: classes present in the pseudo mask, background included
        "crf_position_px": 2.0,  # code
    },
    "modern": {
        "learning_rate": 2.5e-4,  # DeepLabv2 for ResNet ...
        "new_layer_rate_factor": 10.0,  # ... with ten times that for the new layers
        "rate_policy": "poly",  # DeepLabv2, power 0.9
        "generator_low_rate_iterations": 0,
        "final_low_rate_iterations": 0,
        "scale_range": (0.5, 1.5),  # DeepLabv2
        "scales": (0.5, 0.75, 1.0, 1.25, 1.5),  # habit
        "precision": "bf16",  # ours: half the memory on a GPU
        "channels_last": True,
        "image_weighting": "confidence",  # ours: +0.9 points with each of three seeds, see the experiment log
    },
    "cpu": {
        "backbone": "efficientnet_lite0",  # ours: its weights come inside an index package
        "output_stride": 16,  # ours
        "head_channels": 256,  # ours
        "head_dilation": 2,  # ours: at stride 16 this reaches as far as 4 at stride 8
        "branch_channels": 512,  # ours
        "dropout": 0.1,  # ours
        "long_side": 340,  # paper 4.1: the size at which web images are stored
        "crop": 256,  # ours
        "batch": 8,  # ours
        "optimizer": "adamw",  # ours: SGD at 0.005 collapsed to background
        "learning_rate": 1e-4,  # ours
        "weight_decay": 0.01,  # AdamW's usual
        "new_layer_rate_factor": 10.0,  # ours
        "rate_policy": "poly",  # DeepLabv2, power 0.9
        "generator_iterations": 400,  # ours
        "generator_low_rate_iterations": 0,
        "final_iterations": 500,  # ours
        "final_low_rate_iterations": 0,
        "precision": "bf16",  # ours: faster where the processor has it, and as good
        "channels_last": True,  # ours: 1.1 s without, in float32
        "checkpoint_every": 50,  # ours: about half a minute's work
    },
}
_LABELS: dict[str, Any] = {  # ours: what twenty classes gained, see the experiment log
    "mask_crf": True,  # +3 points of pseudo masks
    "mask_presence": 0.5,  # +3 points of IoU on msrc_v2, where it was chosen
    "mask_background": 3.0,  # likewise
    "generator": {
        "backbone": "efficientnet_lite2",  # that of co-segmentation
        "long_side": 512,  # as in co-segmentation
        "scales": [1.0],  # the scale that it is trained at
        "head": "descriptors",
        "label_weight": 1.0,
        "new_layer_std": 0.03,  # PyTorch's own for layers of this size
        "dropout": 0.3,  # as in the self-training of co-segmentation
        "weight_decay": 0.01,
        "learning_rate": 2e-3,  # as in the self-training of co-segmentation
        "generator_iterations": 600,  # each cell that is kept is seen some five times
        "crf_position_px": 6.0,  # the CRF of co-segmentation, which runs at 160 px, at the size of the masks
        "crf_bilateral_rgb": 5.0,
        "crf_bilateral_weight": 6.0,
        "crf_iterations": 5,
    },
}
PRESETS["cpu-labels"] = {
    **PRESETS["cpu"],
    **_LABELS,
    "backbone": "efficientnet_lite2",  # ours: +3 points of the final model, see the experiment log
    "final_iterations": 1_000,  # ours: as long again as for five classes
}
PRESETS["modern"] |= _LABELS
"""What each preset changes in the defaults of ``TrainRecipe``."""


def presets() -> dict[str, TrainRecipe]:
    """All presets by name."""
    return {name: preset(name) for name in PRESETS}


def preset(name: str) -> TrainRecipe:
    """The preset of a name, such as ``paper``. Raises ``RecipeError`` for another name."""
    if name not in PRESETS:
        raise RecipeError(f"there is no preset {shown(name)}. Known presets: {', '.join(PRESETS)}.")
    return unchecked(TrainRecipe, **{"preset": name, **deepcopy(PRESETS[name])})


def as_recipe(recipe: TrainRecipe | str) -> TrainRecipe:
    """A recipe as it is, or the preset of that name. Raises ``RecipeError`` as ``preset`` does."""
    return preset(recipe) if isinstance(recipe, str) else recipe


def with_values(recipe: TrainRecipe, values: Mapping[str, Any]) -> TrainRecipe:
    """A recipe with some values replaced, as ``--set key=value`` on the command line gives them.

    >>> changed = with_values(preset("cpu"), {"crop": "64", "scale_range": "0.5,2", "multilabel": "no"})
    >>> changed.crop, changed.scale_range, changed.multilabel
    (64, (0.5, 2.0), False)
    >>> with_values(preset("cpu"), {"generator.crop": "512"}).of("generator").crop  # of the mask generator alone
    512

    Text is read by the field's type: ``true``/``false`` for a switch, ``0.7,1.3`` for several numbers, ``none`` where a
    field may be unset. Values that already have the type are taken.

    Raises:
        RecipeError: If a key is unknown, or a value has the wrong type or range.
    """
    if not values:
        return recipe
    hints, generator = typing.get_type_hints(TrainRecipe), dict(recipe.generator)
    read: dict[str, Any] = {}
    for key, value in values.items():
        name = key.removeprefix("generator.")
        into = read if name == key else generator
        into[name] = _read(value, hints[name]) if isinstance(value, str) and name in hints else value
    return replace(recipe, **{"generator": generator, **read})


def without_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a recipe without those that only earlier versions know.

    >>> without_removed({"crop": 256, "average_decay": 0.0})
    {'crop': 256}

    Raises:
        RecipeError: If one of them was in use.
    """
    for name, off in REMOVED.items():
        if values.get(name, off) != off and off is not None:
            raise RecipeError(
                f"recipe: {name} is {shown(values[name])}; this value was removed, because it gained nothing in our "
                f"experiments, and only {off} is still read. Leave it out, or use the version that wrote it."
            )
    return {name: value for name, value in values.items() if name not in REMOVED}


def _read(text: str, hint: Any) -> Any:
    """The value that a text stands for, by the type of its field; other texts are left for the check."""
    from pydantic import TypeAdapter, ValidationError

    if text.strip().lower() == "none" and types.NoneType in typing.get_args(hint):
        return None
    wanted: Any = text.strip()
    if typing.get_origin(hint) is Literal:
        return next((choice for choice in typing.get_args(hint) if str(choice) == wanted), wanted)
    if typing.get_origin(hint) is tuple:
        wanted = [part.strip() for part in text.split(",")]
    try:
        return TypeAdapter(hint).validate_python(wanted)
    except ValidationError:
        return text
