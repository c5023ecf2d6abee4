"""Files of a comparison, in its own folder and in the one of ``--out``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from promptfleet.atomic_files import replacing
from promptfleet.comparison.report import JSON_FILE, ComparisonReport
from promptfleet.comparison.spec import ComparisonSpec
from promptfleet.disks import check_writable, disk_errors
from promptfleet.errors import ConfigError
from promptfleet.search.folders import COMPARISONS


@contextmanager
def kept_in(folder: Path | None, spec: ComparisonSpec, name: str | None, *, is_grown: bool) -> Iterator[Path]:
    """Give the comparison's folder, with what was added written into it; a new comparison's is made now."""
    config = next(spec.configs())
    if folder is None:
        with COMPARISONS.create(spec.to_dict(), config.storage, name=name, default_name=config.dataset) as new:
            yield new
    else:
        if is_grown:
            COMPARISONS.write(config.storage, folder, spec.to_dict())
        yield folder


def check_out(out: Path, folder: Path | None, *, overwrite: bool) -> None:
    """Raise ConfigError if ``out`` holds results of another comparison than the one in ``folder``."""
    check_writable(out, named=f"--out {out}")
    with disk_errors(doing="read"):
        if overwrite or not (out / JSON_FILE).exists():
            return
        own = folder / JSON_FILE if folder else None
        if own is None or not own.exists() or own.read_bytes() != (out / JSON_FILE).read_bytes():
            raise ConfigError(
                f"--out {out}: holds the results of another comparison; choose another folder, or give --overwrite"
            )


def write_figures(report: ComparisonReport, *folders: Path) -> None:
    """Write the figures of a comparison. Raises StorageError."""
    for folder in folders:
        for name, draw in report.figures():
            with disk_errors(), replacing(folder / f"{name}.png") as partial:
                draw().savefig(partial, format="png")


def write_files(files: Mapping[str, str], *folders: Path) -> None:
    """Write text files by name. Raises StorageError."""
    for folder in folders:
        for name, text in files.items():
            with disk_errors(), replacing(folder / name) as partial:
                partial.write_text(text)
