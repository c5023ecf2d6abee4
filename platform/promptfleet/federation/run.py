"""One federation from a configuration to its result: what ``jobs/train.py`` runs, and what a notebook calls."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from promptfleet.config import FederationConfig
from promptfleet.devices import choose_device
from promptfleet.federation.fleet import Fleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.federation.ray_session import local_gpu_bytes, local_nodes, ray_with
from promptfleet.federation.recovery import run_next_round
from promptfleet.federation.reports import FederationResult, RoundReport
from promptfleet.federation.resources import announce_gpus, plan_shares
from promptfleet.federation.rounds import Federation
from promptfleet.federation.settings import federation_config
from promptfleet.federation.storage.kept_rows import rows_folder
from promptfleet.federation.storage.stored import FederationFolder

logger = logging.getLogger(__name__)


def run_federation(
    config: FederationConfig | Mapping[str, Any] | None = None,
    *,
    on_round: Callable[[RoundReport], None] | None = None,
    address: str | None = None,
    folder: str | Path | None = None,
) -> FederationResult:
    """Run all rounds of one federation and return its result.

    config: a validated configuration, or nested values such as ``{"clients": 5, "runtime": {"backend": "local"}}``;
    on_round is called after each round; address joins a running Ray cluster instead of starting Ray here; folder keeps
    checkpoints and ``result.json``, and a federation that has checkpoints there goes on from the newest.

    Raises:
        ConfigError: a value that cannot be run as written.
        DataError, BackboneError: a dataset or CLIP that is missing, damaged or impossible; a folder of another one.
        ResourceError: a federation that does not fit.
        FederationError: one that cannot go on, see ``runtime.on_client_failure``.
    """
    if not isinstance(config, FederationConfig):
        config = federation_config(config or {})
    rows_folder(config, folder)
    if config.runtime.backend == "local":
        choose_device(config.runtime.device)
    elif address is None:
        plan_shares(config, local_nodes())
    with _fleet(config, address) as (prepared, fleet):
        federation = Federation(config, prepared, fleet, folder)
        with _kept_in(folder, federation) as stored:
            while federation.rounds_done < config.rounds:
                report = run_next_round(federation, stored.newest if stored else lambda: None)
                if stored:
                    stored.save()
                logger.debug("round %d: %s", report.round, report)
                if on_round is not None:
                    on_round(report)
        return stored.result() if stored else federation.result()


@contextmanager
def _kept_in(folder: str | Path | None, federation: Federation) -> Iterator[FederationFolder | None]:
    """Take up what is in ``folder``, and on leaving wait until everything is written there; None without one."""
    if folder is None:
        yield None
        return
    with closing(FederationFolder(folder, federation)) as stored:
        done = stored.restore()
        if done:
            logger.info("going on after round %d", done)
            stored.save()  # the result may be a round behind
        yield stored
        stored.flush()
        if stored.last is not None:
            logger.info("last checkpoint: %.1f MB in %.2f s", stored.last.bytes / 1e6, stored.last.seconds)


@contextmanager
def _fleet(config: FederationConfig, address: str | None) -> Iterator[tuple[Prepared, Fleet]]:
    """The federation's frozen inputs, and the processes that will run it."""
    if config.runtime.backend == "local":
        prepared = prepare(config)
        with closing(LocalFleet(prepared)) as fleet:
            yield prepared, fleet
        return

    runtime = config.runtime
    where = {"fork_server": runtime.fork_server, "storage": config.storage}
    with ray_with(lambda: prepare(config), address, **where) as (prepared, nodes):
        from promptfleet.federation.ray_fleet import RayFleet, put_frozen
        from promptfleet.federation.storage.ray_storage import is_shared

        shares = plan_shares(config, nodes)
        announce_gpus(shares, prepared.weights_bytes(), local_gpu_bytes())
        frozen = put_frozen(prepared, shared_files=is_shared(nodes))
        with closing(RayFleet(frozen, shares, start_timeout_s=runtime.start_timeout_s, own_group=True)) as fleet:
            yield prepared, fleet
