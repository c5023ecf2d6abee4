"""The typed configuration of one federation: the only place that has the defaults.

``FederationConfig`` holds what every method shares. A method adds its own hyperparameters by subclassing it (see
``promptfleet.methods``), so a YAML file or ``--set`` names all of them side by side: ``clients=10 experts=3``.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from promptfleet.config_types import FilePath, Name, Seconds, check_size, is_text, may_be_none, plain
from promptfleet.errors import ConfigError, did_you_mean
from promptfleet.storage_address import tidy_path
from promptfleet.yaml_files import line_of_key

Fraction = Annotated[float, Field(gt=0, le=1)]
Share = Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)]
MOST_LISTED = 20  # keys in an error
EXECUTION_SECTIONS = (
    "data",
    "runtime",
    "resources",
    "storage",
    "checkpoints",
)  # the sections that no result depends on


class _CheckedWhenCalled(type(BaseModel)):
    """The type of sections: ``FederationConfig(clients=0)`` is a ConfigError, ``model_validate`` keeps pydantic's."""

    def __call__(cls: type["ModelT"], /, *mappings: Any, **values: Any) -> "ModelT":
        name = cls.__name__
        if mappings:
            raise ConfigError(f"{name}: takes keys, such as {name}(**values); run_federation takes a mapping as it is")
        try:
            return super().__call__(**values)
        except ValidationError as error:
            raise _wrong_call(cls, values, error) from error


class Section(BaseModel, metaclass=_CheckedWhenCalled):
    """A frozen section, strict about types (``"10"`` is no number) and closed to unknown keys. Raises ConfigError."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        allow_inf_nan=False,
    )

    renamed_keys: ClassVar[Mapping[str, str]] = {}  # former key -> key

    @model_validator(mode="before")
    @classmethod
    def _plain_values(cls, values: Any) -> Any:
        return {key: plain(value) for key, value in values.items()} if isinstance(values, Mapping) else values

    @field_validator("*")
    @classmethod
    def _check_size(cls, value: Any) -> Any:
        return check_size(value)


class BackboneConfig(Section):
    """The frozen CLIP: glyph-clip, or a model of open_clip and the source of its weights."""

    name: Name = Field("glyph-clip", description="glyph-clip, an architecture of open_clip, or hf-hub:OWNER/MODEL")
    pretrained: Name | None = Field(
        None, description="tag of the weights in open_clip, or random (for tests and timing)"
    )
    checkpoint: FilePath | None = Field(None, description="local file of weights, in place of pretrained")

    @property
    def label(self) -> str:
        """A short name for messages and filters, such as ``ViT-B-16/openai``."""
        weights = self.pretrained or (self.checkpoint and Path(self.checkpoint).name)
        return f"{self.name}/{weights}" if weights else self.name

    @property
    def is_random(self) -> bool:
        """True if the weights are drawn from the run's seed."""
        return self.pretrained == "random"

    @property
    def caveat(self) -> str:
        """A warning to print with the results; empty for trained weights."""
        return "RANDOM WEIGHTS, for tests and timing: accuracies mean nothing" if self.is_random else ""

    @model_validator(mode="before")
    @classmethod
    def _refuse_one_string(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        name, _, weights = value.partition("/")
        keys = {"name": name} | ({"pretrained": weights} if weights else {})
        options = " ".join(f"--set backbone.{key}={text}" for key, text in keys.items())
        section = ", ".join(f"{key}: {text}" for key, text in keys.items())
        raise ValueError(f"got {value!r}, should be a section of keys: {options}, in a file backbone: {{{section}}}")


class PartitionConfig(Section):
    """The assignment of samples to clients. Each client has its own train, validation and test part.

    If the dataset has an official test (or validation) part, each client gets a share of it and the fraction has no
    effect; ``kind`` then divides the training part, and the other parts follow it.
    """

    kind: Literal["dirichlet", "pathological", "disjoint", "iid", "quantity", "domain", "domain_dirichlet"] = Field(
        "dirichlet", description="scheme of the partition, see docs/partitions.md"
    )
    alpha: float = Field(
        0.3,
        gt=0,
        description="Dirichlet concentration; small is skewed (dirichlet, domain_dirichlet, quantity)",
    )
    classes_per_client: int = Field(2, ge=1, description="classes per client (pathological)")
    shots: int | None = Field(
        None, ge=1, description="largest number of training images per class and client; null: all"
    )
    public_fraction: float = Field(
        0.0, ge=0, lt=1, description="fraction of the training images that the server has instead of the clients"
    )
    new_classes: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the classes, the last by label, that no client has and that prompts are tested on",
    )
    held_out_domain: Name | None = Field(
        None, description="domain that no client has and that models are tested on; null: none"
    )
    held_out_clients: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0, description="clients that never train and that models are tested on: their number or their fraction"
    )
    val_fraction: float = Field(0.15, gt=0, lt=1, description="fraction of a client's samples used for validation")
    test_fraction: float = Field(0.25, gt=0, lt=1, description="fraction of a client's samples used for the test")
    min_samples: int = Field(
        12, ge=3, description="smallest number of samples per client (dirichlet, domain_dirichlet, quantity)"
    )
    file: FilePath | None = Field(
        None,
        description="file of a saved partition; of the rest of this section only new_classes, held_out_domain and "
        "held_out_clients then have an effect",
    )
    fingerprint: Name | None = Field(
        None, description="hash of the partition in the file; filled in when the file is first read"
    )

    @model_validator(mode="after")
    def _check_file(self) -> "PartitionConfig":
        if self.fingerprint is not None and self.file is None:
            raise ValueError("partition.fingerprint needs partition.file; leave it out")
        return self

    def held_out_of(self, clients: int) -> int:
        """Return the number of clients that never train; of a fraction at least one."""
        wanted = self.held_out_clients
        return wanted if isinstance(wanted, int) else max(1, round(wanted * clients))


