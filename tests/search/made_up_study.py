"""Studies run on made-up objectives: round by round as the driver does it, and trials that are complete at once."""

from collections.abc import Callable, Mapping, Sequence

from promptfleet.search.folders import trial_folder
from promptfleet.search.study import SweepStudy
from tests.tracking.values import make_result


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


def completing_trials(draw: Callable) -> Callable:
    """Return a ``run_trials`` that completes each trial at once with a made-up result, and submits ``draw(writer)``."""

    def run_trials(stages: Sequence, folder, prepared, nodes, store, writer, *, concurrent):
        (stage,) = stages
        while proposal := stage.study.next_proposal():
            place = trial_folder(folder, proposal.number)
            place.mkdir(parents=True)
            (place / "result.json").write_text(make_result(stage.config(proposal.params)).to_json())
            stage.study.complete(proposal.number, 0.5 + 0.1 * proposal.number)
            writer.submit_late(draw, writer)

    return run_trials
