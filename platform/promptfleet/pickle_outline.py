"""Outline of a pickle, drawn without building any of its values: a check before an unpickler runs.

A few bytes can cost an unpickler gigabytes or the whole process: an entry of its memory at index 2**31, tuples within
tuples (hashing them overflows the stack). Others cost the code that uses the value: lists that hold one list a thousand
times over, or themselves.
"""

import pickletools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

DEEPEST = 100  # values within values
MOST_BUILT = 10**6  # lists, tuples, arrays and so on
PER_BYTE = 10  # values within a value, those that it holds several times counted each time

_GROW = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")  # these change their first operand
_MEMOIZE = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_RECALL = ("GET", "BINGET", "LONG_BINGET")
_MARK = object()


@dataclass(eq=False, slots=True)
class _Built:
    """A value that holds others. Numbers and texts hold none and are None on the stack."""

    held: list["_Built"] = field(default_factory=list)
    plain: int = 0  # numbers and texts that it holds

    def add(self, values: Iterable["_Built | None"]) -> None:
        for value in values:
            if value is None:
                self.plain += 1
            else:
                self.held.append(value)


def check_pickle(file: BinaryIO, length: int) -> None:
    """Read one pickle of at most ``length`` bytes up to its end.

    Raises:
        ValueError: it is cut short or no pickle, or costs more than its length explains.
    """
    stack: list[Any] = []
    memo: dict[int, _Built | None] = {}
    built: list[_Built] = []
    for count, (name, argument, takes, gives) in enumerate(_operations(file)):
        if name == "STOP":
            _pop(stack, takes)
            break
        if name in _MEMOIZE:
            index = len(memo) if argument is None else argument
            if not 0 <= index <= count:
                raise ValueError(f"an entry {index} of its memory")
            memo[index] = _top(stack)
        elif name in _RECALL:
            if argument not in memo:
                raise ValueError(f"no entry {argument} in its memory")
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "POP" and stack:
            stack.pop()
        elif name == "DUP":
            stack.append(_top(stack))
        elif name in _GROW:
            target, *values = _pop(stack, takes)
            if not isinstance(target, _Built):
                raise ValueError("adds to a value that holds none")
            target.add(values)
            stack.append(target)
        else:
            values = _pop(stack, takes)
            if takes or name.startswith("EMPTY"):
                built.append(_Built())
                built[-1].add(values)
                stack += built[-1:] * len(gives)
            else:
                stack += [None] * len(gives)
        if len(built) > MOST_BUILT:
            raise ValueError(f"more than {MOST_BUILT} lists and other values that hold values")
    _measure(built, PER_BYTE * length)


def _operations(file: BinaryIO) -> Iterator[tuple[str, Any, list, list]]:
    """Yield each operation's name and argument, and the values that it takes from the stack and puts there."""
    while True:
        code = file.read(1)
        operation = pickletools.code2op.get(code.decode("latin1"))
        if operation is None:
            raise ValueError(f"no operation {code!r}" if code else "cut short")
        argument = None
        if operation.name == "STRING":
            file.readline()  # pickletools decodes it as ASCII, which strings of Python 2 need not be
        elif operation.arg is not None:
            argument = operation.arg.reader(file)
        yield operation.name, argument, operation.stack_before, operation.stack_after


def _top(stack: list[Any]) -> Any:
    if not stack or stack[-1] is _MARK:
        raise ValueError("nothing on its stack")
    return stack[-1]


def _pop(stack: list[Any], takes: list) -> list[Any]:
    """Return the operands of an operation, the lowest first; those after a mark come without it."""
    end = len(stack)
    if pickletools.markobject in takes:
        while end and stack[end - 1] is not _MARK:
            end -= 1
        above, below = stack[end:], takes.index(pickletools.markobject)
        end -= 1
    else:
        above, below = [], len(takes)
    operands = stack[max(end - below, 0) : max(end, 0)]
    if len(operands) < below or end < 0 or any(one is _MARK for one in operands):
        raise ValueError("nothing on its stack")
    del stack[end - below :]
    return operands + above


def _measure(built: Iterable[_Built], most: int) -> None:
    """Raise ValueError if a value holds itself, is nested too deeply or holds more than ``most`` values."""
    measured: dict[int, tuple[int, int]] = {}  # values and levels of those that are done
    around: set[int] = set()  # values that hold the present one
    todo = list(built)
    while todo:
        value = todo[-1]
        key = id(value)
        if key in measured:
            todo.pop()
        elif key not in around:
            around.add(key)
            held = [one for one in value.held if id(one) not in measured]
            if any(id(one) in around for one in held):
                raise ValueError("a value that holds itself")
            todo += held
        else:
            todo.pop()
            around.discard(key)
            inner = [measured[id(one)] for one in value.held]
            measured[key] = (
                1 + value.plain + sum(size for size, _ in inner),
                1 + max((deep for _, deep in inner), default=0),
            )
            size, levels = measured[key]
            if levels > DEEPEST:
                raise ValueError("nested too deeply")
            if size > most:
                raise ValueError("more values than its length explains")
