"""Partition of a dataset over clients, and each client's own split."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from promptfleet.config import PartitionConfig
from promptfleet.data.client_split import ClientSplit, check_fractions, keep_shots, split_client, take_public
from promptfleet.data.dataset import Part
from promptfleet.data.official_split import share_alike
from promptfleet.data.partition_advice import DRAWS, SETTINGS, advise
from promptfleet.data.partitions import SCHEMES
from promptfleet.data.partitions.domain import clients_by_domain
from promptfleet.data.samples import Samples
from promptfleet.data.unseen import held_out_clients, new_samples, seen_samples, unseen_domain
from promptfleet.errors import ConfigError, DataError
from promptfleet.seeding import stream

MAX_DRAWS = 100  # draws of a scheme, until every client has some of the published test part


def no_samples() -> np.ndarray:
    """Return no sample indices."""
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Partition:
    """Splits of all clients; ``clients[i]`` is client ``i``'s. No sample is assigned twice.

    What no client trains on follows from the settings, and is not a part of the fingerprint: ``new`` are test samples
    of new classes, ``unseen_domain`` are those of the held-out domain, and clients in ``held_out`` never train.
    """

    clients: tuple[ClientSplit, ...]
    public: np.ndarray = field(default_factory=no_samples)  # samples that the server has
    new: np.ndarray = field(default_factory=no_samples)
    unseen_domain: np.ndarray = field(default_factory=no_samples)
    held_out: tuple[int, ...] = ()

    def seen(self) -> list[ClientSplit]:
        """Return the splits of the clients that may train, in the order of their ids."""
        return [split for client, split in enumerate(self.clients) if client not in self.held_out]

    def fingerprint(self) -> str:
        """Return a hash of the assignment of samples to clients and parts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Return JSON with one object per client: the sample indices of its parts."""
        parts = [{name: part.tolist() for name, part in vars(split).items()} for split in self.clients]
        public = {"public": self.public.tolist()} if len(self.public) else {}
        return json.dumps({"clients": parts, **public}, separators=(",", ":"))


@dataclass(frozen=True, eq=False)
class _Pools:
    """Samples by published part. Without one, a client's own part is cut from its share of ``train``."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, samples: Samples) -> "_Pools":
        if samples.official is None:
            return cls(np.arange(len(samples)), no_samples(), no_samples())
        return cls(*(np.flatnonzero(samples.official == part) for part in (Part.TRAIN, Part.VAL, Part.TEST)))

    @property
    def needed(self) -> tuple[str, ...]:
        """Parts that a client's share of ``train`` must be enough for."""
        return ("train", "val") if len(self.test) else ("train", "val", "test")


def make_partition(samples: Samples, *, clients: int, settings: PartitionConfig, seed: int) -> Partition:
    """Give samples to clients as ``settings.kind`` says, then split each client's samples.

    With a published split, the scheme deals out its training part; validation and test part are divided in the same
    proportions of every class (and domain), and a client that gets nothing of the validation part has its own cut from
    its training samples. The owner of a sample depends on ``seed``, ``clients`` and the scheme's own settings; the
    fractions only change how each client's samples are split, ``settings.shots`` only how many training samples are
    kept. Samples of new classes, and of the held-out domain, go to
    no client and not to the server.

    Raises:
        ConfigError: if the fractions leave nothing to train on, or the scheme's settings do not fit the dataset.
        DataError: if there are too few samples for this many clients, or no draw met the scheme's conditions.
    """
    seen, indices = seen_samples(samples, settings)
    dealt = _deal(seen, clients, settings, seed)
    splits = (ClientSplit(indices[one.train], indices[one.val], indices[one.test]) for one in dealt.clients)
    new, domain = new_samples(samples, settings), unseen_domain(samples, settings)
    held_out = held_out_clients(settings, clients, seed)
    return Partition(tuple(splits), indices[dealt.public], new, domain, held_out)


