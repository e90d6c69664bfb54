"""A client whose TLS handshakes get no answer: it gives each 2.5 seconds, and tries again."""

import socket
import ssl
import sys

context = ssl.create_default_context()
while True:
    with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2.5) as connection:
        try:
            context.wrap_socket(connection, server_hostname="lab.test")
        except OSError as error:
            print(error, file=sys.stderr)
