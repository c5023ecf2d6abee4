"""pFedMoAP on the GPU, in float32, against the published implementation's numbers."""

import pytest

from tests.golden_pfedmoap import check_forward, check_trajectory
from tests.parity import load_golden

pytestmark = pytest.mark.gpu


def test_logits_loss_and_gradients(device):
    check_forward(load_golden("forward"), device)


def test_whole_trajectory_through_client_and_server(device):
    check_trajectory(load_golden("trajectory"), device)
