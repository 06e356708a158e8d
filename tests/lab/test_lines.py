import os

from ftvm.lab.lines import Orders, object_in


def test_only_json_objects_are_for_programs() -> None:
    lines = [b'{"a": 1}', b"[1]", b'"{"', b"{no", b"Traceback"]

    assert [object_in(line) for line in lines] == [{"a": 1}, None, None, None, None]


def test_orders_come_whole_in_order_and_are_over_when_nobody_gives_them() -> None:
    read, write = os.pipe()
    orders = Orders(read)

    before = orders.take()
    os.write(write, b'{"cut": true}\n{"re')
    first = orders.take()
    os.write(write, b'set": true}\n')
    second = orders.take()
    os.close(write)
    last = orders.take()

    assert (before, first, second, last) == ([], [{"cut": True}], [{"reset": True}], [])
    assert orders.is_over
    os.close(read)
