"""Settings that work in place of those of a partition that cannot be made, found by trying."""

from collections.abc import Callable, Iterator

from promptfleet.config import PartitionConfig

DRAWS = 20  # for each partition that is tried: one that works this soon is likely to work again
_RANDOM = ("min_samples", "alpha")
SETTINGS = {  # of each scheme that bear on how many clients there can be
    "dirichlet": _RANDOM,
    "quantity": _RANDOM,
    "domain_dirichlet": _RANDOM,
    "pathological": ("classes_per_client",),
}


def advise(works: Callable[[int, PartitionConfig], bool], clients: int, most: int, settings: PartitionConfig) -> str:
    """Return ``clients=23 would do, or partition.alpha=10``: settings each of which works alone, as ``works`` says.

    most: with no settings can more clients work.
    """
    found = []
    if fitting := _most_clients(lambda fewer: works(fewer, settings), min(clients - 1, most)):
        found.append(f"clients={fitting}")
    for name in SETTINGS.get(settings.kind, ()) if clients <= most else ():
        for value in _candidates(name, getattr(settings, name)):
            if works(clients, settings.model_copy(update={name: value})):
                found.append(f"partition.{name}={value:g}")
                break
    return f"{' or '.join(found)} would do" if found else "lower clients"


def _most_clients(works: Callable[[int], bool], most: int) -> int | None:
    """Return the largest number of clients up to ``most`` that works, if such numbers are a range; else some of it."""
    good, bad = most, most + 1
    while good and not works(good):
        good, bad = good // 2, good
    while good and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good or None


def _candidates(name: str, value: float) -> Iterator[float]:
    """Yield values to try, the nearest to ``value`` first."""
    if name == "min_samples":
        yield from (fewer for fewer in (value * 3 // 4, value // 2, value // 4, 3) if 3 <= fewer < value)
    elif name == "alpha":
        yield from (alpha for alpha in (1.0, 3.0, 10.0, 100.0) if alpha > value)
    else:
        yield from (*range(value - 1, max(0, value - 20), -1), *range(value + 1, value + 5))
