"""What a dataset card tells of a web dataset, gathered as plain values."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING

from wss_data.filtering.filters import DROPPED, KEPT
from wss_data.ledger import Ledger
from wss_data.sharing.manifest import first_source, public_cosegmentation, public_ledger
from wss_data.spec import CosegmentationSpec, DatasetSpec, FilterSpec

if TYPE_CHECKING:
    from wss_data.store.provenance import ImageRow
    from wss_data.store.types import Dataset


@dataclass(frozen=True)
class ClassFacts:
    """What is known of one class.

    Args:
        name: The class.
        queries: What sources were asked for.
        images: Images stored.
        kept: Images that the filter keeps.
        dropped: Reason -> number of the stored images dropped for it.
        not_stored: Reason -> number of the search results that gave no image.
        foreground: Median foreground share of the kept images, in [0, 1], or ``None``.
    """

    name: str
    queries: tuple[str, ...]
    images: int
    kept: int
    dropped: Mapping[str, int]
    not_stored: Mapping[str, int]
    foreground: float | None


@dataclass(frozen=True)
class Facts:
    """What a card tells, as plain values.

    Args:
        spec: What the dataset was built by.
        name: Name of the dataset.
        created: When it was made.
        classes: By index.
        sources: Source -> images.
        licences: (SPDX identifier or ``None``, address of its text) -> kept images.
        authors: Number of different authors named.
        without_author: Images whose author is not known.
        without_url: Images without an address on the web.
        retrieved: When the first and the last image were read, where known.
        opt_outs: Images that came with a signal against machine learning.
        methods: What made the masks -> number of masks.
        verdicts: A person's ``keep`` or ``drop`` -> images.
        filters: The thresholds in force.
        ledger: What the masks were made from.
    """

    spec: DatasetSpec
    name: str
    created: datetime
    classes: tuple[ClassFacts, ...]
    sources: Mapping[str, int]
    licences: Mapping[tuple[str | None, str | None], int]
    authors: int
    without_author: int
    without_url: int
    retrieved: tuple[datetime, datetime] | None
    opt_outs: int
    methods: Mapping[str, int]
    verdicts: Mapping[str, int]
    filters: FilterSpec
    ledger: Ledger

    @property
    def images(self) -> int:
        """Images stored."""
        return sum(item.images for item in self.classes)

    @property
    def kept(self) -> int:
        """Images that the filter keeps."""
        return sum(item.kept for item in self.classes)


def dataset_facts(dataset: "Dataset") -> Facts:
    """Gather what a card tells of a web dataset; no path of this machine is in it.

    Raises:
        StoreError: If it is no web dataset.
    """
    from wss_data import store
    from wss_data.store.provenance import image_rows

    rows = image_rows(dataset, "described in a card")
    spec = store.definition(dataset)
    spec = replace(spec, cosegmentation=CosegmentationSpec(**public_cosegmentation(asdict(spec.cosegmentation))))
    shares = dict(zip(*dataset.values(["id", "foreground_ratio"]), strict=True))
    drops = store.drops(dataset)
    at = [row.provenance for row in rows]
    authors = [item.author for item in at if item.author]
    times = [item.retrieved_at for item in at if item.retrieved_at is not None]
    return Facts(
        spec=spec,
        name=dataset.name,
        created=dataset.created_at.replace(tzinfo=UTC, microsecond=0),
        classes=tuple(
            _class_facts(
                item.name,
                item.queries,
                [row for row in rows if row.class_name == item.name],
                shares,
                drops.get(item.name, {}),
            )
            for item in spec.classes
        ),
        sources=Counter(first_source(item)[0] for item in at),
        licences=Counter((row.provenance.license, row.provenance.license_url) for row in rows if KEPT in row.tags),
        authors=len(set(authors)),
        without_author=len(rows) - len(authors),
        without_url=sum(not (item.image_url or "").startswith("http") for item in at),
        retrieved=(min(times), max(times)) if times else None,
        opt_outs=sum(bool(item.opt_outs) for item in at),
        methods=Counter(row.mask_method or "unknown" for row in rows if row.mask_path),
        verdicts=Counter(row.verdict for row in rows if row.verdict),
        filters=store.applied_filters(dataset) or spec.filters,
        ledger=public_ledger(store.mask_ledger(dataset, store.MASKS)),
    )


def _class_facts(
    name: str,
    queries: tuple[str, ...],
    rows: Sequence["ImageRow"],
    shares: Mapping[str, float | None],
    not_stored: Mapping[str, int],
) -> ClassFacts:
    kept = [row for row in rows if KEPT in row.tags]
    reasons = Counter(tag.removeprefix(DROPPED) for row in rows for tag in row.tags if tag.startswith(DROPPED))
    known = [share for row in kept if (share := shares.get(row.sample_id)) is not None]
    return ClassFacts(name, queries, len(rows), len(kept), reasons, not_stored, median(known) if known else None)
