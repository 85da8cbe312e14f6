"""Commands of ``wss-train`` that use a trained model: pseudo masks, predictions, an exported file, VOC's archive."""

import argparse
from pathlib import Path

import wss_data
import wss_train
from wss_data.commands.arguments import Commands, add_command, path_text
from wss_data.errors import SourceError
from wss_train.commands import arguments
from wss_train.engine.processes import only_alone


def add_commands(commands: Commands) -> None:
    """Add ``masks``, ``predict``, ``export`` and ``voc-submission``."""
    add = add_command(commands, _masks, "wss-train masks runs/generator drawn-target")
    arguments.add_labelling(add, "the recipe's; paper: 0.7,1.0,1.3", "as the recipe says; paper: no CRF")
    arguments.add_target(add, "train", "target dataset, or a web dataset")
    add.add_argument(
        "--field",
        help="field that receives the masks (default: pseudo_mask; of a web dataset: cosegmentation_all_groups)",
    )
    add.add_argument("--out", metavar="FOLDER", type=Path, help="folder for the masks (default: the dataset's own)")

    add = add_command(commands, _predict, "wss-train predict runs/final photos --out predictions --overlay")
    arguments.add_labelling(add)
    add.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        type=path_text,
        help="folders of images, searched below too; images; or quoted patterns such as 'photos/**/*.jpg'",
    )
    add.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder that receives the masks")
    add.add_argument("--overlay", action="store_true", help="also write each mask drawn over its image (default: no)")

    add = add_command(commands, _export, "wss-train export runs/final --out model.onnx")
    arguments.add_checkpoint(add)
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="the file; .onnx, or .pt for TorchScript")
    add.add_argument("--format", choices=("onnx", "torchscript"), help="its format (default: what its name ends with)")
    add.add_argument(
        "--size", type=arguments.to_size, metavar="HxW", help="only this height and width, in pixels (default: any)"
    )
    add.add_argument("--logits", action="store_true", help="scores before the softmax (default: probabilities)")
    add.add_argument("--float-input", action="store_true", help="ONNX: float32 pixels, 0 to 255 (default: uint8)")

    add = add_command(
        commands,
        _voc_submission,
        "wss-train voc-submission runs/final VOC2012/JPEGImages --list VOC2012/ImageSets/Segmentation/test.txt "
        "--out results.tgz",
    )
    arguments.add_labelling(add)
    add.add_argument("images", metavar="IMAGES", help="target dataset; with --list a folder that holds the images")
    arguments.add_split(add, "test")
    add.add_argument(
        "--list",
        metavar="FILE",
        type=Path,
        help="the images' ids, one a line (default: all of the dataset's split)",
    )
    add.add_argument("--out", metavar="FILE", type=Path, required=True, help="the archive (.tgz)")


def _masks(options: argparse.Namespace) -> int:
    """Make a pseudo mask for each train image of a target dataset from its image-level labels (eq. 2).
    Of a web dataset: for each image of its groups, from what the model learned from all groups together.
    The masks become a field of the dataset; masks of an earlier call in that field are replaced.
    """
    only_alone("wss-train masks")
    dataset = wss_data.open_dataset(options.dataset)
    web = wss_data.store.kind_of(dataset) == "web"
    field = options.field or ("cosegmentation_all_groups" if web else "pseudo_mask")
    view = dataset if web else arguments.split_of(options.dataset, options.split)
    table = wss_train.make_pseudo_masks(
        options.checkpoint, view, options.out, field=field, **arguments.labelling(options)
    )
    print(f"{len(table)} masks in field '{field}' of dataset '{options.dataset}'")
    if web:
        print(f"compare with the masks in use:  wss-data cosegment {options.dataset} --compare {field}")
        print(f"use from now on:  wss-data cosegment {options.dataset} --adopt {field}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    """Write a palette PNG of class indices for every image: of folders, by name, or by a pattern; no database.
    Images that cannot be read are counted and reported; the others go on.
    """
    summary = wss_train.predict_images(
        options.checkpoint, options.images, options.out, overlays=options.overlay, **arguments.labelling(options)
    )
    print(summary)
    return 1 if summary.failed else 0


def _export(options: argparse.Namespace) -> int:
    """Write a model as one file that runs without this program: ONNX or TorchScript. Pixels go in, class
    probabilities at the image's size come out. The file is compared with the PyTorch model; one that differs is
    not kept.
    """
    exported = wss_train.export_model(
        options.checkpoint,
        options.out,
        file_format=options.format,
        output="logits" if options.logits else "probabilities",
        input_type="float32" if options.float_input else "uint8",
        size=options.size,
    )
    print(exported)
    return 0


def _voc_submission(options: argparse.Namespace) -> int:
    """Predict the test images of PASCAL VOC 2012 and write the archive that its server accepts. All images of the list
    get a prediction, or nothing is written. Sends nothing anywhere.
    """
    from wss_train.reports import submission

    if options.list is not None:
        images = submission.images_of_list(Path(options.images), submission.read_image_list(options.list))
    elif Path(options.images).is_dir():
        raise SourceError(f"{options.images} is a folder: name the list of its images, too, with --list test.txt.")
    else:
        images = submission.images_of_split(wss_data.open_dataset(options.images), options.split)
    print(submission.write_submission(options.checkpoint, images, options.out, **arguments.labelling(options)))
    return 0
