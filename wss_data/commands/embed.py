"""The command ``wss-data embed``."""

import argparse

from wss_data.commands.arguments import add_dataset, add_workers


def add_embed_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``embed``."""
    from wss_data.commands.cli import add_command

    add = add_command(
        commands,
        "embed",
        _embed,
        """\
        Draw a map of the images, index them for search by example, and find those that are odd in their class.
        Uses what the co-segmentation saw of each image; others are looked at now. Nothing is downloaded or dropped.""",
        "wss-data embed drawn",
    )
    add_dataset(add)
    add.add_argument(
        "--method", choices=["tsne", "pca"], help="what draws the map (default: t-SNE up to 10,000 images, else PCA)"
    )
    add_workers(add)


def _embed(options: argparse.Namespace) -> int:
    from wss_data import store
    from wss_data.store.descriptors import ODD_VIEW

    dataset = store.open_dataset(options.dataset)
    print(store.embed(dataset, options.method, options.workers))
    print(f"wss-data view {dataset.name}:  + > Embeddings shows the map; the view '{ODD_VIEW}' sorts by oddness.")
    return 0
