"""A healthy worker: it takes jobs off a queue in the protocol of Redis, by a pop that waits. It has done a few; no more
come, so that each pop waits for two seconds and is answered that there is none."""

import socket
import sys

connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def command(*words):
    text = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
    connection.sendall(text)
    return connection.recv(4096)


for job in range(20):
    command(b"SET", b"job:%d" % job, b"done")
print("ready", flush=True)
while True:
    command(b"BRPOP", b"jobs", b"2")