class DataConfig(Section):
    """The location of the datasets."""

    root: FilePath = Field("data", description="folder with one subfolder per dataset; digits needs no files")
    folder: FilePath | None = Field(
        None, description="subfolder of root that holds the dataset; null: the usual name of the dataset"
    )


class FeaturesConfig(Section):
    """The stored image features."""

    dtype: Literal["float32", "float16"] = Field("float32", description="type of global features and views on disk")
    patches_dtype: Literal["float32", "float16"] = Field("float16", description="type of patch features on disk")
    views: int = Field(
        0, ge=0, description="augmented views per training image; each epoch draws one of them (0: no views)"
    )
    pixels_cache_bytes: int = Field(
        2**29,
        ge=0,
        description="memory of each process for decoded images, of methods that need pixels; others are decoded at "
        "each use",
    )


class RuntimeConfig(Section):
    """The execution of a federation. No key here changes a result, unless ``on_client_failure`` drops real failures."""

    backend: Literal["ray", "local"] = Field(
        "ray", description="ray: clients in extra processes; local: everything in this process"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="device that trains clients and encodes images; auto: GPUs if there are any"
    )
    clients_per_actor: int = Field(1, ge=1, description="clients per process (ray)")
    batch_steps: bool = Field(True, description="run the text encoder once for all clients of a process")
    fork_server: Literal["auto", "on", "off"] = Field(
        "auto", description="fork processes from one that has imported everything; auto: where the system allows it"
    )
    threads_per_client: int = Field(1, ge=1, description="CPU threads per client")
    start_timeout_s: Seconds = Field(300, description="time limit for the start of the processes, in seconds")
    client_timeout_s: Seconds = Field(3600, description="time limit for one client's update or evaluation, in seconds")
    server_timeout_s: Seconds = Field(
        600, description="time limit for one selection or aggregation of the server, in seconds"
    )
    on_client_failure: Literal["retry", "drop", "fail"] = Field(
        "retry",
        description="after a client raises, hangs or dies: repeat its work, leave it out of the round, or stop",
    )
    retries: int = Field(
        3, ge=0, description="largest number of repetitions of the same work before the federation stops"
    )
    min_clients: int = Field(
        1,
        ge=0,
        description="smallest number of updates per round if clients are dropped; with fewer the federation stops",
    )


class ActorShare(Section):
    """The share of one process, see ``promptfleet.federation.resources``."""

    cpu: Share = Field("auto", description="CPUs per process; auto: an equal part of the CPUs, at most 0.1")
    gpu: Share = Field(
        "auto", description="GPUs per process, such as 0.25 for four to a GPU; auto: an equal part (server: none)"
    )


class ResourcesConfig(Section):
    """The CPUs and GPUs of the processes of clients and of the server (ray)."""

    client: ActorShare = ActorShare()
    server: ActorShare = ActorShare(gpu=0.0)


