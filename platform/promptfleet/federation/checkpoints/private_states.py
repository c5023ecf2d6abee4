"""Private states of clients on disk: files of those that changed, which the checkpoints of later rounds name as well.

A file is complete before the first checkpoint that names it is written, and never changes. It is removed when no
checkpoint in the folder names it any more. States are known by their hashes, so equal ones are stored once.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from promptfleet.disks import disk_errors
from promptfleet.federation.checkpoints.files import checkpoint_paths, is_private_name, private_name, private_paths
from promptfleet.methods.parts.states import group_by_layout, state_sha256
from promptfleet.methods.protocol import State
from promptfleet.strict_json import Count, parse_json
from promptfleet.tensor_file import read_metadata, read_tensors, write_tensors

FILE_BYTES = 2**22  # small states share a file of at most this size; a larger state has its own
SPREAD = 4  # the files of a checkpoint hold at most this many states for each one that it needs

_Files = Annotated[list[tuple[str, Count]], Field(fail_fast=True)]
_Clients = Annotated[list[tuple[Count, Count, Count, str]], Field(fail_fast=True)]


@dataclass(frozen=True)
class Place:
    """One state on disk: the name of its file, the number of its layout there, its row among states of that layout."""

    file: str
    layout: int
    row: int


@dataclass(frozen=True)
class StoredStates:
    """Private states that a checkpoint names: the place of each by its hash, and how many states each file holds."""

    places: Mapping[str, Place]
    sizes: Mapping[str, int]

    def to_metadata(self, hashes: list[str]) -> dict[str, str]:
        """Return the text of a checkpoint whose clients have states with these hashes, in the order of their ids."""
        numbers = {file: number for number, file in enumerate(self.sizes)}
        places = [self.places[one] for one in hashes]
        clients = [
            (numbers[place.file], place.layout, place.row, one) for one, place in zip(hashes, places, strict=True)
        ]
        return {"files": json.dumps(list(self.sizes.items())), "clients": json.dumps(clients)}

    @staticmethod
    def of_metadata(metadata: Mapping[str, str]) -> tuple["StoredStates", list[str]]:
        """Return the arguments of ``to_metadata``. Raises KeyError, ValueError or IndexError: the text is damaged."""
        files = parse_json(_Files, metadata["files"])
        if not all(is_private_name(name) for name, _ in files):
            raise ValueError("it names files that are none of private states")
        clients = parse_json(_Clients, metadata["clients"])
        places = {one: Place(files[file][0], layout, row) for file, layout, row, one in clients}
        return StoredStates(places, dict(files)), [one for *_, one in clients]


NO_STATES = StoredStates({}, {})


def write_states(
    folder: Path, round_index: int, states: Mapping[str, State], known: StoredStates
) -> tuple[StoredStates, int]:
    """Write those of the ``states``, by hash, that are not ``known``; return where all are, and the bytes written.

    Files with few states that are still needed are given up, and these states written again, once the files would hold
    more than ``SPREAD`` states for each one needed. Raises OSError: the disk refuses.
    """
    places = _worth_keeping(known, states, {file for file in known.sizes if (folder / file).exists()})
    sizes = {file: known.sizes[file] for file in sorted({place.file for place in places.values()})}
    written = 0
    for chunk in _chunks({one: state for one, state in states.items() if one not in places}):
        path = folder / private_name(round_index, hashlib.sha256("".join(chunk).encode()).hexdigest())
        tensors = {}
        for layout, group in enumerate(group_by_layout(chunk)):
            for name in next(iter(group.values())):
                tensors[f"{layout}/{name}"] = torch.stack([state[name].detach() for state in group.values()])
            places |= {one: Place(path.name, layout, row) for row, one in enumerate(group)}
        write_tensors(path, tensors)
        sizes[path.name] = len(chunk)
        written += path.stat().st_size
    return StoredStates(places, sizes), written


def read_states(folder: Path, places: Mapping[str, Place]) -> dict[str, State]:
    """Return the states at these places, by hash; tensors of one file share its memory.

    Raises:
        StorageError: the disk does not give a file.
        ValueError, IndexError: a file is missing or damaged.
    """
    by_file: dict[str, list[str]] = defaultdict(list)
    for one, place in places.items():
        by_file[place.file].append(one)
    states: dict[str, State] = {}
    for file, hashes in by_file.items():
        layouts = _read_layouts(folder / file)
        for one in hashes:
            columns = layouts.get(str(places[one].layout), {})
            states[one] = {name: column[places[one].row] for name, column in columns.items()}
            if state_sha256(states[one], {}) != one:
                raise ValueError(f"{file}: its states are not what was written")
    return states


def remove_unneeded(folder: str | Path) -> None:
    """Remove the files of private states in the federation's ``folder`` that no checkpoint there names.

    Raises:
        StorageError: a checkpoint cannot be read; nothing is removed.
        OSError: a file cannot be removed.
    """
    needed = {name for path in checkpoint_paths(folder) for name in _named_by(path)}
    for path in private_paths(folder):
        if path.name not in needed:
            path.unlink(missing_ok=True)


def _worth_keeping(known: StoredStates, needed: Mapping[str, State], there: Collection[str]) -> dict[str, Place]:
    """Return the places of those needed states whose files are kept, of the files that are ``there``."""
    places = {one: place for one, place in known.places.items() if one in needed and place.file in there}
    used = Counter(place.file for place in places.values())
    stored = sum(known.sizes[file] for file in used) + len(needed) - len(places)
    given_up = set()
    for file in sorted(used, key=lambda file: (used[file] / known.sizes[file], file)):
        if stored <= SPREAD * len(needed):
            break
        given_up.add(file)
        stored -= known.sizes[file] - used[file]
    return {one: place for one, place in places.items() if place.file not in given_up}


def _chunks(states: Mapping[str, State]) -> Iterator[dict[str, State]]:
    """Yield the states of one file after the other, small states first."""
    sizes = {one: sum(tensor.nbytes for tensor in state.values()) for one, state in states.items()}
    chunk: dict[str, State] = {}
    filled = 0
    for one in sorted(states, key=sizes.__getitem__):
        if chunk and filled + sizes[one] > FILE_BYTES:
            yield chunk
            chunk, filled = {}, 0
        chunk[one] = states[one]
        filled += sizes[one]
    if chunk:
        yield chunk


def _read_layouts(path: Path) -> dict[str, State]:
    """Return the tensors of each layout by its number, the states of all its clients stacked."""
    with disk_errors(path, doing="read"):
        try:
            _, tensors = read_tensors(path)
        except FileNotFoundError:
            raise ValueError(f"{path.name}: missing") from None
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from None
    layouts: dict[str, State] = defaultdict(dict)
    for owner, tensor in tensors.items():
        layout, _, name = owner.partition("/")
        layouts[layout][name] = tensor
    return layouts


def _named_by(checkpoint: Path) -> set[str]:
    """Return the names of the files that a checkpoint needs; none if it is damaged. Raises StorageError."""
    try:
        with disk_errors(checkpoint, doing="read"):
            return {name for name, _ in parse_json(_Files, read_metadata(checkpoint).get("files", "[]"))}
    except ValueError:
        return set()
