"""The other side of a target: `peer.py VERB [ARGUMENT...]`.

A server prints `listening PORT`. A client takes the port of the target as its last argument. Either prints `ready` when
it knows that the fault is there..
"""

import fcntl
import socket
import ssl
import struct
import subprocess
import sys
import termios
import threading
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


REQUEST = b"GET / HTTP/1.1\r\nhost: lab\r\n\r\n"
SYN_SENT = 2


def state(connection):
    """The first byte of TCP_INFO."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def head_of(connection):
    """Reads a request to the end of its head."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096) or exit_thread()
    return head


def exit_thread():
    raise SystemExit


def serve(handle, listener=None):
    """Tells the port and handles each connection in a thread."""
    listener = listener or socket.create_server((LOOPBACK, 0), backlog=256)
    say(f"listening {listener.getsockname()[1]}")
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=handle, args=(connection,), daemon=True).start()


class Once:
    """Says `ready` at the first of many occasions."""

    def __init__(self, after=1):
        self.left = after
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            self.left -= 1
            if self.left == 0:
                say("ready")


ready = Once()


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
    patience = 2000 // int(period_ms)
    for _ in every(int(period_ms)):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((LOOPBACK, port))
        kept.append(connection)
        if len(kept) > patience:
            oldest = kept.pop(0)
            if state(oldest) == SYN_SENT:
                ready()
            oldest.close()


def queue_up(clients, port):
    """So many clients, each with one request after another, and a connection for each."""

    def client():
        while True:
            with connect(port) as connection:
                connection.sendall(REQUEST)
                connection.recv(4096)

    for _ in range(int(clients)):
        threading.Thread(target=client, daemon=True).start()
    ready()
    hold()


def stay_and_press(period_ms, port):
    """A client who is accepted and says nothing, and others after it."""
    first = connect(port)
    press(period_ms, port)
    first.close()


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


def load(connections, period_ms, port):
    """So many clients, each with a request on its one connection at a rate."""

    def client():
        connection = connect(port)
        for _ in every(int(period_ms)):
            connection.sendall(REQUEST)
            if not connection.recv(4096):
                return

    for _ in range(int(connections)):
        threading.Thread(target=client).start()


def churn(period_ms, port):
    """Connects and resets at a rate, with a request now and then."""
    for turn, _ in enumerate(every(int(period_ms), burst=20)):
        connection = connect(port)
        if turn % 10 == 0:
            connection.sendall(REQUEST)
        reset(connection)
        if turn == 100:
            say("ready")


