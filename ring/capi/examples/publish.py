"""Publishes into a running fanwire through shared memory: python publish.py SOCKET CHANNEL COUNT"""

import json
import sys

from fanwire_ring import Publisher

socket, channel, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Publisher(socket) as publisher:
    for number in range(count):
        publisher.publish(channel, "tick", json.dumps({"from": "python", "number": number}), timeout=10)
    publisher.flush(timeout=10)
print(f"published {count} messages")
