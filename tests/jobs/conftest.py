"""Jobs that were killed: what is left of their Ray ends by itself, but late."""

import pytest


@pytest.fixture(scope="session")
def ends_by_itself():
    """``ends_by_itself(job)``: before the test run is over, none of the job's processes may be left.

    Ray's agents notice the death of their session after more than a minute; nobody waits for that meanwhile.
    """
    jobs = []
    yield jobs.append
    for job in jobs:
        job.wait_until_gone(180)