class FaultsConfig(Section):
    """Simulated failures of clients. The unit of time is the duration of the median client's update."""

    drop_rate: float = Field(0.0, ge=0, lt=1, description="probability that a client of the cohort cannot be reached")
    crash_rate: float = Field(
        0.0, ge=0, lt=1, description="probability that a client crashes during its update and loses it"
    )
    straggle: float = Field(0.0, ge=0, le=5, description="sigma of the log-normal duration of an update")
    deadline: float | None = Field(
        None, gt=0, description="longest time that the server waits in a round; null: for all clients"
    )
    over_selection: float = Field(
        0.0, ge=0, description="fraction of extra clients to ask; the first to finish are used"
    )


class AdversaryConfig(Section):
    """Simulated attackers among the clients, see ``promptfleet.federation.conditions.adversaries``."""

    fraction: float = Field(0.0, ge=0, lt=1, description="fraction of the clients that attack; the seed decides which")
    kind: Literal["sign_flip", "noise", "label_flip"] = Field(
        "sign_flip", description="send the reversed update, send noise of its size, or train on wrong labels"
    )
    scale: float = Field(
        10.0, gt=0, description="size of the attack relative to the client's own update (sign_flip, noise)"
    )


class PrivacyConfig(Section):
    """Local differential privacy of uploads, see ``promptfleet.federation.conditions.privacy``."""

    epsilon: Literal["none"] | Annotated[float, Field(ge=0.05, le=200)] = Field(
        "none", description="privacy budget of a client for all rounds together; none: no privacy"
    )
    delta: float = Field(1e-5, ge=1e-10, le=0.3, description="probability that the guarantee of epsilon fails")
    clip_norm: float = Field(
        0.1, gt=0, description="largest norm of the step from the downloaded to the uploaded prompt"
    )


SetRounds = Literal["each", "last_and_best", "never"]
SetRoundsIfAny = Literal["auto", "each", "last_and_best", "never"]


class EvaluationSetsConfig(Section):
    """The evaluated rounds in which clients are evaluated on a set, see docs/evaluation.md.

    each: all of them; last_and_best: the last round, and each round with the best validation accuracy so far; auto:
    these if there are such samples and the method can predict them, else never. ``local`` is evaluated in each.
    """

    global_: SetRounds = Field(
        "last_and_best", alias="global", description="rounds of global: a client's model on the parts of all clients"
    )
    others: SetRounds = Field(
        "last_and_best", description="rounds of others: a client's model on the parts of the other clients"
    )
    server: SetRounds = Field(
        "last_and_best", description="rounds of server: the server's model on the parts of all clients"
    )
    base: SetRoundsIfAny = Field(
        "auto", description="rounds of base: a client's model on the test samples of base classes (new_classes)"
    )
    new: SetRoundsIfAny = Field(
        "auto", description="rounds of new: a client's model on the test samples of new classes (new_classes)"
    )
    unseen_domain: SetRoundsIfAny = Field(
        "auto", description="rounds of unseen_domain: a client's and the server's model on held_out_domain"
    )
    transfer: SetRoundsIfAny = Field(
        "auto", description="rounds of transfer: a client's prompts on the test parts of other datasets (transfer)"
    )
    unseen_clients: SetRoundsIfAny = Field(
        "auto", description="rounds of unseen_clients: clients that never train (held_out_clients), on their test parts"
    )


class EvaluationConfig(Section):
    """The rounds and clients that are evaluated, and the evaluation sets."""

    every: int = Field(1, ge=1, description="number of rounds from one evaluation to the next; the last has one, too")
    clients: Literal["all"] | Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        "all",
        description="clients to evaluate before the last round: all, their number or their fraction; drawn once from "
        "the seed",
    )
    transfer: Annotated[tuple[Name, ...], Field(strict=False)] = Field(
        (), description="other datasets whose test parts and class names prompts are tested on, such as [dtd, food101]"
    )
    sets: EvaluationSetsConfig = EvaluationSetsConfig()
    calibration: SetRounds = Field(
        "last_and_best",
        description="evaluated rounds with calibration errors on each client's own test part, on base and on new",
    )


class CheckpointsConfig(Section):
    """The checkpoints that a federation resumes from. One is written after each round."""

    keep: int = Field(
        2, ge=1, description="number of latest checkpoints to keep, in addition to that of the best round"
    )


