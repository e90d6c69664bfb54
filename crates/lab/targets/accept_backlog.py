"""A server with one worker, which takes 200 ms for each request, and a queue in which all others wait."""

import socket
import time

listener = socket.create_server(("127.0.0.1", 0), backlog=512)
print("listening", listener.getsockname()[1], flush=True)


def work():
    time.sleep(0.2)


while True:
    client, _ = listener.accept()
    with client:
        client.recv(2048)
        work()
        client.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
