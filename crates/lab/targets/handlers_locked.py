"""A server with a thread for each connection: each reads a request and waits for a lock that a thread took which has
ended since. Nothing is ever answered, while new clients are taken at once."""

import socket
import threading

HUNG = 4
table = threading.Lock()
came = threading.Semaphore(0)
listener = socket.create_server(("127.0.0.1", 0), backlog=256)
print(f"listening {listener.getsockname()[1]}", flush=True)


def look_up():
    with table:
        return b"HTTP/1.1 204 No Content\r\n\r\n"


def handle(connection):
    while connection.recv(2048):
        came.release()
        connection.sendall(look_up())


def compact():
    table.acquire()


def tell():
    for _ in range(HUNG):
        came.acquire()
    print("ready", flush=True)


forgetful = threading.Thread(target=compact)
forgetful.start()
forgetful.join()
threading.Thread(target=tell).start()
while True:
    threading.Thread(target=handle, args=(listener.accept()[0],)).start()
