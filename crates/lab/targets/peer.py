"""The other side of a target: `peer.py VERB [ARGUMENT...]`.

A server prints `listening PORT`. A client takes the port of the target as its last argument. Either prints `ready` when
it knows that the fault is there..
"""

import socket
import struct
import subprocess
import sys
import time

LOOPBACK = "127.0.0.1"
kept = []  # What is never closed.


def say(line):
    print(line, flush=True)


def connect(port, source=LOOPBACK):
    return socket.create_connection((LOOPBACK, port), timeout=30, source_address=(source, 0))


def reset(connection):
    """Closes with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def every(milliseconds, burst=0):
    """Yields at a steady rate, after a burst."""
    for _ in range(burst):
        yield
    due = time.monotonic()
    while True:
        yield
        due += milliseconds / 1000
        time.sleep(max(0, due - time.monotonic()))


def hold():
    while True:
        time.sleep(60)


def nft(rules):
    path = "/usr/sbin:/sbin:/usr/bin:/bin"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True, env={"PATH": path})


# Clients.


def half_close(port):
    """One request, then a FIN; the connection stays."""
    connection = connect(port)
    connection.sendall(b"hello")
    connection.recv(5, socket.MSG_WAITALL)
    connection.shutdown(socket.SHUT_WR)
    kept.append(connection)
    hold()


def reset_when_paused(port):
    """One request; once it is answered, RST."""
    connection = connect(port)
    connection.sendall(b"hello")
    connection.recv(6, socket.MSG_WAITALL)
    reset(connection)
    hold()


def stay(count, port):
    """So many connections, which stay. Those that are not accepted stay with the kernel."""
    for _ in range(int(count)):
        kept.append(connect(port))
    hold()


def come_and_go(burst, period_ms, port):
    """Connects, gets an answer, closes; a burst first, then at a rate."""
    for _ in every(int(period_ms), int(burst)):
        with connect(port) as connection:
            connection.sendall(b"hello")
            connection.recv(5, socket.MSG_WAITALL)


def come_and_stay(burst, period_ms, port):
    """Connects, gets an answer, keeps the connection; a burst first, then at a rate."""
    for _ in every(int(period_ms), int(burst)):
        connection = connect(port)
        connection.sendall(b"hello")
        connection.recv(5, socket.MSG_WAITALL)
        kept.append(connection)


def press(period_ms, port):
    """Connects at a rate whatever becomes of it, and gives up after two seconds."""
    for _ in every(int(period_ms)):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((LOOPBACK, port))
        kept.append(connection)
        if len(kept) > 2000 / int(period_ms):
            kept.pop(0).close()


def knock(sources, port):
    """Sends SYNs from so many addresses; the answers to them are dropped on their way."""
    nft(
        "add table inet overdue_lab\n"
        "add chain inet overdue_lab input { type filter hook input priority 0; policy accept; }\n"
        f"add rule inet overdue_lab input tcp sport {port} tcp flags & (syn|ack) == (syn|ack) drop\n"
    )
    for turn, _ in enumerate(every(100, burst=50)):
        if turn == 50:
            say("ready")
        source = turn % int(sources)
        connection = socket.socket()
        connection.setblocking(False)
        connection.bind((f"127.0.{source // 250}.{source % 250 + 1}", 0))
        connection.connect_ex((LOOPBACK, port))
        kept.append(connection)


VERBS = {
    function.__name__.replace("_", "-"): function
    for function in (half_close, reset_when_paused, stay, come_and_go, come_and_stay, press, knock)
}

if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    if arguments and arguments[-1].isdigit():
        arguments[-1] = int(arguments[-1])
    VERBS[verb](*arguments)
