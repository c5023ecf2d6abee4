import open_clip
import torch

from promptfleet.clip.tokens import class_texts, embed_classes
from tests.fakes import VOCABULARY, tiny_token_ids, tiny_tower


def test_template_and_underscores():
    assert class_texts(["golden_retriever", "cat"]) == ["golden retriever.", "cat."]
    assert class_texts(["ice_cream"], "a photo of {}, a type of food.") == ["a photo of ice cream, a type of food."]


def test_braces_in_a_name_are_left_alone():
    assert class_texts(["{x}"]) == ["{x}."]


def test_suffixes_end_at_the_longest_end_of_text():
    tower = tiny_tower()
    ids = tiny_token_ids((1, 3))
    classes = embed_classes(tower, ids)
    table = tower.weights["token_embedding.weight"]
    assert len(classes) == 2
    assert classes.lengths.tolist() == [3, 5]  # name, full stop, EOT
    assert classes.suffix.shape == (2, 5, tower.width)
    assert torch.equal(classes.start, table[VOCABULARY - 2])
    assert torch.equal(classes.suffix[0, 2], table[VOCABULARY - 1])
    assert torch.equal(classes.suffix[1], table[ids[1, 1:6]])


def test_start_is_a_copy_not_a_view_of_the_table():
    tower = tiny_tower()
    classes = embed_classes(tower, tiny_token_ids())
    table = tower.weights["token_embedding.weight"]
    assert classes.start.untyped_storage().nbytes() == 4 * tower.width
    assert classes.suffix.untyped_storage().data_ptr() != table.untyped_storage().data_ptr()


def test_ids_of_a_name_do_not_depend_on_what_stands_before_it():
    names = ["golden_retriever", "7", "sharp-shinned hawk", "it's"]
    alone = open_clip.tokenize(class_texts(names))
    behind = open_clip.tokenize(class_texts(names, "one two three {}."))
    for short, long in zip(alone, behind, strict=True):
        end = int(short.argmax())
        assert long[4 : 4 + end].tolist() == short[1 : 1 + end].tolist()
