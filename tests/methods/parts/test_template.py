"""The language of templates: what a line means, and what is refused with its place."""

import pytest

from promptfleet.methods.parts.template import Soft, Template, parse_template


def test_slots_and_hard_text_become_pieces_around_the_class():
    template = parse_template("{soft:4} a photo of {class}, {hard: a kind of} {soft:2 two words}")
    assert template == Template((Soft(0, 4),), "a photo of {class}, a kind of", (Soft(4, 2, "two words"),))
    assert template.vectors == 6
    assert template.filled("a cat") == "a photo of a cat, a kind of"


def test_hard_text_between_soft_slots_is_a_piece():
    template = parse_template("on {soft:1} and {soft:2}{ class }{soft:1} .")
    assert template == Template(("on", Soft(0, 1), "and", Soft(1, 2)), "{class}", (Soft(3, 1), "."))


def test_a_name_puts_the_same_vectors_in_another_place():
    template = parse_template("{soft@x:2} {soft:1} {class} {soft@x}")
    assert template.before == (Soft(0, 2), Soft(2, 1))
    assert template.after == (Soft(0, 2),)
    assert template.vectors == 3


def test_a_slot_without_a_number_takes_the_whole_context_and_hard_text_alone_none():
    assert parse_template("{soft} {class}.") == Template((Soft(0, None),), "{class}.", ())
    assert parse_template("{soft} {class}.").vectors is None
    assert parse_template("a photo of a {class}.").vectors == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo of a", r"there is no \{class\}, the place of the class's name"),
        ("{class} or {class}", r"character 12: a second \{class\}; a template has one"),
        ("{soft:3 {class}", r"character 1: \{ is opened and not closed"),
        ("a } {class}", r"character 3: \} is closed and not opened"),
        ("a {sofft:2} {class}", r"character 3: unknown slot \{sofft:2\}; did you mean 'soft'; slots are \{class\}, "),
        ("{mask} {class}", r"character 1: unknown slot \{mask\}; did you mean 'class'; slots are|slot \{mask\}; slots"),
        ('{"meta":"class"}.', r"character 1: unknown slot"),
        ("{soft: two words} {class}", r"unknown slot \{soft: two words\}; a soft slot is written in another way; slot"),
        ("{soft} {soft:2} {class}", r"\{soft\} takes all vectors of a context; give each soft slot its number"),
        ("{soft:0} {class}", r"character 1: \{soft:0\} has no vector; leave it out"),
        ("{soft@x} {class}", r"character 1: \{soft@x\} is the first of its name; give its number: \{soft@x:4\}"),
        ("{soft@x:2} {soft@x:3} {class}", r"character 12: \{soft@x:3\} differs from the first \{soft@x\}; write"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=message):
        parse_template(text)
