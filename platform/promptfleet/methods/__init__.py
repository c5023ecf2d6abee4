"""Federated methods, one file each, found by name; also the names that the author of a method needs.

Those names are imported at their first use: looking up a method's name does not load torch.
"""

from typing import TYPE_CHECKING

from promptfleet.config import FederationConfig, unknown_name
from promptfleet.errors import ConfigError
from promptfleet.imported import described, imported
from promptfleet.public_names import lazy_names

if TYPE_CHECKING:
    from promptfleet.methods.parts.no_communication import NoCommunication, Solo, SoloConfig
    from promptfleet.methods.parts.optimizers import SGD, Adam, AMSGrad, Optimizer
    from promptfleet.methods.parts.plug_ins import also_stepping, finished
    from promptfleet.methods.parts.prompt_method import PromptMethod
    from promptfleet.methods.parts.prompts import (
        context_shape,
        context_with_text,
        encode_contexts,
        encode_frozen,
        encoded,
        init_context,
        local_batches,
        no_context_yet,
        own_or_given_text,
        similarity_logits,
    )
    from promptfleet.methods.parts.side_by_side import run_alone, run_together
    from promptfleet.methods.parts.states import prefixed, unprefixed
    from promptfleet.methods.parts.training import TrainedContext, detached, leaves, loss_metrics, train_steps
    from promptfleet.methods.promptfl import PromptFL, PromptFLConfig
    from promptfleet.methods.protocol import (
        Arrived,
        AttachesToUploads,
        Backward,
        Call,
        Describes,
        Encode,
        EncodeImages,
        Examples,
        ExcludesClients,
        Gradients,
        HasServerModel,
        Images,
        KeepsRows,
        LoadedPixels,
        Message,
        Method,
        Needs,
        PixelReader,
        Pixels,
        PredictsOtherClasses,
        RowStore,
        Spec,
        State,
        Task,
        Update,
        UpTo,
        Work,
        World,
    )

__all__ = [
    "METHODS",
    "SGD",
    "AMSGrad",
    "Adam",
    "Arrived",
    "AttachesToUploads",
    "Backward",
    "Call",
    "Describes",
    "Encode",
    "EncodeImages",
    "Examples",
    "ExcludesClients",
    "Gradients",
    "HasServerModel",
    "Images",
    "KeepsRows",
    "LoadedPixels",
    "Message",
    "Method",
    "Needs",
    "NoCommunication",
    "Optimizer",
    "PixelReader",
    "Pixels",
    "PredictsOtherClasses",
    "PromptFL",
    "PromptFLConfig",
    "PromptMethod",
    "RowStore",
    "Solo",
    "SoloConfig",
    "Spec",
    "State",
    "Task",
    "TrainedContext",
    "UpTo",
    "Update",
    "Work",
    "World",
    "also_stepping",
    "config_class",
    "context_shape",
    "context_with_text",
    "detached",
    "encode_contexts",
    "encode_frozen",
    "encoded",
    "finished",
    "init_context",
    "leaves",
    "load_method",
    "local_batches",
    "loss_metrics",
    "no_context_yet",
    "own_or_given_text",
    "prefixed",
    "run_alone",
    "run_together",
    "similarity_logits",
    "train_steps",
    "unprefixed",
]
_PUBLIC = {  # module -> its public names
    ".promptfl": ("PromptFL", "PromptFLConfig"),
    ".parts.prompts": (
        "context_shape",
        "context_with_text",
        "encode_contexts",
        "encode_frozen",
        "encoded",
        "init_context",
        "local_batches",
        "no_context_yet",
        "own_or_given_text",
        "similarity_logits",
    ),
    ".protocol": (
        "Arrived",
        "AttachesToUploads",
        "Backward",
        "Call",
        "Describes",
        "Encode",
        "EncodeImages",
        "Examples",
        "ExcludesClients",
        "Gradients",
        "HasServerModel",
        "Images",
        "KeepsRows",
        "LoadedPixels",
        "Message",
        "Method",
        "Needs",
        "PixelReader",
        "Pixels",
        "PredictsOtherClasses",
        "RowStore",
        "Spec",
        "State",
        "Task",
        "UpTo",
        "Update",
        "Work",
        "World",
    ),
    ".parts.optimizers": ("SGD", "AMSGrad", "Adam", "Optimizer"),
    ".parts.plug_ins": ("also_stepping", "finished"),
    ".parts.prompt_method": ("PromptMethod",),
    ".parts.states": ("prefixed", "unprefixed"),
    ".parts.no_communication": ("NoCommunication", "Solo", "SoloConfig"),
    ".parts.side_by_side": ("run_alone", "run_together"),
    ".parts.training": ("TrainedContext", "detached", "leaves", "loss_metrics", "train_steps"),
}
if not TYPE_CHECKING:  # or type checkers would accept every name
    __getattr__, __dir__ = lazy_names(globals(), _PUBLIC)


