"""Text from outside, such as names of classes and files, in output that gives some characters a meaning."""

_RAW_BYTES = range(0xDC80, 0xDD00)  # what ``os.fsdecode`` makes of the bytes of a name that is no UTF-8


def printable(text: str) -> str:
    r"""Return ``text`` for a terminal, a log or an error: on one line, and drawing nothing but itself.

    Terminal escapes, line breaks, marks that turn the direction of writing and bytes that are no UTF-8 become escapes
    such as ``\x1b``.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    return f"\\x{ord(char) - 0xDC00:02x}" if ord(char) in _RAW_BYTES else repr(char)[1:-1]