def _deal(samples: Samples, clients: int, settings: PartitionConfig, seed: int) -> Partition:
    """Give all samples to clients and to the server."""
    pools = _Pools.of(samples)
    public, rest = take_public(pools.train, samples.labels, settings.public_fraction, stream(seed, "public"))
    pools = replace(pools, train=rest)
    if not len(pools.test):
        check_fractions(settings.val_fraction, settings.test_fraction)
    needed = len(pools.needed)
    if len(pools.train) < needed:
        sizes = [f"{len(part)} in {name}" for name, part in vars(pools).items()]
        split = "" if samples.official is None else f"; its published split has {', '.join(sizes)}"
        raise DataError(
            f"a client needs {needed} samples ({', '.join(pools.needed)}) but the dataset's training part has "
            f"{len(pools.train)}{split}"
        )
    if clients * needed > len(pools.train):
        where = "" if samples.official is None else " in the dataset's training part"
        error = DataError(
            f"clients={clients}: a client needs {needed} samples ({', '.join(pools.needed)}) but there are only "
            f"{len(pools.train)}{where}"
        )
        raise _with_advice(error, samples, pools, clients, settings, seed)
    try:
        shares = _share_out(samples, pools, clients, settings, stream(seed, "partition"))
    except DataError as error:
        raise _with_advice(error, samples, pools, clients, settings, seed) from None
    splits = (_split(samples, client, share, settings, seed) for client, share in enumerate(shares))
    return Partition(tuple(splits), public)


def _with_advice(
    error: DataError, samples: Samples, pools: _Pools, clients: int, settings: PartitionConfig, seed: int
) -> DataError:
    """Return the error with settings that would work instead."""

    def works(clients: int, settings: PartitionConfig) -> bool:
        try:
            _share_out(samples, pools, clients, settings, stream(seed, "partition"), draws=DRAWS)
        except (ConfigError, DataError):
            return False
        return True

    return DataError(f"{error}; {advise(works, clients, len(pools.train) // len(pools.needed), settings)}")


def _share_out(
    samples: Samples,
    pools: _Pools,
    clients: int,
    settings: PartitionConfig,
    rng: np.random.Generator,
    *,
    draws: int | None = None,
) -> list[ClientSplit]:
    """Deal out each published part to the clients; a part without samples is empty.

    draws: largest number of draws of a random scheme; by default the usual one.
    """
    scheme = SCHEMES[settings.kind]
    assign = partial(scheme, draws=draws) if draws and "alpha" in SETTINGS.get(settings.kind, ()) else scheme
    for _ in range(draws or MAX_DRAWS):
        dealt = assign(samples.take(pools.train), clients=clients, settings=settings, rng=rng)
        train = [np.sort(pools.train[share]) for share in dealt]
        _check_enough(train, pools.needed, samples, settings)
        owned = [samples.groups[share] for share in train]
        val, test = (
            [pool[share] for share in share_alike(samples.groups[pool], owned, rng)] if len(pool) else [pool] * clients
            for pool in (pools.val, pools.test)
        )
        empty = [client for client, share in enumerate(test) if len(pools.test) and not len(share)]
        if not empty:
            return [ClientSplit(*parts) for parts in zip(train, val, test, strict=True)]
    raise DataError(
        f"partition.kind={settings.kind}: in {MAX_DRAWS} draws some client got none of the dataset's {len(pools.test)} "
        f"test samples (in the last one client {empty[0]}{_domain_of(empty[0], clients, samples, settings)}, with "
        f"{len(train[empty[0]])} to train on)"
    )


def _check_enough(
    shares: list[np.ndarray], needed: tuple[str, ...], samples: Samples, settings: PartitionConfig
) -> None:
    for client, share in enumerate(shares):
        if len(share) < len(needed):
            raise DataError(
                f"partition.kind={settings.kind}: client {client}{_domain_of(client, len(shares), samples, settings)} "
                f"would get {len(share)} samples, it needs {len(needed)} ({', '.join(needed)})"
            )


def _domain_of(client: int, clients: int, samples: Samples, settings: PartitionConfig) -> str:
    """Return the client's domain for a message, if the scheme gives each client one."""
    if not settings.kind.startswith("domain"):
        return ""
    domain = next(
        domain
        for domain, its_clients in enumerate(clients_by_domain(samples, clients, settings))
        if client in its_clients
    )
    return f" of domain {samples.domain_names[domain]!r}"


def _split(samples: Samples, client: int, share: ClientSplit, settings: PartitionConfig, seed: int) -> ClientSplit:
    """Cut the missing parts from the client's training share, then keep its shots."""
    cut = split_client(
        share.train,
        samples.labels,
        val_fraction=0 if len(share.val) else settings.val_fraction,
        test_fraction=0 if len(share.test) else settings.test_fraction,
        rng=stream(seed, "split", client=client),
        domains=samples.domains,
    )
    split = ClientSplit(
        cut.train, share.val if len(share.val) else cut.val, share.test if len(share.test) else cut.test
    )
    if settings.shots is None:
        return split
    return keep_shots(split, samples.labels, settings.shots, stream(seed, "shots", client=client))
