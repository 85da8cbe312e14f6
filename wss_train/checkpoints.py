"""Models and training states on disk: safetensors and JSON, whole or not there.

A trained model is one file, ``model.safetensors``; its header carries the *card* that says what the weights are.
``model.json`` beside it is the same card for people. A training state is a folder ``iteration_NNNNNN`` with the model,
the optimizer's tensors and ``state.json``.

Nothing here reads a pickle: a pickle can run code, and breaks when classes move.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wss_data.errors import CheckpointError, RecipeError, shown
from wss_data.ledger import Ledger
from wss_data.reading import checked
from wss_data.reading.settings import Rule, line, settings
from wss_data.runtime.files import digest_of, write_bytes, write_json
from wss_data.spec import MAX_CLASSES
from wss_train.recipes import Kind, TrainRecipe

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 1
"""Raised whenever a file written by an older version would be misread."""

MODEL_FILE = "model.safetensors"
_CARD_KEY = "wss_train"
# What fp16's factor on the loss remembers (torch.amp.GradScaler.state_dict).
_SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_LONGEST_HEADER = 16 << 20  # bytes; the names of a network's tensors take some 50,000
_LARGEST_FILE = 32 << 30  # bytes
_PICKLE_STARTS = (b"\x80", b"PK\x03\x04")  # first bytes of a bare pickle and of the zip archive that torch.save writes


@settings("model card", CheckpointError)
class ModelCard:
    """What a set of weights is."""

    kind: Kind  # generator or final
    # Names of the classes 1..C in order of their index; background, 0, is not named.
    classes: Annotated[tuple[Annotated[str, line(200)], ...], Rule(min_length=1, max_length=MAX_CLASSES)]
    recipe: TrainRecipe  # what it was trained with; also says how the network is built
    iterations: Annotated[int, Rule(ge=0, le=checked.LARGEST_WHOLE)]  # iterations it was trained for
    multilabel: bool  # whether it has the multi-label branch
    ledger: Ledger  # what it learned from

    def __post_init__(self) -> None:
        for name in self.classes:
            # Names become folders and columns.
            if name.startswith(".") or "/" in name or "\\" in name or self.classes.count(name) > 1:
                raise CheckpointError(f"a class is called {shown(name)}; names without a path are wanted, each once")

    @property
    def num_classes(self) -> int:
        """Number of classes with background, C + 1."""
        return len(self.classes) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "classes": list(self.classes),
            "multilabel": self.multilabel,
            "iterations": self.iterations,
            "recipe": self.recipe.to_dict(),
            "ledger": self.ledger.to_dict(),
        }

    @classmethod
    def from_json(cls, text: str, name: str) -> "ModelCard":
        """The card that ``to_dict`` wrote; ``name`` is what to call the checkpoint in a ``CheckpointError``."""
        try:
            value = checked.parse_json(text)
        except ValueError as error:
            raise CheckpointError(f"{name}: the model card in the checkpoint cannot be read ({error}).") from error
        _check_version(value, name)  # not damaged, only of another version: this refusal speaks for itself
        try:
            recipe = TrainRecipe.from_dict(checked.an_object(value["recipe"]))
            plain = {key: value[key] for key in ("kind", "classes", "iterations", "multilabel")}
            return cls(**plain, recipe=recipe, ledger=Ledger.from_dict(value["ledger"]))
        except (KeyError, ValueError, RecipeError, CheckpointError) as error:
            raise CheckpointError(f"{name}: the model card in the checkpoint cannot be read ({error}).") from error


def find_model(checkpoint: Path | str) -> Path:
    """The ``model.safetensors`` that a path means: the file itself, or the one in a run or checkpoint folder.

    Raises:
        CheckpointError: If there is none; a run that has not ended says so.
    """
    path = Path(checkpoint)
    if path.is_file():
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    unfinished = training_states(path)
    if unfinished:
        raise CheckpointError(
            f"{path}: this training run has not ended. Start the same command again to finish it, "
            f"or use its last checkpoint as it is: {unfinished[-1]}"
        )
    problem = f"the folder holds no {MODEL_FILE}" if path.is_dir() else "there is no such checkpoint"
    raise CheckpointError(f"{path}: {problem}. A run folder or a {MODEL_FILE} is wanted.")


def fingerprint_of(checkpoint: Path | str) -> str:
    """Hash of a model's weights and card."""
    return digest_of(find_model(checkpoint))[:16]


