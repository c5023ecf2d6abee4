import itertools

from promptfleet.seeding import stream


def numbers(*arguments, **keywords):
    return tuple(stream(*arguments, **keywords).integers(0, 2**62, 3).tolist())


def test_same_name_same_numbers():
    assert numbers(1, "batches", client=2, round_index=3) == numbers(1, "batches", client=2, round_index=3)


def test_every_part_of_the_name_gives_a_stream_of_its_own():
    indices = (None, 0, 1, 2)
    streams = {
        numbers(seed, role, client=client, round_index=round_index)
        for seed, role, client, round_index in itertools.product((0, 1), ("cohort", "partition"), indices, indices)
    }
    assert len(streams) == 2 * 2 * 4 * 4


def test_drawing_from_one_leaves_the_other_as_it_was():
    first, second = stream(0, "a"), stream(0, "b")
    first.random(1000)
    assert tuple(second.integers(0, 2**62, 3).tolist()) == numbers(0, "b")


def test_numbers_are_the_same_on_every_machine_and_in_every_release():
    # Results on disk depend on these: they were drawn once and must never change.
    assert int(stream(0, "cohort", round_index=1).integers(0, 10**9)) == 150_042_879
    assert int(stream(7, "local_update", client=3, round_index=2).integers(0, 10**9)) == 581_328_285


def test_large_seeds_are_not_cut_off():
    assert numbers(2**64, "a") != numbers(0, "a")
