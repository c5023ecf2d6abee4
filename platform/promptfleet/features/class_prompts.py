"""Class names as parts of prompts: they must fit the text tower, and should differ from each other."""

import logging
import unicodedata
from collections.abc import Sequence

from torch import Tensor

from promptfleet.clip.backbone import Backbone
from promptfleet.clip.prompt_layout import ClassTokens
from promptfleet.clip.tokens import class_texts, equal_classes
from promptfleet.data.dataset import Dataset
from promptfleet.errors import ConfigError, DataError
from promptfleet.escaping import printable
from promptfleet.methods.protocol import World

logger = logging.getLogger(__name__)

_MOST_SHOWN = 60  # characters of a text
_MOST_NAMED = 5  # groups of equal classes, and classes of a group


def tokenize_classes(backbone: Backbone, dataset: Dataset, template: str = "{}.") -> Tensor:
    """Return the token ids of the template filled with each class name, ``[classes, positions]``.

    Raises:
        DataError: if one has more tokens than the text tower has positions, of which CLIP would cut off the rest.
    """
    texts = class_texts(dataset.class_names, template)
    counts = [backbone.count_tokens(text) for text in texts]
    longest = counts.index(max(counts))
    if counts[longest] > backbone.tower.positions:
        name = dataset.class_names[longest]
        own = backbone.count_tokens(*class_texts([name], "{}")) - backbone.count_tokens("")
        room = backbone.tower.positions - (counts[longest] - own)
        raise DataError(
            f"{dataset.name}: class {name!r} is too long: its name has {own} tokens, and in a text such as "
            f"{template!r} the text tower of {backbone.name} has room for {room}; shorten it"
        )
    return backbone.tokenize(texts)


def tokenize_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Return the token ids of whole texts, ``[texts, positions]``.

    Raises:
        ConfigError: one has no token, or more than the text tower has positions; CLIP would cut off the rest.
    """
    for text in texts:
        count, positions = backbone.count_tokens(text), backbone.tower.positions
        if not 2 < count <= positions:
            shown = text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
            raise ConfigError(
                f"text {shown!r} has {count - 2} tokens, should have 1 to {positions - 2} for the text tower of "
                f"{backbone.name}{'; shorten it' if count > positions else ''}"
            )
    return backbone.tokenize(texts)


def check_prompt_fits(world: World) -> None:
    """Raise ConfigError if the text tower has no room for the context and the longest text of a class.

    Texts in a template are left to the method, since what is too long is then the template.
    """
    config, classes, positions = world.config, world.clip.classes, world.clip.tower.positions
    taken = 1 + int(classes.lengths.max())  # with the start of a text
    if classes.frame is None and config.prompt_length > positions - taken:
        raise ConfigError(
            f"prompt_length={config.prompt_length} does not fit: class {world.longest_class!r}, the longest of "
            f"{config.dataset}, takes {taken} of the {positions} positions of the text tower of "
            f"{config.backbone.label}, and leaves room for {positions - taken} tokens; lower prompt_length"
        )


def warn_of_equal_prompts(backbone: Backbone, dataset: Dataset, classes: ClassTokens) -> None:
    """Log the classes that no prompt can distinguish, since the tokens after the context are the same.

    One line names classes with the same tokens, such as ``Dog`` and ``dog``; another one classes whose tokens differ,
    but not for this backbone: glyph-clip has one embedding for all words that it does not know.
    """
    groups = equal_classes(classes)
    if not groups:
        return
    names = dataset.class_names
    same_tokens, same_embeddings = [], []
    for group in groups:
        ids = backbone.tokenize(class_texts([names[label] for label in group])).tolist()
        by_tokens: dict[tuple[int, ...], list[str]] = {}
        for label, row in zip(group, ids, strict=True):
            by_tokens.setdefault(tuple(row), []).append(names[label])
        same_tokens += [equal for equal in by_tokens.values() if len(equal) > 1]
        same_embeddings += [[first for first, *_ in by_tokens.values()]] if len(by_tokens) > 1 else []
    for why, groups_of_names in (
        ("CLIP cannot distinguish classes whose names are the same tokens", same_tokens),
        (f"{backbone.name} does not know the words that would distinguish classes", same_embeddings),
    ):
        if groups_of_names:
            described = [_some(_distinguishable(group), " and ") for group in groups_of_names]
            logger.warning("%s: %s: %s", dataset.name, why, _some(described, "; "))


def _distinguishable(names: Sequence[str]) -> list[str]:
    """Return the names in quotes; if some look the same, such as composed and decomposed letters, in ASCII."""
    shown = [f"'{printable(name)}'" for name in names]
    same = len({unicodedata.normalize("NFC", name) for name in shown}) < len(shown)
    return [ascii(name) for name in names] if same else shown


def _some(texts: Sequence[str], joint: str) -> str:
    more = [f"{len(texts) - _MOST_NAMED} more"] if len(texts) > _MOST_NAMED else []
    return joint.join([*texts[:_MOST_NAMED], *more])
