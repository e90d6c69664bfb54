"""A client that waits for an answer without any limit."""

import http.client
import sys

while True:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    connection.request("GET", "/report")
    connection.getresponse()
    connection.close()
