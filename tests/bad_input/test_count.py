"""How much bad input the tests of this folder feed."""

from tests.bad_input import (  # noqa: F401 - each promises its inputs when it is imported
    test_addresses,
    test_audio,
    test_containers,
    test_copies,
    test_files,
    test_folders,
    test_images,
    test_records,
    test_suites,
    test_users,
)
from tests.bad_input.feed import PROMISED

# Names, links, copies, containers, addresses and identities.
PEOPLE_HAVE = ("addresses", "containers", "copies", "folders", "users")


def test_two_thousand_bad_inputs_or_more_are_fed_in_every_run():
    """Each test fails where it feeds fewer than it promises."""
    assert sum(PROMISED.values()) >= 2_000


def test_a_thousand_inputs_or_more_are_what_people_have_on_their_disks():
    kinds = tuple(f"tests.bad_input.test_{kind}." for kind in PEOPLE_HAVE)
    assert sum(n for test, n in PROMISED.items() if test.startswith(kinds)) >= 1_000
