"""A server that is told how long its caller waits (half a second), and works for three seconds all the same."""

import http.server
import time

late = 0


class Report(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        global late
        limit_ms = int(self.headers["x-envoy-expected-rq-timeout-ms"])
        began = time.monotonic()
        for _ in range(30):  # Whether the caller waits still is asked by nobody.
            time.sleep(0.1)
            if (time.monotonic() - began) * 1000 > limit_ms:
                late += 1
                if late == 1:
                    print("ready", flush=True)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Report)
print("listening", server.server_port, flush=True)
server.serve_forever()
