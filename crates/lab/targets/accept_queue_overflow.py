"""A server with one thread, which waits for the request of a client that sends none. Nobody else is accepted."""

import socket

listener = socket.create_server(("127.0.0.1", 0), backlog=8)
print("listening", listener.getsockname()[1], flush=True)


def read_request(connection):
    return connection.recv(2048)


while True:
    client, _ = listener.accept()
    request = read_request(client)
    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    client.close()
