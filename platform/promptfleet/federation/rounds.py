"""The round loop: the same for every method and every fleet."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from promptfleet.config import FederationConfig
from promptfleet.data.partition_counts import PartitionCounts, count_partition
from promptfleet.data.samples import Samples
from promptfleet.errors import FederationError
from promptfleet.federation.conditions.adversaries import adversaries
from promptfleet.federation.conditions.cohort import cohort_size, sample_cohort, training_clients
from promptfleet.federation.conditions.faults import Turnout, turnout
from promptfleet.federation.conditions.privacy import check_noise_hides, privacy_budget
from promptfleet.federation.evaluation.schedule import (
    Plan,
    cannot_predict_new,
    cannot_serve_unseen,
    evaluated_clients,
    keeps_calibration,
    plan_of_best,
    plan_of_round,
    tests_unseen_clients,
)
from promptfleet.federation.evaluation.scores import (
    LOCAL,
    TEST,
    UNSEEN_CLIENTS,
    UNSEEN_CLIENTS_TUNED,
    VAL,
    Evaluation,
    client_accuracies,
    honest_mean,
    set_name,
)
from promptfleet.federation.evaluation.zero_shot import zero_shot_accuracies, zero_shot_right, zero_shot_transfer
from promptfleet.federation.fleet import CohortUpdate, Fleet, Handle, Intake
from promptfleet.federation.partitioning import partition_for
from promptfleet.federation.prepare import Prepared
from promptfleet.federation.reports import (
    ClientReport,
    Event,
    FederationResult,
    RoundReport,
    TrainReport,
    best_round,
    last_evaluated,
    nothing_accepted,
)
from promptfleet.federation.server_rows import make_rows, rows_folder
from promptfleet.methods import load_method
from promptfleet.methods.parts.states import state_sha256
from promptfleet.methods.protocol import State

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """Federation between two rounds: all states and reports for resuming without a difference."""

    server: State
    privates: dict[int, State]
    reports: list[RoundReport]
    evaluations: list[Evaluation]

    @cached_property
    def sha256(self) -> str:
        """Return a hash of all states."""
        return state_sha256(self.server, self.privates)


class Federation:
    """Federation on a fleet, run round by round; ``folder`` is its own folder, if it has one.

    Raises on construction every error that makes the configuration impossible for this dataset.
    """

    def __init__(self, config: FederationConfig, prepared: Prepared, fleet: Fleet, folder: str | Path | None = None):
        self.config = config
        self._prepared = prepared
        self._fleet = fleet
        self._rows = rows_folder(config, folder)
        self._method = method = load_method(config.method)
        self._adversaries = adversaries(config)
        uploads = method.uploads(prepared.world(config))
        check_noise_hides(config, uploads)
        self._privacy = privacy_budget(config, method.participation) if uploads else None
        store = prepared.open_store()
        self._samples = Samples.of_store(store, prepared.class_names, prepared.domain_names)
        self.partition = partition_for(config, self._samples)
        self._training = training_clients(config)
        self._zero_shot_right = zero_shot_right(config, prepared.clip, store)
        self._zero_shot_transfer = zero_shot_transfer(config, prepared.others)
        self._events: list[Event] = []
        self._begin()

    def _begin(self) -> None:
        make_rows(self._rows)
        noise = self._privacy.noise_std if self._privacy else 0.0
        self._fleet.begin(self.config, self.partition, noise, self._rows)
        self._privates = self._fleet.initial_states()
        self._reports: list[RoundReport] = []
        self._evaluations: list[Evaluation] = []
        self._ahead: Handle | None = None  # downloads of the next round's cohort

    @property
    def rounds_done(self) -> int:
        return len(self._reports)

    def run_round(self) -> RoundReport:
        """Train the cohort, aggregate its uploads on the server, and evaluate every client at the same point."""
        started, round_index = time.perf_counter(), self.rounds_done + 1
        cohort = self._cohort(round_index)
        arriving = self._turnout(round_index, cohort)
        trained = self._train(round_index, cohort, arriving.present)
        downloads = self._aggregate(round_index, trained.uploads)
        evaluations, intake = self._evaluate(round_index, trained.privates, downloads)
        self._evaluations = [one.uncertain() for one in evaluations] or self._evaluations
        report = RoundReport.of(
            round_index,
            cohort,
            trained.reports,
            intake.rejected,
            evaluations,
            time.perf_counter() - started,
            dropped={**arriving.missing, **trained.dropped},
            simulated_time=arriving.time,
            events=[
                *self._events,
                *self._fleet.take_events(),
                *self._simulated_events(round_index, intake),
                *_loss_events(trained.reports),
            ],
            adversaries=self._adversaries,
            clients=self.config.clients,
            epsilon_spent=self._privacy and self._privacy.spent([*(one.cohort for one in self._reports), cohort]),
        )
        self._reports.append(report)
        self._events = []
        reason = nothing_accepted(self._reports, self.config.rounds)
        if reason and not nothing_accepted(self._reports[:-1], self.config.rounds):
            logger.warning("%s", reason)
        return report

    def _train(self, round_index: int, cohort: Sequence[int], present: Sequence[int]) -> CohortUpdate:
        """Train the clients of the cohort that are present, each from its download and its private state.

        The downloads are ready if the round before requested them. Raises FederationError: too few updates.
        """
        downloads, self._ahead = self._ahead or self._fleet.select(round_index, cohort), None
        trained = self._fleet.train(round_index, {client: self._privates[client] for client in present}, downloads)
        self._check_enough(len(present), trained.dropped)
        return trained

    def _aggregate(self, round_index: int, uploads: Handle) -> Handle:
        """Queue the server's work without waiting for it; return the downloads of clients that are evaluated.

        The server aggregates the uploads, then selects for the evaluation. While clients are evaluated it is idle, so
        it also selects for the next cohort.
        """
        fleet, config = self._fleet, self.config
        fleet.aggregate(round_index, uploads)
        evaluated = evaluated_clients(config, round_index)
        downloads = fleet.select(round_index, evaluated, "evaluate") if evaluated else None
        if round_index < config.rounds:
            self._ahead = fleet.select(round_index + 1, self._cohort(round_index + 1))
        return downloads

    def _evaluate(
        self, round_index: int, trained: Mapping[int, Handle], downloads: Handle
    ) -> tuple[list[Evaluation], Intake]:
        """Evaluate clients with their private states after the round; also return the fate of the uploads.

        A client whose upload the server rejects keeps its private state. That is rare, so all are evaluated before the
        server has answered, and such clients once more.
        """
        fleet, before = self._fleet, self._privates
        self._privates = {**before, **trained}
        clients = evaluated_clients(self.config, round_index)
        plan = plan_of_round(self.config, round_index, clients) if clients else None
        evaluations = self._evaluated(round_index, clients, downloads, plan)
        intake = fleet.intake()
        if intake.rejected:
            self._privates |= {client: before[client] for client in intake.rejected}
            again = [client for client in clients if client in intake.rejected]
            evaluations |= self._evaluated(round_index, again, downloads, plan)
        is_best = bool(plan) and self._is_best(evaluations.values())
        if is_best and (more := plan_of_best(self.config, plan)):
            evaluations = _merged(evaluations, self._evaluated(round_index, clients, downloads, more))
        if plan:
            with_it = keeps_calibration(self.config, round_index, best=is_best)
            evaluations = {
                client: one.calibrated() if with_it else one.uncertain() for client, one in evaluations.items()
            }
        if plan and tests_unseen_clients(self.config, round_index, best=is_best):
            evaluations |= self._unseen_clients(round_index)
        self._privates = fleet.repack(self._privates)
        return [evaluations[client] for client in sorted(evaluations)], intake

    def _evaluated(
        self, round_index: int, clients: Sequence[int], downloads: Handle, plan: Plan | None
    ) -> dict[int, Evaluation]:
        if not clients:
            return {}
        privates = {client: self._privates[client] for client in clients}
        return {one.client: one for one in self._fleet.evaluate(round_index, privates, downloads, plan)}

    def _unseen_clients(self, round_index: int) -> dict[int, Evaluation]:
        """Test the clients that never train: as they are, and after a local update of which nothing is kept or sent."""
        fleet = self._fleet
        privates = {client: self._privates[client] for client in self.partition.held_out}
        downloads = fleet.select(round_index, self.partition.held_out, "evaluate")
        before = fleet.evaluate(round_index, privates, downloads, Plan((UNSEEN_CLIENTS,)))
        to_train = fleet.select(round_index, self.partition.held_out, "train")
        tuned = fleet.train(round_index, privates, to_train).privates
        after = fleet.evaluate(round_index, tuned, downloads, Plan((UNSEEN_CLIENTS_TUNED,)))
        return _merged({one.client: one for one in before}, {one.client: one for one in after})

    def _is_best(self, evaluations: Iterable[Evaluation]) -> bool:
        """Return True if a round has a higher validation accuracy over the honest clients than all rounds before it."""
        value = honest_mean(evaluations, VAL, self._adversaries)
        best = best_round(self._reports).honest_val_accuracy if self._reports else None
        return value is not None and (best is None or value > best)

    def _turnout(self, round_index: int, cohort: Sequence[int]) -> Turnout:
        config = self.config
        wanted = cohort_size(len(self._training), self._method.participation(config, round_index))
        return turnout(config.seed, round_index, cohort, wanted, config.faults)

    def _cohort(self, round_index: int) -> list[int]:
        config, share = self.config, self._method.participation(self.config, round_index)
        over_selection = config.faults.over_selection
        places = sample_cohort(config.seed, round_index, len(self._training), share, over_selection=over_selection)
        return [self._training[place] for place in places]

    def _simulated_events(self, round_index: int, intake: Intake) -> list[Event]:
        """Return events for attackers and unevaluated sets (round 1 only), and for uploads that others do not get."""
        attack = self.config.adversary
        attacks = [Event("train", sorted(self._adversaries), f"adversary.kind={attack.kind}", "attack simulated")]
        excluded = [
            Event("aggregate", [client], why, "not given to others") for client, why in sorted(intake.excluded.items())
        ]
        first = [*(attacks if self._adversaries else []), *self._unevaluated()] if round_index == 1 else []
        return [*first, *excluded]

    def _unevaluated(self) -> list[Event]:
        """Return events for foreign classes that the method cannot predict, and unseen clients that it cannot serve."""
        config = self.config
        reasons = {
            "no accuracy on new classes": config.partition.new_classes and cannot_predict_new(config),
            "no accuracy on other datasets": config.evaluation.transfer and cannot_predict_new(config),
            "no accuracy of unseen clients": config.partition.held_out_clients and cannot_serve_unseen(config),
        }
        return [Event("evaluate", [], reason, without) for without, reason in reasons.items() if reason]

    def record(self, event: Event) -> None:
        """Add ``event`` to the next round's report."""
        self._events.append(event)

    def snapshot(self) -> Snapshot:
        return self.take_snapshot()()

    def take_snapshot(self) -> Callable[[], Snapshot]:
        """Return at once a function that fetches the current states later, from any thread."""
        fetch, server, privates = self._fleet.fetch, self._fleet.server_state(), dict(self._privates)
        reports, evaluations = list(self._reports), list(self._evaluations)

        def snapshot() -> Snapshot:
            return Snapshot(*fetch(server, privates), reports, evaluations)

        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Resume from ``snapshot`` as if all its rounds had been run here."""
        self._fleet.load_server_state(snapshot.server)
        self._privates = self._fleet.put(snapshot.privates)
        self._reports = list(snapshot.reports)
        self._evaluations = list(snapshot.evaluations)
        self._ahead = None

    def begin_anew(self) -> None:
        """Reset to the state before the first round, also if processes have died."""
        self._events += self._fleet.take_events()
        self._begin()

    @property
    def reports(self) -> list[RoundReport]:
        """Reports of the rounds done, one per round."""
        return list(self._reports)

    def result(self, snapshot: Snapshot | None = None) -> FederationResult:
        """Return the result of the rounds up to ``snapshot``, or of all. Raises FederationError: none was evaluated."""
        snapshot = snapshot or self.snapshot()
        config, last = self.config, last_evaluated(snapshot.reports)
        if last is None:
            raise FederationError(f"none of {len(snapshot.reports)} rounds was evaluated, see evaluation.every")
        best = best_round(snapshot.reports)
        counts = count_partition(self.partition, self._samples)
        clients = self._client_reports(counts, snapshot.evaluations)
        return FederationResult(
            config=config.to_dict(),
            seed=config.seed,
            method=config.method,
            dataset=config.dataset,
            class_names=counts.class_names,
            domain_names=counts.domain_names,
            domain_label_counts=counts.domain_label_counts,
            partition_sha256=self.partition.fingerprint(),
            trained_parameters=self._trained_parameters(),
            rounds=snapshot.reports,
            clients=clients,
            val_accuracy=last.val_accuracy,
            test_accuracy=last.test_accuracy,
            zero_shot_accuracy=float(np.mean([one.zero_shot_accuracy for one in clients if not one.held_out])),
            adversaries=sorted(self._adversaries),
            honest_val_accuracy=last.honest_val_accuracy,
            honest_test_accuracy=last.honest_test_accuracy,
            noise_multiplier=self._privacy and self._privacy.noise_multiplier,
            epsilon_spent=snapshot.reports[-1].epsilon_spent,
            best_round=best.round,
            best_round_test_accuracy=best.test_accuracy,
            state_sha256=snapshot.sha256,
            seconds=sum(report.seconds for report in snapshot.reports),
            checkpoint_bytes=None,
            checkpoint_seconds=None,
            accuracy=last.accuracy,
            best_round_accuracy=best.accuracy,
            zero_shot=zero_shot_accuracies(self._zero_shot_right, self.partition, self._zero_shot_transfer),
            server=snapshot.server,
            privates=snapshot.privates,
        )

    def _trained_parameters(self) -> int:
        return self._method.trained_parameters(self._prepared.world(self.config))

    def _check_enough(self, cohort: int, dropped: Mapping[int, str]) -> None:
        wanted = min(self.config.runtime.min_clients, cohort)
        if dropped and cohort - len(dropped) < wanted:
            why = "; ".join(f"client {client} {reason}" for client, reason in sorted(dropped.items()))
            raise FederationError(
                f"round {self.rounds_done + 1}: {cohort - len(dropped)} updates of {cohort}, "
                f"runtime.min_clients={wanted} ({why})"
            )

    def _client_reports(self, counts: PartitionCounts, evaluations: list[Evaluation]) -> list[ClientReport]:
        by_client = {evaluation.client: evaluation for evaluation in evaluations}
        return [
            self._client_report(client, counts, by_client.get(client, Evaluation(client, {})))
            for client in range(self.config.clients)
        ]

    def _client_report(self, client: int, counts: PartitionCounts, evaluation: Evaluation) -> ClientReport:
        num_train, num_val, num_test = counts.part_sizes[client]
        accuracy = client_accuracies(evaluation)
        return ClientReport(
            id=client,
            num_train=num_train,
            num_val=num_val,
            num_test=num_test,
            val_accuracy=accuracy.get(set_name(VAL, LOCAL)),
            test_accuracy=accuracy.get(set_name(TEST, LOCAL)),
            zero_shot_accuracy=float(self._zero_shot_right[self.partition.clients[client].test].mean()),
            label_counts=counts.label_counts[client],
            domain_counts=counts.domain_counts[client],
            described=evaluation.described,
            accuracy=accuracy,
            calibration=evaluation.calibration,
            held_out=client in self.partition.held_out,
        )


def _merged(some: Mapping[int, Evaluation], more: Mapping[int, Evaluation]) -> dict[int, Evaluation]:
    """Return the evaluations of ``some`` clients, with what ``more`` adds to them."""
    return {client: one.merged(more[client]) if client in more else one for client, one in some.items()}


def _loss_events(trained: Sequence[TrainReport]) -> list[Event]:
    """Return events for losses that are NaN or infinite; a round with one has no mean loss."""
    bad = sum(not math.isfinite(report.metrics.get("loss", 0.0)) for report in trained)
    return [Event("train", [], f"the loss of {bad} clients is not finite", "train_loss is null")] if bad else []
