"""promptfleet: personalized federated prompt learning on CLIP, simulated on Ray and searched with Optuna.

The public names are imported at their first use: every client process imports this module, so it has to stay cheap.
The names that the author of a method needs are in ``promptfleet.methods``.
"""

from promptfleet.public_names import lazy_names

TYPE_CHECKING = False  # type checkers take it for that of typing, whose import costs more than all of this

if TYPE_CHECKING:
    from promptfleet.config import FederationConfig, StorageConfig
    from promptfleet.errors import (
        BackboneError,
        ConfigError,
        DataError,
        FederationError,
        MethodError,
        PromptfleetError,
        ResourceError,
        StorageError,
    )
    from promptfleet.federation.client_examples import ClientExamples, client_examples
    from promptfleet.federation.drive import Decision, Listener
    from promptfleet.federation.prepare import Prepared, prepare
    from promptfleet.federation.reports import (
        ClientReport,
        Event,
        FederationResult,
        FederationSummary,
        RoundReport,
        summary_from_json,
    )
    from promptfleet.federation.run import run_federation
    from promptfleet.search.load import LoadedSweep, load_sweep
    from promptfleet.search.prompts import Prompts, load_prompts
    from promptfleet.seeding import stream
    from promptfleet.storage.sync import synced_storage

__version__ = "0.1.0"
__all__ = [
    "BackboneError",
    "ClientExamples",
    "ClientReport",
    "ConfigError",
    "DataError",
    "Decision",
    "Event",
    "FederationConfig",
    "FederationError",
    "FederationResult",
    "FederationSummary",
    "Listener",
    "LoadedSweep",
    "MethodError",
    "Prepared",
    "PromptfleetError",
    "Prompts",
    "ResourceError",
    "RoundReport",
    "StorageConfig",
    "StorageError",
    "client_examples",
    "load_prompts",
    "load_sweep",
    "prepare",
    "run_federation",
    "stream",
    "summary_from_json",
    "synced_storage",
]
_PUBLIC = {  # module -> its public names
    ".config": ("FederationConfig", "StorageConfig"),
    ".errors": (
        "BackboneError",
        "ConfigError",
        "DataError",
        "FederationError",
        "MethodError",
        "PromptfleetError",
        "ResourceError",
        "StorageError",
    ),
    ".federation.client_examples": ("ClientExamples", "client_examples"),
    ".federation.drive": ("Decision", "Listener"),
    ".federation.prepare": ("Prepared", "prepare"),
    ".federation.reports": (
        "ClientReport",
        "Event",
        "FederationResult",
        "FederationSummary",
        "RoundReport",
        "summary_from_json",
    ),
    ".federation.run": ("run_federation",),
    ".search.load": ("LoadedSweep", "load_sweep"),
    ".search.prompts": ("Prompts", "load_prompts"),
    ".seeding": ("stream",),
    ".storage.sync": ("synced_storage",),
}
if not TYPE_CHECKING:  # or type checkers would accept every name
    __getattr__, __dir__ = lazy_names(globals(), _PUBLIC)
