// A server of HTTP/1.1, or with `h2` as argument of HTTP/2 in the clear, that says where it listens.
const http = require("node:http"), http2 = require("node:http2");

function handle(request, answer) {
    const url = new URL(request.url, "http://behind.test");
    const size = Number(url.searchParams.get("size") ?? 0);
    switch (url.pathname) {
        case "/echo":
            answer.writeHead(200, { "content-type": "text/plain" });
            return request.pipe(answer);
        case "/length":
            answer.writeHead(200, { "content-length": size });
            return answer.end(request.method === "HEAD" ? undefined : Buffer.alloc(size, "x"));
        case "/count": {
            let count = 0;
            request.on("data", (data) => (count += data.length));
            return request.on("end", () => answer.end(String(count)));
        }
        case "/early":
            answer.writeHead(413, { "content-type": "text/plain" });
            return answer.end("too much");
        case "/empty":
            answer.writeHead(204);
            return answer.end();
        case "/same":
            answer.writeHead(304, { etag: "\"a\"" });
            return answer.end();
        case "/hints":
            answer.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" });
            return answer.end("after hints");
        case "/trailers":
            answer.writeHead(200, request.httpVersion === "1.1" ? { trailer: "x-sum" } : {});
            answer.write("body");
            answer.addTrailers({ "x-sum": "4" });
            return answer.end();
        default:
            answer.writeHead(404);
            return answer.end();
    }
}

const server = process.argv[2] === "h2" ? http2.createServer(handle) : http.createServer(handle);
server.on("checkContinue", (request, answer) => {
    if (request.url.startsWith("/early")) return handle(request, answer);
    answer.writeContinue();
    handle(request, answer);
});
server.on("upgrade", (request, socket) => {
    socket.on("error", () => {});
    socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    socket.pipe(socket);
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