class StorageConfig(Section):
    """The location of results, features, studies and the MLflow store."""

    path: FilePath = Field(
        "results", description="folder, or an address such as s3://bucket/prefix, see docs/cluster.md"
    )

    @field_validator("path")
    @classmethod
    def _tidy(cls, path: str) -> str:
        return tidy_path(path)

    @property
    def address(self) -> str | None:
        """The path if it is an address, which pyarrow opens; None for a folder."""
        return self.path if "://" in self.path else None

    @property
    def folder(self) -> Path:
        """The local folder: the path itself, or the working folder of an address."""
        if self.address is None:
            return Path(self.path)
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.path)[:60].strip("-")
        return cache / "promptfleet" / f"{readable}-{hashlib.sha256(self.path.encode()).hexdigest()[:8]}"

    @property
    def option(self) -> str:
        """The option that a command line needs for this storage, with a space before it; empty for the default."""
        return "" if self == StorageConfig() else f" --set {shlex.quote(f'storage.path={self.path}')}"

    def name_of(self, folder: Path) -> str:
        """Return the name of a folder on all machines that use the same address; without one, its absolute path."""
        return str(folder.absolute() if self.address is None else folder.relative_to(self.folder))

    def shown(self, folder: Path) -> str:
        """Return a folder as a user would look for it."""
        return str(folder) if self.address is None else f"{self.address.partition('?')[0]}/{self.name_of(folder)}"


class FederationConfig(Section):
    """The configuration of one federation, which alone determines its result (from ``runtime`` on nothing changes it).

    On a GPU floating-point sums differ in their last digits from those on a CPU.

    >>> from promptfleet import FederationConfig
    >>> from promptfleet.methods import config_class
    >>> config = FederationConfig(method="promptfl", clients=5, partition={"alpha": 0.1})
    >>> config.partition.alpha, config.rounds
    (0.1, 10)
    >>> config_class("pfedmoap")(experts=2).experts  # with the method's own keys
    2
    """

    seed: int = Field(0, ge=0, description="seed of everything random: partition, cohorts, initial values, batches")
    method: Name = Field("pfedmoap", description="name of the method, or module:Class for one outside the package")
    dataset: Name = Field("digits", description="name of the dataset, see docs/data.md")
    clients: int = Field(10, ge=1, description="number of clients")
    rounds: int = Field(10, ge=1, description="number of communication rounds")
    participation: Fraction = Field(1.0, description="fraction of the clients that train in a round")
    local_epochs: int = Field(3, ge=1, description="passes over a client's training examples per round")
    batch_size: int = Field(32, ge=1, description="examples per local step")
    shuffle: bool = Field(True, description="draw a new order of the examples in each local epoch")
    prompt_length: int = Field(8, ge=1, description="number of learnable context tokens")
    class_token_position: Literal["end", "middle", "front"] = Field(
        "end", description="position of the class name: after, within or before the context"
    )
    class_specific_context: bool = Field(False, description="learn one context per class")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32",
        description="arithmetic of the text encoder, and of a vision transformer that gradients flow through; trained "
        "values stay in float32. tf32: float32 with faster, less precise products on a GPU, also outside of encoders",
    )
    prompt_lr: float = Field(0.02, gt=0, description="learning rate of the prompt")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay of SGD")
    max_upload_norm: float = Field(
        1e6, gt=0, description="largest norm of an uploaded tensor; the server rejects uploads above it"
    )
    aggregation: Literal["mean", "median", "trimmed_mean"] = Field(
        "mean", description="average of uploads: weighted by examples (mean), or per coordinate with equal weights"
    )
    trim_fraction: float = Field(
        0.2, ge=0, lt=0.5, description="fraction of uploads to leave out at each end of a coordinate (trimmed_mean)"
    )
    backbone: BackboneConfig = BackboneConfig()
    faults: FaultsConfig = FaultsConfig()
    adversary: AdversaryConfig = AdversaryConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    partition: PartitionConfig = PartitionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    features: FeaturesConfig = FeaturesConfig()
    data: DataConfig = DataConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @model_validator(mode="after")
    def _check_device(self) -> "FederationConfig":
        device, share = self.runtime.device, self.resources.client.gpu
        for name, one in {"client": self.resources.client, "server": self.resources.server}.items():
            if device == "cpu" and one.gpu not in ("auto", 0):
                raise ValueError(f"runtime.device=cpu needs no GPU: set resources.{name}.gpu={one.gpu:g} to auto")
        if device == "cuda" and share == 0 and self.runtime.backend == "ray":
            raise ValueError("runtime.device=cuda needs a share of a GPU: set resources.client.gpu=0 to auto")
        return self

    @model_validator(mode="after")
    def _check_evaluation(self) -> "FederationConfig":
        every, clients = self.evaluation.every, self.evaluation.clients
        if every > self.rounds:
            raise ValueError(f"evaluation.every={every} should be at most rounds={self.rounds}")
        held_out = self.partition.held_out_of(self.clients)
        if held_out >= self.clients:
            raise ValueError(
                f"partition.held_out_clients={self.partition.held_out_clients:g}: no client of clients={self.clients} "
                f"would train; hold out at most {self.clients - 1}"
            )
        if isinstance(clients, int) and clients > self.clients - held_out:
            of_all = f"clients={self.clients}" + (f" without {held_out} held out" if held_out else "")
            raise ValueError(f"evaluation.clients={clients} should be at most {of_all}, or all")
        for name, rounds in {"base": self.evaluation.sets.base, "new": self.evaluation.sets.new}.items():
            if rounds in ("each", "last_and_best") and not self.partition.new_classes:
                raise ValueError(f"evaluation.sets.{name}={rounds} needs partition.new_classes, such as 0.5")
        rounds = self.evaluation.sets.unseen_domain
        if rounds in ("each", "last_and_best") and self.partition.held_out_domain is None:
            raise ValueError(f"evaluation.sets.unseen_domain={rounds} needs partition.held_out_domain")
        transfer, rounds = self.evaluation.transfer, self.evaluation.sets.transfer
        if rounds in ("each", "last_and_best") and not transfer:
            raise ValueError(f"evaluation.sets.transfer={rounds} needs evaluation.transfer, such as [dtd]")
        if self.dataset in transfer or len({*transfer}) < len(transfer):
            raise ValueError(
                f"evaluation.transfer={list(transfer)} should name each dataset once, and not dataset={self.dataset}"
            )
        rounds = self.evaluation.sets.unseen_clients
        if rounds in ("each", "last_and_best") and not held_out:
            raise ValueError(f"evaluation.sets.unseen_clients={rounds} needs partition.held_out_clients, such as 0.2")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested values for YAML and JSON; reading them back gives the same configuration."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Return a hash of the values that determine the result, which leaves out where and how it is computed.

        The file of a partition counts by its content.
        """
        return fingerprint_of(self.to_dict())


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """Return the fingerprint of the configuration whose ``to_dict`` gave ``values``, without building it again."""
    return hashlib.sha256(json.dumps(result_values(values), sort_keys=True).encode()).hexdigest()


def result_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration's nested values that determines the result."""
    what = {
        name: value for name, value in values.items() if name not in EXECUTION_SECTIONS and not name.endswith("_file")
    }  # of files of texts the content is in another key
    if folder := values.get("data", {}).get("folder"):  # for dataset=imagefolder it says which images are meant
        what["data.folder"] = folder
    what["partition"] = {name: value for name, value in what.get("partition", {}).items() if name != "file"}
    return what


