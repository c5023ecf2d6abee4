"""Names that a package offers and imports at their first use, so that importing the package itself stays cheap."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def lazy_names(
    package: dict, names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package; ``names`` lists the public names of each of its modules.

    package: its ``globals()``, with ``__all__``. As in any other module, an unknown name raises AttributeError.
    """
    own = package["__name__"]
    modules = {name: module for module, listed in names.items() for name in listed}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {own!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], own), name)

    return get, lambda: sorted({*package, *package["__all__"]})
