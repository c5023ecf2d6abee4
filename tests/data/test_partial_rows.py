import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptfleet.data.partial_rows import PartialRows
from promptfleet.errors import DataError

ROWS = np.random.default_rng(0).random((10, 2, 3), dtype=np.float32)
PARTS = [range(4), range(4, 8), range(8, 10)]


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(PARTS), reopened_after=st.integers(0, 3))
def test_parts_in_any_order_and_over_a_restart(tmp_path_factory, order, reopened_after):
    folder = tmp_path_factory.mktemp("rows") / "x"
    rows = PartialRows(folder, 10, "float32")
    for count, part in enumerate(order):
        if count == reopened_after:
            rows = PartialRows(folder, 10, "float32")
        assert [rows.has(one) for one in order] == [index < count for index in range(3)]
        rows.put(part, ROWS[part.start : part.stop])
    np.testing.assert_array_equal(rows.array(), ROWS)


def test_a_part_that_changed_or_was_torn_counts_as_missing(tmp_path):
    rows = PartialRows(tmp_path, 10, "float16")
    for part in PARTS:
        rows.put(part, ROWS[part.start : part.stop])
    journal = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(journal[:-5])
    content = bytearray((tmp_path / "rows").read_bytes())
    content[5 * 12] ^= 1
    (tmp_path / "rows").write_bytes(content)
    again = PartialRows(tmp_path, 10, "float16")
    assert [again.has(part) for part in PARTS] == [True, False, False]
    with pytest.raises(DataError, match="4 of 10 rows are there"):
        again.array()
    for part in PARTS[1:]:
        again.put(part, ROWS[part.start : part.stop])
    np.testing.assert_array_equal(PartialRows(tmp_path, 10, "float16").array(), ROWS.astype(np.float16))


@pytest.mark.parametrize(("value", "dtype"), [(np.nan, "float32"), (1e6, "float16")])
def test_what_is_not_finite_is_refused(tmp_path, value, dtype):
    rows = PartialRows(tmp_path, 10, dtype)
    with pytest.raises(DataError, match=rf"features of images 4\.\.7 have a NaN or Inf as {dtype}"):
        rows.put(PARTS[1], np.full((4, 2), value, np.float32))
    assert not rows.has(PARTS[1])


def test_rows_of_another_length_are_no_part(tmp_path):
    PartialRows(tmp_path, 10, "float32").put(PARTS[0], ROWS[:4])
    assert not PartialRows(tmp_path, 10, "float16").has(PARTS[0])
    PartialRows(tmp_path, 10, "float32").delete()
    assert not tmp_path.exists()
