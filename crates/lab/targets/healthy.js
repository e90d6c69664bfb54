// A healthy server: an answer to each request.
const http = require("node:http");

const server = http.createServer({ keepAlive: true }, (request, response) => response.end("hello\n"));
server.listen(0, "127.0.0.1", () => {
  console.log(`listening ${server.address().port}`);
  console.log("ready");
});
