"""Files that a sweep leaves next to its study: its trials as a table, and the best configuration."""

from collections.abc import Sequence
from pathlib import Path

from promptfleet.atomic_files import replacing
from promptfleet.config import StorageConfig
from promptfleet.disks import disk_errors
from promptfleet.federation.checkpoints.begin import CONFIG_FILE
from promptfleet.federation.checkpoints.folder import bring_result, load_result
from promptfleet.search.folders import trial_folder
from promptfleet.search.prompts import write_prompts
from promptfleet.search.seats import seat_folders, seeded
from promptfleet.search.spec import SweepSpec
from promptfleet.search.trials_frame import trials_frame
from promptfleet.storage.remote import bring_file
from promptfleet.trial_records import TrialRecord, name_ties
from promptfleet.yaml_files import dump_yaml

TRIALS_FILE, BEST_FILE, PROMPTS_FILE = "trials.csv", "best.yaml", "prompts.safetensors"
FIGURES = "figures"  # a folder


def write_outcome(
    spec: SweepSpec, folder: Path, records: Sequence[TrialRecord], best: TrialRecord | None, ties: Sequence[int] = ()
) -> None:
    """Write ``trials.csv``, ``best.yaml`` and a missing ``config.yaml`` of each trial.

    ``best.yaml`` has the best trial's values for ``--config`` of train.py and compare.py; ``ties``, which are as good,
    are named there. Without a best trial there is none. Raises StorageError.
    """
    storage = spec.base_config().storage
    _write(storage, folder / TRIALS_FILE, trials_frame(records).to_csv())
    if best is not None:
        about = f"# trial {best.number} of sweep {folder.name}: {spec.settings.objective} {best.value:.4f}\n"
        tied = f"# {name_ties(ties)}\n" if ties else ""
        _write(storage, folder / BEST_FILE, about + tied + dump_yaml(spec.values(best.params)))
    for record in records:
        config = spec.config(record.params)
        folders = seat_folders(trial_folder(folder, record.number), spec.settings.seeds_per_trial)
        for place, one in zip(folders, seeded(config, spec.settings.seeds_per_trial), strict=True):
            if place.is_dir() and not (place / CONFIG_FILE).exists():
                _write(storage, place / CONFIG_FILE, dump_yaml(one.to_dict()))


def write_best_prompts(spec: SweepSpec, folder: Path, best: TrialRecord | None) -> None:
    """Write the prompts of the best trial, of its first seed where it has several. Raises StorageError.

    There are none without a best trial, or if its states are not on disk any more.
    """
    if best is None:
        return
    config, place = spec.config(best.params), trial_folder(folder, best.number)
    bring_result(place, config.storage)
    result = load_result(place, config.fingerprint())
    if result is not None:
        about = {"sweep": folder.name, "trial": str(best.number)}
        write_prompts(folder / PROMPTS_FILE, result, config, about)
        if (folder / PROMPTS_FILE).exists():
            bring_file(config.storage, folder / PROMPTS_FILE)


def _write(storage: StorageConfig, path: Path, text: str) -> None:
    with disk_errors(), replacing(path) as partial:
        partial.write_text(text)
    bring_file(storage, path)
