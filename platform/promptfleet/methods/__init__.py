"""Federated methods, one file each, found by name."""

from importlib import import_module

from promptfleet.config import FederationConfig, unknown_name
from promptfleet.methods.protocol import Method

METHODS = {
    "pfedmoap": "pfedmoap:PFedMoAP",
}


def load_method(name: str) -> Method:
    """Return the method of that name. Raises ConfigError, naming the nearest one there is."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    module, attribute = METHODS[name].split(":")
    return getattr(import_module(f"promptfleet.methods.{module}"), attribute)()


def config_class(name: str) -> type[FederationConfig]:
    """The configuration of a federation that runs the method of that name."""
    return load_method(name).Config
