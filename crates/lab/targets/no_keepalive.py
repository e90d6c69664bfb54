"""A server with idle clients, neither keepalive nor a timer: should a client's host vanish, its socket stays for ever."""

import selectors
import socket

listener = socket.create_server(("127.0.0.1", 0))
print("listening", listener.getsockname()[1], flush=True)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
clients = set()

while True:
    for key, _ in selector.select():
        if key.fileobj is listener:
            client, _ = listener.accept()
            clients.add(client)
            selector.register(client, selectors.EVENT_READ)
            if len(clients) == 20:
                print("ready", flush=True)
        elif data := key.fileobj.recv(512):
            key.fileobj.sendall(data)
        else:
            selector.unregister(key.fileobj)
            clients.discard(key.fileobj)
            key.fileobj.close()
