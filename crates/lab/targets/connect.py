"""A client that connects, with a limit of a minute."""

import socket
import sys

print("ready", flush=True)  # The harness looks for the SYN.
while True:
    try:
        socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60).close()
    except OSError as error:
        print(error, file=sys.stderr)
