"""Tracebacks of methods: where, and only what their author wrote."""

import traceback

import pytest

from promptfleet.federation.traces import own_trace, raised_at
from promptfleet.seeding import stream

RAYS = """\
\x1b[36mray::ClientActor.train()\x1b[39m (pid=3543, ip=192.0.2.2)
           ^^^^^^^^^^^^^^^^^^^^^
           ~~~~^^^^^
  File "/home/me/my methods/mine.py", line 6, in local_update
    return self.deep({"a": 1})
           ^^^^^^^^^^^^^^^^^^^
  File "/opt/site-packages/torch/x.py", line 11, in deep
    raise ValueError("no b") from e
ValueError: no b
second line"""


def test_of_rays_text_neither_colours_nor_marks_are_left():
    assert own_trace(RAYS).splitlines() == [
        "ray::ClientActor.train() (pid=3543, ip=192.0.2.2)",
        '  File "/home/me/my methods/mine.py", line 6, in local_update',
        '    return self.deep({"a": 1})',
        "ValueError: no b",
        "second line",
    ]
    assert str(raised_at(RAYS)) == "mine.py:6"


def test_frames_of_the_package_and_of_python_are_left_out_where_there_are_others():
    try:
        stream("no seed", "init_client")
    except Exception:
        trace = traceback.format_exc()
    assert own_trace(trace).count("  File ") == 1
    assert f'File "{__file__}"' in own_trace(trace)
    assert str(raised_at(trace)).startswith("test_traces.py:")


def test_where_all_frames_are_the_packages_all_are_shown():
    trace = RAYS.replace("/home/me/my methods", "/opt/site-packages/promptfleet")
    assert own_trace(trace).count("  File ") == 2
    assert str(raised_at(trace)) == "x.py:11"


@pytest.mark.parametrize("trace", ["", "ValueError: x", "^^^^"])
def test_text_without_frames_is_nowhere(trace):
    assert raised_at(trace) is None
