"""Names that a package offers and imports at their first use, so that importing the package itself stays cheap."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module


def getter(package: str, names: Mapping[str, Sequence[str]]) -> Callable[[str], object]:
    """Return the ``__getattr__`` of ``package``; ``names`` lists the public names of each of its modules.

    As in any other module, an unknown name raises AttributeError.
    """
    modules = {name: module for module, listed in names.items() for name in listed}

    def get(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name], package), name)

    return get
