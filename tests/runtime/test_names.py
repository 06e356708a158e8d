"""A host has a name for people, which its replicas' ids begin with."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftvm.arbiters.memory import MemoryRecordStore
from ftvm.errors import ConfigError
from ftvm.runtime.names import NODE_CHARS_MAX, check_node, for_people, fresh_id, machine_name, node_of
from ftvm.runtime.protection import protect
from ftvm.sim.guest import SimGuest

NAMES = st.from_regex(rf"[A-Za-z0-9._-]{{1,{NODE_CHARS_MAX}}}", fullmatch=True)


@given(name=NAMES, text=st.text(alphabet="abc: ,#0f("))
def test_a_text_for_people_has_the_name_in_the_place_of_the_id(name: str, text: str) -> None:
    check_node(name)
    replica = fresh_id(name)

    assert len(replica) <= 64
    assert node_of(replica) == name
    assert for_people(f"{text} {replica}: gone") == f"{for_people(text)} {name}: gone"


def test_an_id_of_the_first_release_stays_as_it_is() -> None:
    assert node_of("0123456789abcdef") == "0123456789abcdef"
    assert for_people("active 0123456789abcdef") == "active 0123456789abcdef"


@pytest.mark.parametrize("name", ["", "a b", "a#b", "ä", "x" * (NODE_CHARS_MAX + 1), "a\n"])
def test_what_cannot_be_a_name_is_refused_with_what_can(name: str) -> None:
    with pytest.raises(ConfigError, match="write 1 to 32 letters, digits"):
        check_node(name)


def test_the_machines_name_can_be_a_nodes() -> None:
    check_node(machine_name())


def test_the_record_names_the_node() -> None:
    store = MemoryRecordStore()

    with protect(
        SimGuest(page_count=4, pages_per_step=1, output_every=10, boots=True),
        listen="tcp://127.0.0.1:0",
        arbiter=store,
        create=True,
        node="host-a",
    ):
        record = store.read("guest")

    assert re.fullmatch(r"host-a#[0-9a-f]{16}", record.active or "")