def read_card(checkpoint: Path | str, expect_classes: Sequence[str] | None = None) -> ModelCard:
    """Read what a checkpoint is, without its weights; ``expect_classes``: the classes that it must know, if not any.

    Raises:
        CheckpointError: If it is missing, truncated, foreign, of another format version, or for other classes.
    """
    path = find_model(checkpoint)
    metadata = _read_header(path)[0]
    if _CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path}: the safetensors file was not written by wss-train. "
            "Weights of a backbone are given with --weights, not as a checkpoint."
        )
    card = ModelCard.from_json(metadata[_CARD_KEY], str(path))
    if expect_classes is not None and tuple(expect_classes) != card.classes:
        raise CheckpointError(
            f"{path}: the checkpoint knows the classes {', '.join(card.classes)}; the dataset has "
            f"{', '.join(expect_classes)}. Names and order must agree."
        )
    return card


def read_weights(checkpoint: Path | str) -> dict[str, "Tensor"]:
    """The tensors of a checkpoint by name, on the CPU. Raises ``CheckpointError`` as ``read_card``."""
    return read_tensors(find_model(checkpoint))


def write_model(weights: Mapping[str, "Tensor"], card: ModelCard, folder: Path) -> Path:
    """Write ``model.safetensors`` and ``model.json`` into ``folder``, each atomically, and return the former's path."""
    # One key only: safetensors does not keep the order of several, and equal models shall be equal files.
    path = folder / MODEL_FILE
    _write_tensors(weights, path, {_CARD_KEY: json.dumps(card.to_dict())})
    write_json(folder / "model.json", card.to_dict())
    return path


def read_shapes(checkpoint: Path | str) -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by name, without reading one. Raises ``CheckpointError`` as ``read_card``."""
    return _read_header(find_model(checkpoint))[1]


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: If the file is missing, truncated, no safetensors file, or holds a number that is not finite.
    """
    import torch
    from safetensors.torch import load_file

    _read_header(path)
    try:
        tensors = load_file(path)
    except Exception as error:  # whatever safetensors and torch make of a shape or a type that is none
        raise CheckpointError(f"{path}: the tensors in the file cannot be read ({_first_line(error)}).") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(
                f"{path}: the tensor {shown(name)} holds numbers that are not finite. The training diverged, or the "
                "file is damaged; use an earlier checkpoint."
            )
    return tensors


@dataclass(frozen=True)
class TrainingState:
    """What training needs to go on."""

    iteration: int  # iterations done
    weights: Mapping[str, "Tensor"]  # the model's tensors by name
    optimizer: Mapping[str, "Tensor"]  # the optimizer's tensors by <parameter number>.<name>
    # State of fp16's factor on the loss; empty in other precisions.
    scaler: Mapping[str, float] = field(default_factory=dict)


