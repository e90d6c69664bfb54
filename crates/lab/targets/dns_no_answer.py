"""A program that looks up a name. The only name server never answers."""

import socket

while True:
    try:
        socket.getaddrinfo("db.lab.test", 5432)
    except socket.gaierror:
        pass
