"""A client that opens a connection for each of its four calls a second and closes none, under a limit of 256."""

import resource
import socket
import sys
import time

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
port = int(sys.argv[1])
history = []


def fetch_price():
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(b"GET /price HTTP/1.1\r\nhost: lab\r\n\r\n")
    history.append((connection, connection.recv(2048)))


for turn in range(10**9):
    try:
        fetch_price()
    except OSError as error:
        print(error, file=sys.stderr)
    if turn == 4:
        print("ready", flush=True)
    time.sleep(0.25)
