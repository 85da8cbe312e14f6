"""What a build from the web can bring, and how long it takes: from what is known without asking anybody."""

from wss_data.retrieval.sources import make_source, source_state
from wss_data.runtime.parallel import default_workers
from wss_data.spec import DatasetSpec

# Images a second that are downloaded and stored: an assumption, for hosts differ. Wikimedia allows 2 downloads at once.
DOWNLOADED_A_SECOND = 3.0
COSEGMENTED_S = 0.25  # seconds of one processor for an image, as in docs/explanation/experiment_log.md


def expectation(spec: DatasetSpec, workers: int | None = None) -> str:
    """One sentence: the most images that the sources of a definition can give now, and an estimate of the time.

    A source that cannot be asked counts as none, one that does not say how many results it gives as its limit.
    """
    total, named = 0, []
    for part in spec.sources:
        if source_state(part.name, part.options).state != "ready":
            continue
        a_query = getattr(make_source(part.name, part.options, spec.longest_side), "most_a_query", None)
        for group in spec.groups:
            most = [a_query * len(group.queries)] if a_query else []
            total += min([*most, *([part.limit] if part.limit else [])], default=0)
        named.append(part.name)
    if not total:
        return f"dataset '{spec.name}': no source can be asked now, or none says how many images it has."
    minutes = total * (1 / DOWNLOADED_A_SECOND + COSEGMENTED_S / (workers or default_workers())) / 60
    time = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.0f} hours"
    return (
        f"dataset '{spec.name}': at most {total:,} images of {len(spec.groups)} classes from {', '.join(named)}; "
        f"about {time if minutes >= 1.5 else 'a minute'}, and a build that was stopped goes on where it was."
    )