ModelT = TypeVar("ModelT", bound=Section)


def build(model: type[ModelT], values: Mapping[str, Any], *, source: str) -> ModelT:
    """Validate nested ``values``. Raises ConfigError naming ``source``, the dotted key and what would be right."""
    check_keys(model, values, source=source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(model, error, source=source) from None


def check_keys(model: type[Section], values: Mapping[str, Any], *, source: str) -> None:
    """Raise ConfigError at the first key that ``model`` does not have, naming the nearest one it has."""
    for key in unknown_keys(model, values):
        raise unknown_key(key, dotted_keys(model), source=source, renamed=model.renamed_keys)


def unknown_keys(model: type[Section], values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted keys in ``values`` that ``model`` does not have."""
    known = set(dotted_keys(model))
    sections = {key.rsplit(".", 1)[0] for key in known if "." in key}
    yield from (key for key in _given_keys(values, sections) if key not in known and key not in sections)


def unknown_key(key: str, known: Iterable[str], *, source: str, renamed: Mapping[str, str] = {}) -> ConfigError:
    """Return the error for an unknown key; it names the key's new name, or the nearest one that exists."""
    if key in renamed:
        return ConfigError(f"{source}: unknown key {key!r}; it is now {renamed[key]!r}")
    known = list(known)
    elsewhere = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    hint = did_you_mean(key, known) or did_you_mean(key, elsewhere, cutoff=0)
    if not hint:
        hint = "docs/configuration.md has all keys" if len(known) > MOST_LISTED else f"known keys: {', '.join(known)}"
    return ConfigError(f"{source}: unknown key {key!r}; {hint}")


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for an unknown dataset, method, ...; it names the nearest one that exists."""
    known = list(known)
    hint = did_you_mean(str(name), known) or f"there are: {', '.join(known)}"
    return ConfigError(f"unknown {what} {name!r}; {hint}")


def dotted_fields(model: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key that a file may set, as ``section.key``, and its field."""
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from dotted_fields(field.annotation, key + ".")
        else:
            yield key, field


def dotted_keys(model: type[Section]) -> Iterator[str]:
    """Return every key that a file may set, as ``section.key``."""
    return (key for key, _ in dotted_fields(model))


def text_keys(model: type[Section]) -> dict[str, bool]:
    """Return the dotted keys whose values are text; the value is True if a key may be null."""
    return {key: may_be_none(field.annotation) for key, field in dotted_fields(model) if is_text(field.annotation)}


def nest(key: str, value: Any) -> dict[str, Any]:
    """Return nested values for a dotted key: ``nest("partition.alpha", 0.1)`` is ``{"partition": {"alpha": 0.1}}``."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return values by dotted key: ``{"partition": {"alpha": 0.1}}`` becomes ``{"partition.alpha": 0.1}``."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, section by section; values of ``over`` win. Neither argument is changed."""
    merged = dict(base)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = merge(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged


def _given_keys(values: Mapping[str, Any], sections: set[str], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys that ``values`` set; a mapping in place of a plain value is one value."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (key in sections or any(s.startswith(key + ".") for s in sections)):
            yield from _given_keys(value, sections, key + ".")
        else:
            yield key


def _wrong_call(model: type[Section], values: Mapping[str, Any], error: ValidationError) -> ConfigError:
    """Return the error for ``model(**values)``, which pydantic refuses."""
    name, known = model.__name__, list(dotted_keys(model))
    for key in unknown_keys(model, values):
        if model is FederationConfig and not did_you_mean(key, known, cutoff=0.75):
            own = "a method's own keys go to run_federation, in a mapping with these"
            return ConfigError(f"{name}: unknown key {key!r}, it has what all methods share; {own}")
        return unknown_key(key, known, source=name, renamed=model.renamed_keys)
    return _refusal(model, error, source=name)


def _refusal(model: type[Section], error: ValidationError, *, source: str) -> ConfigError:
    """Return the error for the first key that pydantic refuses, with its line if ``source`` is a file."""
    problems = [(_key_of(model, problem["loc"]), problem) for problem in error.errors()]
    key = problems[0][0]
    text = _explain([problem for where, problem in problems if where == key])
    place = "".join(f"[{part}]" for part in problems[0][1]["loc"] if isinstance(part, int))  # within a list
    line = line_of_key(source, key)
    source = source if line is None else f"{source}:{line}"
    return ConfigError(f"{source}: {key}{place}: {text}" if key else f"{source}: {text}")


def _key_of(model: type[Section], location: Iterable[str | int]) -> str:
    """Return the dotted key of pydantic's error location, which also holds the names of a union's branches."""
    parts = {part for key in dotted_keys(model) for part in key.split(".")}
    return ".".join(str(part) for part in location if part in parts)


_WANTED = {  # by pydantic's type
    "model_type": "a section of keys",
    "string_too_short": "text that is not empty",
    "bool_type": "true or false",
    "list_type": "a list, such as [a, b]",
    "tuple_type": "a list, such as [a, b]",
}


def _explain(problems: list[Mapping[str, Any]]) -> str:
    """Return one sentence for the problems of one key; a union gives one problem per branch."""
    if problems[0]["type"] == "extra_forbidden":  # all other unknown keys were refused before
        return f"{problems[0]['loc'][-1]!r} is no key here; write a section of keys in place of a dot"
    if problems[0]["type"] == "value_error":
        return str(problems[0]["ctx"]["error"])
    if problems[0]["type"] == "string_type" and isinstance(problems[0]["input"], int | float):
        return f"got {problems[0]['input']!r}, should be text, which a file has in quotes"
    wanted = [_WANTED.get(problem["type"], problem["msg"].removeprefix("Input should be ")) for problem in problems]
    found = "has no value" if problems[0]["input"] is None else f"got {problems[0]['input']!r}"
    return f"{found}, should be {' or '.join(wanted)}"
