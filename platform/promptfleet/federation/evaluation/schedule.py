"""Schedule of evaluations: the rounds, the clients in them, and the sets."""

from collections.abc import Sequence
from dataclasses import dataclass

from promptfleet.config import FederationConfig
from promptfleet.errors import ConfigError
from promptfleet.federation.conditions.cohort import training_clients
from promptfleet.federation.evaluation.scores import (
    BASE,
    CALIBRATION,
    GLOBAL,
    LOCAL,
    NEW,
    OTHERS,
    SERVER,
    UNSEEN_DOMAIN,
    transfer_to,
)
from promptfleet.methods import load_method
from promptfleet.methods.parts.no_communication import NoCommunication
from promptfleet.methods.protocol import HasServerModel, PredictsOtherClasses
from promptfleet.seeding import stream


@dataclass(frozen=True)
class Plan:
    """Sets of an evaluation; the client ``server_by`` measures the server's model, if that is requested of one.

    A set has a validation and a test part. ``calibration`` is asked for in the same way, and is that of ``local``,
    ``base`` and ``new``, as far as they are in ``sets``. ``again``: the same clients were evaluated with the same
    states just before.
    """

    sets: tuple[str, ...]
    server_by: int | None = None
    again: bool = False


def evaluated_clients(config: FederationConfig, round_index: int) -> Sequence[int]:
    """Return the clients that are evaluated after a round, in ascending order; none if the round is not evaluated.

    They are all that may train after the last round, and before it ``evaluation.clients`` of them, the same in each.
    """
    clients = training_clients(config)
    if round_index == config.rounds:
        return clients
    if round_index % config.evaluation.every:
        return ()
    size = _sample_size(config, len(clients))
    if size == len(clients):
        return clients
    drawn = stream(config.seed, "evaluation").choice(len(clients), size=size, replace=False)
    return sorted(clients[place] for place in drawn)


def _sample_size(config: FederationConfig, clients: int) -> int:
    """Return the number of clients that are evaluated before the last round, at least one."""
    wanted = config.evaluation.clients
    if wanted == "all":
        return clients
    return wanted if isinstance(wanted, int) else max(1, round(wanted * clients))


def plan_of_round(config: FederationConfig, round_index: int, clients: Sequence[int]) -> Plan:
    """Return the sets of a round that is evaluated, before it is known whether it is the best so far.

    Calibration is among them if the best round has it: it follows from the predictions that ``local`` needs.
    """
    when = ("each", "last_and_best") if round_index == config.rounds else ("each",)
    return Plan((LOCAL, *_calibration(config), *_sets(config, when)), min(clients))


def plan_of_best(config: FederationConfig, done: Plan) -> Plan | None:
    """Return the sets that a round with the best validation accuracy so far needs beyond those ``done``, if any."""
    rest = tuple(name for name in sets_of_best(config) if name not in done.sets)
    return Plan((*_calibration(config), *rest), done.server_by, again=True) if rest else None


def sets_of_best(config: FederationConfig) -> tuple[str, ...]:
    """Return the sets, other than ``local``, that the round with the best validation accuracy has."""
    return _sets(config, ("each", "last_and_best"))


def _calibration(config: FederationConfig) -> tuple[str, ...]:
    return () if config.evaluation.calibration == "never" else (CALIBRATION,)


def keeps_calibration(config: FederationConfig, round_index: int, *, best: bool) -> bool:
    """Return True if an evaluated round reports its calibration."""
    return config.evaluation.calibration == "each" or best or round_index == config.rounds


def tests_unseen_clients(config: FederationConfig, round_index: int, *, best: bool) -> bool:
    """Return True if clients that never train are tested after an evaluated round, which may be the best so far."""
    rounds = config.evaluation.sets.unseen_clients
    if rounds == "never" or not config.partition.held_out_clients or cannot_serve_unseen(config):
        return False
    return rounds == "each" or best or round_index == config.rounds


def check_sets(config: FederationConfig) -> None:
    """Raise ConfigError if the configuration names a set that its method cannot predict."""
    for name, rounds in {"new": config.evaluation.sets.new, "transfer": config.evaluation.sets.transfer}.items():
        if rounds in ("each", "last_and_best") and (reason := cannot_predict_new(config)):
            raise ConfigError(f"evaluation.sets.{name}={rounds}: {reason}; set it to auto, or choose another method")
    rounds = config.evaluation.sets.unseen_clients
    if rounds in ("each", "last_and_best") and (reason := cannot_serve_unseen(config)):
        raise ConfigError(
            f"evaluation.sets.unseen_clients={rounds}: {reason}; set it to auto, or choose another method"
        )
    if config.evaluation.sets.server == "each" and not isinstance(load_method(config.method), HasServerModel):
        raise ConfigError(f"evaluation.sets.server=each: the server of {config.method} has no model; set it to never")


def cannot_predict_new(config: FederationConfig) -> str | None:
    """Return the reason why the method cannot predict classes that it was not trained on; None if it can."""
    method = load_method(config.method)
    if not isinstance(method, PredictsOtherClasses):
        return f"method {config.method} has parameters for each class that it was trained on"
    if config.class_specific_context and method.has_prompt(config):
        return "class_specific_context=true learns a context for each class that it was trained on"
    return None


def cannot_serve_unseen(config: FederationConfig) -> str | None:
    """Return the reason why the method has nothing to give to a client that never trained; None if it has."""
    method = load_method(config.method)
    if isinstance(method, NoCommunication) and not isinstance(method, HasServerModel):
        return f"clients of method {config.method} share nothing that an unseen client could use"
    return None


def _sets(config: FederationConfig, when: Sequence[str]) -> tuple[str, ...]:
    sets = config.evaluation.sets
    there = {
        "base": config.partition.new_classes,
        "new": config.partition.new_classes and not cannot_predict_new(config),
        "transfer": not cannot_predict_new(config),
        "unseen_domain": config.partition.held_out_domain,
    }
    optional = {
        name: ("last_and_best" if getattr(sets, name) == "auto" else getattr(sets, name)) if possible else "never"
        for name, possible in there.items()
    }
    asked = {
        GLOBAL: sets.global_,
        OTHERS: sets.others,
        SERVER: sets.server,
        BASE: optional["base"],
        NEW: optional["new"],
        UNSEEN_DOMAIN: optional["unseen_domain"],
        **{transfer_to(name): optional["transfer"] for name in config.evaluation.transfer},
    }
    return tuple(name for name, rounds in asked.items() if rounds in when)
