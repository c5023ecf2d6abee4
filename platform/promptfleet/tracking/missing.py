"""One line about what MLflow lacks of a run that has ended, with the command that writes it."""


def missing_lines(reason: str | None, undrawn: int, command: str) -> list[str]:
    """Return it; none if MLflow has everything.

    reason: why a write failed, None if none did; undrawn: number of runs whose figures were left out.
    """
    if reason:
        return [f"MLflow lacks a part of it ({reason}); write the missing part with: {command}"]
    return [f"MLflow lacks the figures of {undrawn} of its runs; draw them with: {command}"] if undrawn else []
