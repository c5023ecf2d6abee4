"""The inputs of a trial, as they arrive in its process."""

from types import SimpleNamespace

from ray import cloudpickle

from promptfleet.federation.settings import federation_config
from promptfleet.search.objective import Objective
from promptfleet.search.stage import FEDERATION, FOLDER, NUMBER, PARAMS, SETTLED, Stage
from promptfleet.search.study import Proposal


def test_a_trial_has_its_configuration_as_a_value_which_is_validated_once(tmp_path):
    made = []

    def config(params):
        made.append(federation_config({"method": "fedprox", "storage": {"path": str(tmp_path)}, **params}))
        return made[-1]

    storage = federation_config({"storage": {"path": str(tmp_path)}}).storage
    stage = Stage(
        "trial",
        tmp_path / "sweeps" / "mine",
        SimpleNamespace(objective=Objective()),
        config,
        SimpleNamespace(),
        storage,
    )
    arrived = cloudpickle.loads(cloudpickle.dumps(stage.trial(Proposal(3, {"mu": 0.25}, 2))))
    assert len(made) == 1
    assert arrived[FEDERATION] == made[0]
    assert arrived[FEDERATION].fingerprint() == made[0].fingerprint()
    assert (type(arrived[FEDERATION]), arrived[FEDERATION].mu) == (type(made[0]), 0.25)
    assert (arrived[NUMBER], arrived[PARAMS], arrived[SETTLED]) == (3, {"mu": 0.25}, 2)
    assert (storage.folder / arrived[FOLDER]).parent.name == "trials"
