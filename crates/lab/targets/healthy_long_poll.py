"""A healthy client: it asks for news again and again over one connection, and each answer comes when there are some,
three seconds later. It waits with a limit."""

import http.client
import socket
import sys

connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
connection.connect()
connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
for turn in range(10**9):
    connection.request("GET", "/news?after=%d" % turn)
    connection.getresponse().read()
    if turn == 0:
        print("ready", flush=True)
