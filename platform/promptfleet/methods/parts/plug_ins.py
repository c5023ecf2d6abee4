"""Helpers of plug-ins: mixins over a prompt method that change its seams (see ``prompt_method``)."""

from collections.abc import Generator, Sequence

from promptfleet.methods.parts.optimizers import Optimizer
from promptfleet.methods.protocol import Backward, ResultT, Work


def finished(begun: ResultT | Work[ResultT]) -> Work[ResultT]:
    """Return the result of a function that may be work, as in ``yield from finished(super().personalize(task))``.

    A plug-in cannot know whether the method below it returns a result or work for one.
    """
    return (yield from begun) if isinstance(begun, Generator) else begun


def also_stepping(begun: ResultT | Work[ResultT], optimizers: Sequence[Optimizer]) -> Work[ResultT]:
    """Do the work of the method below, and step ``optimizers`` too after each of its gradients; return its result.

    For a plug-in's own parameters, on which the method's loss depends through a seam.
    """
    if not isinstance(begun, Generator):
        return begun
    answer = None
    while True:
        try:
            asked = begun.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield asked
        if isinstance(asked, Backward):
            for optimizer in optimizers:
                optimizer.step()
