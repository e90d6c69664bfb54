"""A healthy server of long polls: a thread for each client waits for news, for half a minute at most. None come."""

import socket
import threading

CLIENTS = 4
news = threading.Condition()
asked = threading.Semaphore(0)
listener = socket.create_server(("127.0.0.1", 0), backlog=256)
print(f"listening {listener.getsockname()[1]}", flush=True)


def handle(connection):
    while connection.recv(2048):
        asked.release()
        with news:
            news.wait(timeout=29)
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


for _ in range(CLIENTS):
    threading.Thread(target=handle, args=(listener.accept()[0],)).start()
for _ in range(CLIENTS):
    asked.acquire()
print("ready", flush=True)
threading.Event().wait()
