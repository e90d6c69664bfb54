"""A client that tries again and again; each connection is reset before an answer comes."""

import socket
import sys
import time

resets = 0
while True:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=10) as connection:
            connection.sendall(b"GET /price HTTP/1.1\r\nhost: lab\r\n\r\n")
            connection.recv(2048)
    except ConnectionResetError:
        resets += 1
        if resets == 3:
            print("ready", flush=True)
    time.sleep(0.05)
