"""Federated methods, one file each, found by name."""

from importlib import import_module

from promptfleet.config import FederationConfig, unknown_name
from promptfleet.errors import ConfigError
from promptfleet.methods.protocol import Method

METHODS = {  # name -> module:class of this package
    "zero_shot": "zero_shot:ZeroShot",
    "coop": "coop:CoOp",
    "linear_probe": "linear_probe:LinearProbe",
    "promptfl": "promptfl:PromptFL",
    "fedprox": "fedprox:FedProx",
    "promptfl_ft": "promptfl_ft:PromptFLFineTuned",
    "fedper": "fedper:FedPer",
    "fedamp": "fedamp:FedAMP",
    "pfedprompt": "pfedprompt:PFedPrompt",
    "fedotp": "fedotp:FedOTP",
    "fedpgp": "fedpgp:FedPGP",
    "fedtpg": "fedtpg:FedTPG",
    "pfedmoap": "pfedmoap:PFedMoAP",
}
METHOD_MODULES = tuple(f"{__name__}.{place.partition(':')[0]}" for place in METHODS.values())


def load_method(name: str) -> Method:
    """Return the method of that name, or one from elsewhere as ``module:Class``.

    Raises ConfigError: no such method, naming the nearest one there is, or no such class to import.
    """
    if not isinstance(name, str):
        raise ConfigError(f"method: got {name!r}, should be a name")
    if ":" not in name:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
        name = f"promptfleet.methods.{METHODS[name]}"
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: "x..:y", ".x:y"
        raise ConfigError(f"method {name!r} cannot be imported: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"method {name!r} is not a subclass of promptfleet.methods.protocol.Method")
    return found()


def config_class(name: str) -> type[FederationConfig]:
    """The configuration of a federation that runs the method of that name."""
    return load_method(name).Config
