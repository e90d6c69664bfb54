"""A healthy client: its pool grows to forty connections within ten seconds, the last two of which are seen, and no
further. That is no leak."""

import resource
import socket
import sys
import time

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
pool = []


def grow():
    connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    pool.append(connection)


def call(connection):
    connection.sendall(b"GET /price HTTP/1.1\r\nhost: lab\r\n\r\n")
    connection.recv(2048)


for turn in range(10**9):
    if len(pool) < 40:
        grow()
    call(pool[turn % len(pool)])
    if turn == 32:
        print("ready", flush=True)
    time.sleep(0.25)
