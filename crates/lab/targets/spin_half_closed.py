"""A loop that asks for EPOLLRDHUP and does not know what to do when it comes."""

import select
import socket

listener = socket.create_server(("127.0.0.1", 0))
print("listening", listener.getsockname()[1], flush=True)
poller = select.epoll()
poller.register(listener, select.EPOLLIN)
connections = {}
ready = False

while True:
    for fd, events in poller.poll():
        if fd == listener.fileno():
            connection, _ = listener.accept()
            connections[connection.fileno()] = connection
            poller.register(connection, select.EPOLLIN | select.EPOLLRDHUP)
        elif not events & select.EPOLLRDHUP:
            connections[fd].sendall(connections[fd].recv(512))
        elif not ready:
            ready = True
            print("ready", flush=True)
