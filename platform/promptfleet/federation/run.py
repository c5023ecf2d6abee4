"""Run of one federation from a configuration to its result: for ``jobs/train.py`` and for notebooks."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from promptfleet.cluster.session import local_nodes, ray_with
from promptfleet.config import FederationConfig
from promptfleet.devices import choose_device
from promptfleet.disks import check_writable
from promptfleet.errors import ConfigError, DataError
from promptfleet.federation.checkpoints.begin import CONFIG_FILE, begin_folder, check_same
from promptfleet.federation.checkpoints.files import DamagedCheckpoint
from promptfleet.federation.checkpoints.folder import FederationFolder
from promptfleet.federation.drive import Calling, Checkpoints, Listener, rounds
from promptfleet.federation.fleet import Fleet
from promptfleet.federation.local_fleet import LocalFleet
from promptfleet.federation.prepare import Prepared, prepare
from promptfleet.federation.reports import FederationResult, RoundReport
from promptfleet.federation.resources import announce_gpus, plan_shares
from promptfleet.federation.rounds import Federation
from promptfleet.federation.server_rows import rows_folder
from promptfleet.federation.settings import configuration_of, local_path
from promptfleet.limits import check_threads

logger = logging.getLogger(__name__)


def run_federation(
    config: FederationConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    on_round: Callable[[RoundReport], None] | None = None,
    listeners: Sequence[Listener] = (),
    address: str | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    trust_code: bool = False,
) -> FederationResult:
    """Run all rounds of one federation and return its result.

    config: values such as ``{"clients": 5, "runtime.backend": "local"}``, nested or with dotted keys; a YAML file's
    path; or a configuration object, also a ``FederationConfig`` without the method's own keys. on_round: called after
    each round. listeners: take each report, too, and may end the federation early, see ``promptfleet.Listener``.
    address: join this running Ray cluster; without it Ray starts here. folder: store the configuration, checkpoints and
    ``result.json`` there, and resume from the newest checkpoint if there is one. overwrite: start again and replace
    what the folder holds, once everything is ready for the first round. trust_code: allow a file to name a method
    outside this package, which is then imported and run.

    >>> import promptfleet
    >>> quick = {"method": "promptfl", "clients": 3, "rounds": 1, "local_epochs": 1, "runtime.backend": "local"}
    >>> result = promptfleet.run_federation(quick, on_round=lambda report: print("round", report.round))
    round 1
    >>> result  # doctest: +ELLIPSIS
    FederationResult(promptfl on digits, seed=0, clients=3, rounds=1, test_accuracy=0...)
    >>> promptfleet.run_federation({**quick, "client": 4})
    Traceback (most recent call last):
    promptfleet.errors.ConfigError: configuration: unknown key 'client'; did you mean 'clients'?

    Raises:
        ConfigError: a value cannot be run as written.
        DataError, BackboneError: a dataset or CLIP is missing, damaged or impossible; ``folder`` holds another
            federation.
        StorageError: the disk refuses to read or write; it is a DataError.
        ResourceError: the federation does not fit the machine or the cluster.
        FederationError: too many failures, see ``runtime.on_client_failure``.
    """
    _check_arguments(
        on_round=on_round, listeners=listeners, address=address, overwrite=overwrite, trust_code=trust_code
    )
    config = configuration_of({} if config is None else config, trust_code=trust_code)
    folder = None if folder is None else Path(local_path(folder, "folder"))
    rows_folder(config, folder)
    if folder is not None:
        check_writable(folder)
        if not overwrite:
            check_same(folder, config)
    if config.runtime.backend == "local":
        choose_device(config.runtime.device)
        check_threads(config.runtime.threads_per_client, os.cpu_count() or 1)
    elif address is None:
        plan_shares(config, local_nodes())
    with _fleet(config, address) as (prepared, fleet):
        federation = Federation(config, prepared, fleet, folder)
        with _kept_in(folder, federation, overwrite=overwrite) as stored:
            after = [Checkpoints(stored, config.rounds)] if stored else []
            after += [*([Calling(on_round)] if on_round else []), *listeners]
            for report in rounds(federation, stored, after):
                logger.debug("round %d: %s", report.round, report)
        return stored.result() if stored else federation.result()


def _check_arguments(*, on_round: Any, listeners: Any, address: Any, **switches: Any) -> None:
    """Raise ConfigError at an invalid argument of ``run_federation``, before any work."""
    if on_round is not None and not callable(on_round):
        raise ConfigError(f"on_round: got {on_round!r}, should be a function that takes a RoundReport")
    for listener in listeners if isinstance(listeners, Sequence) else [listeners]:
        if not callable(getattr(listener, "after_round", None)):
            raise ConfigError(f"listeners: got {listener!r}, should be a list of objects with after_round(report)")
    if address is not None and not (isinstance(address, str) and address.strip()):
        raise ConfigError(f"address: got {address!r}, should be HOST:PORT or 'auto', or None to start Ray here")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}: got {value!r}, should be True or False")


@contextmanager
def _kept_in(
    folder: str | Path | None, federation: Federation, *, overwrite: bool
) -> Iterator[FederationFolder | None]:
    """Resume the federation in ``folder``, or start there; on leaving, wait for all writing. None without a folder."""
    if folder is None:
        yield None
        return
    with closing(FederationFolder(folder, federation)) as stored:
        done = 0 if overwrite else _restored(stored, Path(folder), federation.config)
        if done:
            logger.info("resuming after round %d", done)
        else:
            begin_folder(Path(folder), federation.config)
            stored.bring()
        yield stored
        stored.flush()
        if stored.last is not None:
            logger.debug("last checkpoint: %.1f MB in %.2f s", stored.last.bytes / 1e6, stored.last.seconds)


def _restored(stored: FederationFolder, folder: Path, config: FederationConfig) -> int:
    """Return the rounds done. Raises DataError as ``check_same`` and ``load_snapshot`` do."""
    check_same(folder, config)  # again: another process may have written meanwhile, and an address may have more
    try:
        return stored.restore()
    except DamagedCheckpoint as error:
        again = f"--config {folder / CONFIG_FILE} --out {folder} --overwrite"
        raise DataError(f"{error}; start again at round 1 by {again}, in Python by overwrite=True") from None


@contextmanager
def _fleet(config: FederationConfig, address: str | None) -> Iterator[tuple[Prepared, Fleet]]:
    """Yield the federation's frozen inputs, and the processes that run it."""
    if config.runtime.backend == "local":
        prepared = prepare(config)
        with closing(LocalFleet(prepared)) as fleet:
            yield prepared, fleet
        return

    runtime = config.runtime
    where = {"fork_server": runtime.fork_server, "storage": config.storage}
    with ray_with(lambda: prepare(config), address, **where) as (prepared, nodes):
        from promptfleet.cluster.storage_nodes import is_shared
        from promptfleet.federation.on_ray.fleet import RayFleet, put_frozen

        shares = plan_shares(config, nodes)
        announce_gpus(shares, config, prepared, nodes)
        frozen = put_frozen(prepared, shared_files=is_shared(nodes))
        with closing(RayFleet(frozen, shares, start_timeout_s=runtime.start_timeout_s, own_group=True)) as fleet:
            yield prepared, fleet
