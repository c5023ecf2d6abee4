"""Cost of a long search's study for its driver: python benchmarks/study.py

Runs 300 trials of 10 rounds, some at a time, on a study alone: propose, report, decide on stopping, end. Reports for
each 50 trials the seconds of a trial, the memory of the process, and the size of the study's database.
"""

import argparse
import tempfile
import time
from pathlib import Path

from measuring import report, resident_mib
from promptfleet.search.space import FloatRange, IntRange
from promptfleet.search.spec import SweepSettings
from promptfleet.search.study import SweepStudy
from promptfleet.search.study_file import FILE

SPACE = {"experts": IntRange(1, 9), "prompt_lr": FloatRange(0.005, 0.1, log=True)}
EVERY = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        study = SweepStudy(temporary, SPACE, SweepSettings(trials=options.trials), options.rounds)
        started, cpu = time.perf_counter(), time.process_time()
        for ended in range(0, options.trials, options.at_once):
            run_together(study, options)
            after = ended + options.at_once
            if after % EVERY < options.at_once or after >= options.trials:
                now, cpu_now = time.perf_counter(), time.process_time()
                count = after - (rows[-1]["trials"] if rows else 0)
                size = (Path(temporary) / FILE).stat().st_size / 2**20
                seconds = {"trial_s": (now - started) / count, "trial_cpu_s": (cpu_now - cpu) / count}
                rows.append({"trials": after, **seconds, "memory_mib": resident_mib(), "study_mib": size})
                started, cpu = now, cpu_now
    growth = rows[-1]["memory_mib"] / rows[0]["memory_mib"] - 1
    title = f"a study of {options.rounds} rounds, {options.at_once} trials at once"
    report(title, rows, as_json=options.json, growth=growth)


def run_together(study: SweepStudy, options: argparse.Namespace) -> None:
    """Run ``options.at_once`` trials round by round, and stop one if the study says so."""
    running = [proposal for _ in range(options.at_once) if (proposal := study.next_proposal())]
    for round_index in range(1, options.rounds + 1):
        for proposal in list(running):
            value = proposal.params["experts"] / 10 * round_index / options.rounds
            study.report(proposal.number, round_index, value)
            if round_index == options.rounds:
                study.complete(proposal.number, value)
            elif study.should_stop(proposal.number, round_index):
                study.prune(proposal.number)
                running.remove(proposal)


if __name__ == "__main__":
    main()
