"""A client whose TLS handshakes get no answer: it gives each the seconds of its first argument, and tries again."""

import socket
import ssl
import sys

seconds, port = float(sys.argv[1]), int(sys.argv[2])
context = ssl.create_default_context()
while True:
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            context.wrap_socket(connection, server_hostname="lab.test")
        except OSError as error:
            print(error, file=sys.stderr)