def distrust(period_ms, port):
    """TLS handshakes at a rate, from three addresses, with a client that trusts nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for turn, _ in enumerate(every(int(period_ms))):
        with connect(port, f"127.0.0.{turn % 3 + 2}") as connection:
            try:
                context.wrap_socket(connection, server_hostname="lab.test")
            except ssl.SSLError:
                pass


def call_with(header, port):
    """Calls in turn, by two clients, with a header that gives a deadline; waits for the answer however late it is."""
    request = REQUEST[:-2] + header.replace(":", ": ", 1).encode() + b"\r\n\r\n"

    def client():
        connection = connect(port)
        while True:
            connection.sendall(request)
            if not connection.recv(4096):
                return

    for _ in range(2):
        threading.Thread(target=client).start()


# Servers.


def silent():
    """Reads everything and answers nothing."""

    def handle(connection):
        while connection.recv(4096):
            ready()

    serve(handle)


def broker():
    """Takes a subscription and has no news."""

    def handle(connection):
        connection.recv(4096)
        connection.sendall(b"subscribed\n")
        hold()

    serve(handle)


def answer(after_ms):
    """Answers each request after a while."""

    def handle(connection):
        while head_of(connection):
            time.sleep(int(after_ms) / 1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello\n")

    serve(handle)


def jobs():
    """Speaks as Redis does: a pop that waits finds nothing for two seconds, all else is answered at once."""

    def handle(connection):
        while words := connection.recv(4096):
            waits = b"BRPOP" in words
            time.sleep(2 if waits else 0)
            connection.sendall(b"*-1\r\n" if waits else b"+OK\r\n")

    serve(handle)


def half_body():
    """Announces a body and sends the half of it."""

    def handle(connection):
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n" + bytes(10000))
        ready()
        hold()

    serve(handle)


def flood():
    """Sends a body without end, as fast as it is taken; ready when nothing is taken any more."""

    def handle(connection):
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.settimeout(0.5)
        while True:
            try:
                connection.sendall(bytes(65536))
            except TimeoutError:
                ready()

    serve(handle)


def never_read():
    """Reads nothing; ready when the same is unread for a while, so that its window is closed."""

    def handle(connection):
        before, unread = -1, 0
        while unread == 0 or unread != before:
            before = unread
            time.sleep(0.3)
            unread = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))[0]
        ready()
        kept.append(connection)
        hold()

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    listener.bind((LOOPBACK, 0))
    listener.listen(16)
    serve(handle, listener)


def reset_each():
    """Takes a request and resets the connection."""

    def handle(connection):
        head_of(connection)
        reset(connection)

    serve(handle)


def accept_all():
    """Keeps every connection."""

    def handle(connection):
        kept.append(connection)
        connection.recv(1)

    serve(handle)


def few_ports(count):
    """The same, where only so many ports are left for connections to it."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as ports:
        ports.write(f"40000 {40000 + int(count) - 1}")
    listener = socket.create_server((LOOPBACK, 4000), backlog=256)

    def handle(connection):
        kept.append(connection)
        connection.recv(1)

    serve(handle, listener)


def full_backlog():
    """Accepts nothing; its queue is full of connections of its own."""
    listener = socket.create_server((LOOPBACK, 0), backlog=1)
    while True:
        try:
            kept.append(socket.create_connection(listener.getsockname(), timeout=0.3))
        except TimeoutError:
            break
    say(f"listening {listener.getsockname()[1]}")
    hold()


def refuse():
    """Has a port and does not listen."""
    port = socket.socket()
    port.bind((LOOPBACK, 0))
    say(f"listening {port.getsockname()[1]}")
    hold()


def drop_syn():
    """A host behind a packet filter."""
    nft(
        "add table inet overdue_lab\n"
        "add chain inet overdue_lab input { type filter hook input priority 0; policy accept; }\n"
        "add rule inet overdue_lab input tcp dport 4000 drop\n"
    )
    say("listening 4000")
    hold()


def name_server():
    """The port where every program of the namespace looks for its name server."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((LOOPBACK, 53))
    say("listening 53")
    return server


def dns_silent():
    """A name server that never answers."""
    server = name_server()
    while True:
        server.recvfrom(512)
        ready()


def dns_answer(after_ms):
    """A name server that takes a while; every name has the address 127.0.0.1."""
    server = name_server()

    def reply(query, caller):
        time.sleep(int(after_ms) / 1000)
        end = query.index(b"\0", 12) + 5  # The question: a name, a type and a class.
        is_a = query[end - 4 : end - 2] == b"\0\1"
        head = query[:2] + struct.pack("!5H", 0x8180, 1, is_a, 0, 0)
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
        server.sendto(head + query[12:end] + record, caller)

    while True:
        query, caller = server.recvfrom(512)
        threading.Thread(target=reply, args=(query, caller), daemon=True).start()


CLIENTS = (
    half_close,
    reset_when_paused,
    stay,
    come_and_go,
    come_and_stay,
    press,
    queue_up,
    stay_and_press,
    knock,
    load,
    churn,
    distrust,
    call_with,
)
SERVERS = (
    silent,
    broker,
    answer,
    jobs,
    half_body,
    flood,
    never_read,
    reset_each,
    accept_all,
    few_ports,
    full_backlog,
    refuse,
    drop_syn,
    dns_silent,
    dns_answer,
)

if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    function = next(it for it in CLIENTS + SERVERS if it.__name__ == verb.replace("-", "_"))
    if function in CLIENTS:
        arguments[-1] = int(arguments[-1])
    function(*arguments)
