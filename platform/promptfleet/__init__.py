"""promptfleet: personalized federated prompt learning on CLIP, simulated on Ray and searched with Optuna.

The package root stays free of heavy imports, since every client process pays for them.
"""

__version__ = "0.1.0"
__all__ = ["run_federation"]


def __getattr__(name: str):
    if name == "run_federation":
        from promptfleet.federation.run import run_federation

        return run_federation
    raise AttributeError(f"module 'promptfleet' has no attribute {name!r}")