METHODS = {  # name -> module:class of this package
    "zero_shot": "zero_shot:ZeroShot",
    "coop": "coop:CoOp",
    "linear_probe": "linear_probe:LinearProbe",
    "promptfl": "promptfl:PromptFL",
    "fedprox": "fedprox:FedProx",
    "fedlalr": "fedlalr:FedLALR",
    "maxfl": "maxfl:MaxFL",
    "promptfl_ft": "promptfl_ft:PromptFLFineTuned",
    "fedper": "fedper:FedPer",
    "fedrep": "fedrep:FedRep",
    "fedamp": "fedamp:FedAMP",
    "pfedprompt": "pfedprompt:PFedPrompt",
    "bayesian_prompt": "bayesian_prompt:BayesianPrompt",
    "fedabml": "fedabml:FedABML",
    "promptfolio": "promptfolio:PromptFolio",
    "pfedla": "pfedla:PFedLA",
    "fedotp": "fedotp:FedOTP",
    "fedpgp": "fedpgp:FedPGP",
    "fedpha": "fedpha:FedPHA",
    "dpfpl": "dpfpl:DPFPL",
    "fedtpg": "fedtpg:FedTPG",
    "dispfl": "dispfl:DisPFL",
    "fedjets": "fedjets:FedJETs",
    "pfedmoap": "pfedmoap:PFedMoAP",
    "openprompt": "openprompt:OpenPrompt",
    "fed_mp": "fed_mp:FedMP",
    "fedsp": "fedsp:FedSP",
    "dualpt": "dualpt:DuAlPT",
    "pfedpt": "pfedpt:PFedPT",
    "sgpt": "sgpt:SGPT",
}
OTHER_NAMES = {"incfl": "maxfl"}  # another name of a method -> its name in METHODS
METHOD_MODULES = tuple(f"{__name__}.{place.partition(':')[0]}" for place in METHODS.values())


def load_method(name: str) -> "Method":
    """Return the method of that name, or one from elsewhere as ``module:Class``.

    A module is imported, and nothing else in it runs before its class is known to be a method.
    Raises ConfigError: no such method, naming the nearest one, or no such class to import.

    >>> from promptfleet.methods import METHODS, load_method
    >>> type(load_method("fedprox")).__name__
    'FedProx'
    >>> "pfedmoap" in METHODS
    True
    """
    if not isinstance(name, str):
        raise ConfigError(f"method: got {name!r}, should be a name")
    name = OTHER_NAMES.get(name, name)
    if ":" not in name and name not in METHODS:
        raise unknown_name("method", name, METHODS)
    from promptfleet.methods.protocol import Method

    found = imported(name if ":" in name else f"{__name__}.{METHODS[name]}", kind="method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"method {name!r} is not a subclass of promptfleet.methods.Method")
    if not issubclass(found.Config, FederationConfig):
        raise ConfigError(f"method {name!r}: its Config is not a subclass of promptfleet.FederationConfig")
    try:
        return found()
    except Exception as error:
        raise ConfigError(f"method {name!r} cannot be made without arguments: {described(error)}") from error


def config_class(name: str) -> type[FederationConfig]:
    """Return the configuration class of a federation that runs the method of that name; raises as ``load_method``.

    >>> from promptfleet.methods import config_class
    >>> config_class("fedprox")(method="fedprox", mu=0.1).mu
    0.1
    """
    return load_method(name).Config
