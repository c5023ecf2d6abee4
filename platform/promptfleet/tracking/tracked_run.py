"""One MLflow run: repeated writes leave each entry there once."""

import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from promptfleet.escaping import encodable
from promptfleet.tracking.descriptions import NOTE_TAG
from promptfleet.tracking.errors import TrackingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

Status = Literal["RUNNING", "FINISHED", "KILLED", "FAILED"]
_PARAMS_PER_BATCH, _METRICS_PER_BATCH = 100, 1000  # MLflow's limits
_PARAM_LENGTH = 6000  # where MLflow cuts a value
_TAG_LENGTH = 8000  # MLflow's limit


class TrackedRun:
    """Handle on one run. ``is_new`` is True for a run that was just created, not for a continued one."""

    def __init__(self, client: "MlflowClient", run_id: str, *, is_new: bool):
        self._client = client
        self.id = run_id
        self.is_new = is_new

    @property
    def status(self) -> str:
        return self._client.get_run(self.id).info.status

    @property
    def is_deleted(self) -> bool:
        """Return True if the run was deleted in MLflow, for good or into its trash."""
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_run(self.id).info.lifecycle_stage != "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return True

    @property
    def name(self) -> str:
        return self._client.get_run(self.id).info.run_name

    @property
    def metrics(self) -> dict[str, float]:
        """Return the latest value of each metric."""
        return self._client.get_run(self.id).data.metrics

    @property
    def params(self) -> dict[str, str]:
        return self._client.get_run(self.id).data.params

    @property
    def tags(self) -> dict[str, str]:
        return self._client.get_run(self.id).data.tags

    def steps(self, metric: str) -> set[int]:
        """Return the steps at which ``metric`` was logged."""
        return {entry.step for entry in self._client.get_metric_history(self.id, metric)}

    def log_metrics(self, values: Mapping[str, float | None], *, step: int) -> None:
        """Write all values in one batch; those that are None are left out."""
        self.log_steps({step: values})

    def log_steps(self, values: Mapping[int, Mapping[str, float | None]]) -> None:
        """Write the values of several steps in as few batches as MLflow takes; those that are None are left out."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now_ms, step)
            for step, at_step in values.items()
            for name, value in at_step.items()
            if value is not None
        ]
        for start in range(0, len(metrics), _METRICS_PER_BATCH):
            self._client.log_batch(self.id, metrics=metrics[start : start + _METRICS_PER_BATCH])

    def log_final_metrics(self, values: Mapping[str, float | None], *, step: int) -> None:
        """Write the values that the run does not hold already."""
        held = self.metrics
        self.log_metrics({name: value for name, value in values.items() if held.get(name) != value}, step=step)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Write parameters; MLflow keeps the first value of each forever.

        Raises:
            TrackingError: the run already holds another value for one of them.
        """
        from mlflow.entities import Param

        held = self.params
        texts = {
            name: (encodable(value) if isinstance(value, str) else json.dumps(value))[:_PARAM_LENGTH]
            for name, value in values.items()
        }
        for name, text in texts.items():
            if held.get(name, text) != text:
                raise TrackingError(
                    f"tracked run {self.name!r} was started with {name}={held[name]} and cannot be continued with "
                    f"{name}={text}; start it under another name, or set storage.path to a new folder"
                )
        params = [Param(name, text) for name, text in texts.items() if name not in held]
        for start in range(0, len(params), _PARAMS_PER_BATCH):
            self._client.log_batch(self.id, params=params[start : start + _PARAMS_PER_BATCH])

    def set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if values:
            tags = [RunTag(name, encodable(text)[:_TAG_LENGTH]) for name, text in values.items()]
            self._client.log_batch(self.id, tags=tags)

    def set_status(self, status: Status) -> None:
        if status == "RUNNING":
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status)

    def log_text(self, text: str, file: str) -> None:
        self._client.log_text(self.id, encodable(text), file)

    def describe(self, note: str) -> None:
        """Set the run's description, which is Markdown."""
        self.set_tags({NOTE_TAG: note})

    def log_table(self, rows: Sequence[Mapping[str, Any]], file: str) -> None:
        """Write rows as a table that MLflow's pages show; columns in order of first appearance, gaps are null.

        Tables are for reading: real numbers are rounded to four significant digits.
        Differs from MlflowClient.log_table, which appends when the file exists already.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row))
        data = [[_rounded(row.get(name)) for name in columns] for row in rows]
        self.log_text(json.dumps({"columns": columns, "data": data}), file)
        table = {"path": file, "type": "table"}
        known = json.loads(self.tags.get("mlflow.loggedArtifacts", "[]"))
        if table not in known:
            self.set_tags({"mlflow.loggedArtifacts": json.dumps([*known, table])})

    def log_states(self, tensors: Mapping[str, Tensor], file: str, *, metadata: Mapping[str, str]) -> None:
        """Write named tensors as safetensors, bit for bit."""
        from safetensors.torch import save_file

        folder, _, name = file.rpartition("/")
        # clone: safetensors refuses tensors that share memory
        plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        with tempfile.TemporaryDirectory() as temporary:
            local = Path(temporary) / name
            save_file(plain, local, metadata=dict(metadata))
            self._client.log_artifact(self.id, str(local), folder or None)

    def log_figures(
        self, figures: "Iterable[tuple[str, Callable[[], Figure | None]]]", folder: Path | None = None
    ) -> list[str]:
        """Draw and write each named figure, also into ``folder``; return the names of those that were written.

        A function that gives None has nothing to show. A figure that cannot be drawn is a warning: the numbers behind
        it are safe by then.
        """
        written = []
        for name, draw in figures:
            try:
                figure = draw()
                if figure is not None:
                    if folder is not None:
                        folder.mkdir(exist_ok=True)
                        figure.savefig(folder / f"{name}.png")
                    self._client.log_figure(self.id, figure, f"figures/{name}.png")
                    written.append(name)
            except Exception as error:
                logger.warning("tracking: figure %s of run %s was not drawn: %s", name, self.id, error, exc_info=True)
        return written


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
