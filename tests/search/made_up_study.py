"""A study run on a made-up objective, round by round as the driver does it."""

from collections.abc import Callable, Mapping

from promptfleet.search.study import SweepStudy


def run_study(
    study: SweepStudy, rounds: int, value_of: Callable[[Mapping, int], float], stop_after: int | None = None
) -> bool:
    """Run all trials of ``rounds`` rounds; False if the power fails after ``stop_after`` rounds in all."""
    rounds_run = 0
    while proposal := study.next_proposal():
        for round_index in range(proposal.settled_rounds + 1, rounds + 1):
            value = value_of(proposal.params, round_index)
            study.report(proposal.number, round_index, value)
            rounds_run += 1
            if rounds_run == stop_after:
                return False
            if study.should_stop(proposal.number, round_index):
                study.prune(proposal.number)
                break
        else:
            study.complete(proposal.number, value)
    return True
