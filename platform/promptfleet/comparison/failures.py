"""Federations of a comparison that have no result."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """Federation without a result, and the reason; without a ``seed`` the method cannot run in the setting at all."""

    method: str
    seed: int | None
    reason: str

    def __str__(self) -> str:
        with_seed = "" if self.seed is None else f" with seed {self.seed}"
        return f"{self.method}{with_seed}: {self.reason}"

    @property
    def sentence(self) -> str:
        """Sentence below a table."""
        return f"{'Cannot run' if self.seed is None else 'Failed'}: {self}"
