"""Options of the pool of experts."""

from typing import Literal

from pydantic import Field, model_validator

from promptfleet.config import Section

Selection = Literal["nearest", "random", "farthest"]
Search = Literal["exact", "projected"]
FORMER_KEYS = {
    "pool_dtype": "pool.dtype",
    "pool_storage": "pool.storage",
    "expert_search": "pool.search",
    "expert_filter": "pool.outlier_tolerance",
}


class PoolConfig(Section):
    """Pool of experts on the server."""

    dtype: Literal["float32", "float16"] = Field("float32", description="type of the experts in the pool")
    storage: Literal["memory", "disk"] = Field(
        "memory", description="location of the pool: in memory and checkpoints, or in files next to the checkpoints"
    )
    search: Search = Field(
        "exact", description="exact: compare all prompts; projected: compare a shortlist, for pools of up to a million"
    )
    outlier_tolerance: float | None = Field(
        None,
        gt=0,
        description="exclude prompts whose distance from the median prompt exceeds the median distance by more than "
        "this many median absolute deviations; null: exclude none",
    )

    @model_validator(mode="after")
    def _check_outliers(self) -> "PoolConfig":
        if self.storage == "disk" and self.outlier_tolerance is not None:
            raise ValueError("pool.outlier_tolerance takes the median of all prompts, which needs pool.storage=memory")
        return self