def training_states(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    folders = (run / "checkpoints").glob("iteration_*")
    return sorted(folder for folder in folders if (folder / "state.json").is_file())


def write_training_state(state: TrainingState, card: ModelCard, run: Path, keep: int) -> Path:
    """Write a checkpoint into a run folder, keep the newest ``keep`` ones, and return its folder.

    Raises:
        CheckpointError: If it cannot be written, as on a full disk; nothing of it is left, the ones before stay.
    """
    parent = run / "checkpoints"
    clear_unfinished(run)
    # Filled under a hidden name and renamed when it is whole: a process killed at any moment leaves whole ones only.
    hidden, final = parent / f".writing-{state.iteration:06d}", parent / f"iteration_{state.iteration:06d}"
    values = {"format_version": FORMAT_VERSION, "iteration": state.iteration, "scaler": dict(state.scaler)}
    try:
        write_model(state.weights, card, hidden)
        _write_tensors(state.optimizer, hidden / "optimizer.safetensors", {})
        write_json(hidden / "state.json", values)
        shutil.rmtree(final, ignore_errors=True)  # of a run that went on from an earlier checkpoint
        hidden.rename(final)
    except OSError as error:
        clear_unfinished(run)
        kept = training_states(run)
        last = f"The last good checkpoint is {kept[-1]}. " if kept else "There is no earlier one. "
        raise CheckpointError(
            f"{final}: the checkpoint cannot be written ({error.strerror or error}). {last}"
            "Make room and run the same command again: it goes on from there."
        ) from error
    for old in training_states(run)[:-keep]:
        # Hidden first: a folder half removed must not look like a checkpoint.
        shutil.rmtree(old.rename(parent / f".writing-old-{old.name}"))
    return final


def read_training_state(folder: Path) -> TrainingState:
    """The training state in a checkpoint folder. Raises ``CheckpointError`` if it is damaged or of another version."""
    try:
        value = checked.read_json(folder / "state.json")
        _check_version(value, str(folder))
        iteration = checked.whole(value["iteration"], "iteration", 0)
        scaler = checked.an_object(value.get("scaler", {}))
        if scaler and scaler.keys() != _SCALER:
            raise ValueError(f"scaler has {shown(list(scaler))}, wanted are {', '.join(sorted(_SCALER))}")
        for key, number in scaler.items():
            checked.number(number, key, 0, checked.LARGEST_WHOLE)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder / 'state.json'}: the training state cannot be read ({error}). "
            f"Remove {folder} and run the same command again: it goes on from the checkpoint before."
        ) from error
    weights, optimizer = (read_tensors(folder / name) for name in (MODEL_FILE, "optimizer.safetensors"))
    return TrainingState(iteration, weights, optimizer, scaler)


def clear_unfinished(run: Path) -> None:
    """Remove what a killed process left half written below ``checkpoints``."""
    for folder in (run / "checkpoints").glob(".writing-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _check_version(value: Any, name: str) -> None:
    found = value.get("format_version") if isinstance(value, Mapping) else None
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{name}: the checkpoint has format version {shown(found)}, this program reads version {FORMAT_VERSION}. "
            "Train it again, or use the program version that wrote it."
        )


def _write_tensors(tensors: Mapping[str, "Tensor"], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    # Channels-last tensors are not contiguous, and safetensors takes no others.
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Through memory: written by safetensors itself, a full disk is no OSError, and can end the process.
    write_bytes(path, save(plain, metadata=metadata))


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]]]:
    """What a safetensors file says of itself, and the shapes of its tensors by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb") as file:
            start, size = file.read(8), os.fstat(file.fileno()).st_size
        pickled = start.startswith(_PICKLE_STARTS)
        if size > _LARGEST_FILE:
            raise CheckpointError(f"{path}: the file has more than {_LARGEST_FILE:,} bytes, no model has as many.")
        if not pickled and int.from_bytes(start, "little") > _LONGEST_HEADER:
            raise SafetensorError(f"its header would have more than {_LONGEST_HEADER:,} bytes")
        with safe_open(path, framework="np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, shapes
    except SafetensorError as error:
        # Only now: a safetensors file begins with the length of its header, which may look like a pickle's first byte.
        if pickled:
            raise CheckpointError(
                f"{path}: this is a PyTorch pickle, only safetensors files written by wss-train are read. "
                "A pickle can run code; weights of a backbone are given with --weights."
            ) from error
        raise CheckpointError(
            f"{path}: the file is truncated, damaged, or no safetensors file ({_first_line(error)}). "
            "Copy it again, or remove this checkpoint and resume from the one before it."
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be opened ({error.strerror}).") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
