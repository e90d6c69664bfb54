"""Ten threads more each second wait for one lock; who holds it waits for a peer that does not answer."""

import socket
import sys
import threading
import time

lock = threading.Lock()


def reserve_stock():
    with lock:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=100) as warehouse:
            warehouse.sendall(b"GET /stock HTTP/1.1\r\nhost: lab\r\n\r\n")
            warehouse.recv(2048)


threading.stack_size(256 * 1024)
for turn in range(10**9):
    threading.Thread(target=reserve_stock, daemon=True).start()
    if turn == 20:
        print("ready", flush=True)
    time.sleep(0.1)
