// A client whose downloads stop in the middle: it gives each gap 2.5 seconds, and tries again.
const http = require("node:http");

function download() {
  const request = http.get({ host: "127.0.0.1", port: process.argv[2], timeout: 2_500 }, (response) => {
    response.on("data", () => {});
    response.on("end", download);
    response.on("error", () => {});
  });
  request.on("error", () => {});
  request.on("timeout", () => {
    request.destroy();
    download();
  });
}

download();
