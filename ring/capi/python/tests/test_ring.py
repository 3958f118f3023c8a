"""Does the ring do in Python what it promises: order, back-pressure, waiting, other processes?"""

import gc
import multiprocessing
import select
import threading

import pytest

from fanwire_ring import Full, Listener, Missed, Ring, RingError


def test_records_arrive_in_order_with_their_tags_and_a_full_ring_says_so():
    ring = Ring(4096, 1)
    reader, writer = ring.reader(), ring.writer()
    written = 0
    with pytest.raises(Full):
        while True:
            writer.write(b"%d" % written, tag=written)
            written += 1
    assert written > 50
    found = reader.read(records_max=1000)
    assert [(record.tag, record.payload) for record in found] == [(n, b"%d" % n) for n in range(written)]
    assert writer.write(bytearray(b"more")) > found[-1].position
    assert [record.payload for record in reader.read()] == [b"more"]
    assert reader.read() == []


def test_a_batch_stops_at_what_does_not_fit():
    ring = Ring(4096, 1)
    reader, writer = ring.reader(), ring.writer()
    written = writer.write_batch([b"x" * 500] * 100)
    assert 4 <= written <= 8
    assert len(reader.read()) == written
    with pytest.raises(RingError, match="larger"):
        writer.write(b"x" * 513)
    assert ring.info().record_bytes_max == 512


def test_a_reader_sleeps_until_another_thread_writes():
    ring = Ring(1 << 16, 2)
    reader, writer = ring.reader(), ring.writer()
    assert reader.wait(timeout=0.01) == []
    found = []

    def receive():
        while len(found) < 1000:
            found.extend(reader.wait(timeout=30))

    thread = threading.Thread(target=receive)
    thread.start()
    numbers = [b"%d" % number for number in range(1000)]
    while numbers:
        numbers = numbers[writer.write_batch(numbers[:7]):]
    thread.join()
    assert [record.payload for record in found] == [b"%d" % number for number in range(1000)]


def test_who_is_put_out_learns_it_and_an_observer_counts_what_it_missed():
    ring = Ring(4096, 1)
    reader, writer, observer = ring.reader(), ring.writer(), ring.observer()
    bookmark = observer.bookmark
    assert ring.put_out(reader.index)
    for number in range(100):
        writer.write(b"x" * 400, tag=number)
    with pytest.raises(Missed):
        reader.read()
    seen = []
    while record := observer.next():
        seen.append(record.tag)
    assert observer.missed + len(seen) == 100
    assert seen == list(range(100 - len(seen), 100))
    late = ring.observer("at", *bookmark)
    while late.next():
        pass
    assert late.missed == observer.missed


def _publish(socket_path):
    writer = Ring.connect(socket_path).writer()
    numbers = [b"%d" % number for number in range(5000)]
    while numbers:
        numbers = numbers[writer.write_batch(numbers[:32]):]


def test_another_process_publishes(tmp_path):
    ring = Ring.memfd(1 << 16, 2)
    reader = ring.reader()
    listener = Listener(tmp_path / "ring.socket")
    assert not listener.serve(ring)
    process = multiprocessing.get_context("spawn").Process(target=_publish, args=(str(tmp_path / "ring.socket"),))
    process.start()
    assert select.select([listener], [], [], 30)[0]
    assert listener.serve(ring)
    found = []
    while len(found) < 5000:
        found += reader.wait(timeout=30)
    process.join()
    assert process.exitcode == 0
    assert [record.payload for record in found] == [b"%d" % number for number in range(5000)]


def test_names_and_errors():
    name = "fanwire-ring-python-test"
    with Ring.create(name, 4096, 1) as ring:
        try:
            with pytest.raises(RingError):
                Ring.create(name, 4096, 1)
            reader = ring.reader()
            Ring.open(name).writer().write(b"hello")
            assert [record.payload for record in reader.read()] == [b"hello"]
            seen = Ring.observe(name).observer("oldest").next()
            assert seen is None or seen.payload == b"hello"
        finally:
            Ring.unlink(name)
    with pytest.raises(RingError, match="open"):
        Ring.open(name)
    for wrong in [(5, 1), (4096, 0)]:
        with pytest.raises(RingError):
            Ring(*wrong)
    gc.collect()
