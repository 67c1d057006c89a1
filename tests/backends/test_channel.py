import os
import socket
import threading

from fpvec_audit.backends.channel import Channel


def pair():
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


def test_values_arrive_in_order_whatever_their_size():
    here, there = pair()
    values = [{"small": 1}, {"prompts": [list(range(50_000))], "text": "漢字\n"}, None, 3]
    sender = threading.Thread(target=lambda: [here.send(value) for value in values])
    sender.start()
    assert [there.receive() for _ in values] == values
    sender.join()
    here.close()
    assert there.receive() is None
    there.close()


def test_descriptors_arrive_with_their_value(tmp_path):
    here, there = pair()
    with (tmp_path / "log").open("wb") as file:
        here.send({"request": 1}, [file.fileno()])
    value, (descriptor,) = there.receive_with_descriptors()
    os.write(descriptor, b"written through the copy")
    os.close(descriptor)
    assert value == {"request": 1}
    assert (tmp_path / "log").read_text() == "written through the copy"
    here.close()
    there.close()
