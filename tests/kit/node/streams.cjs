// An HTTP/2 server of Node's that takes extended CONNECTs (RFC 8441), to localhost with TLS. Arguments:
// the files of the certificate and its key, and whether it says that it takes them.
"use strict";
const fs = require("fs");
const http2 = require("http2");

const tell = (...event) => process.stdout.write(JSON.stringify(event) + "\n");
const [certificate, key, takes] = process.argv.slice(2).map((text) => JSON.parse(text));

const server = http2.createSecureServer({
  cert: fs.readFileSync(certificate),
  key: fs.readFileSync(key),
  allowHTTP1: true,
  settings: { enableConnectProtocol: takes },
});
server.on("session", (session) => {
  tell("session");
  session.on("error", (error) => tell("session error", String(error)));
});
server.on("stream", (stream, headers) => {
  tell("asked", headers[":method"], headers[":protocol"], headers[":path"]);
  stream.on("error", (error) => tell("error", error.code));
  stream.on("close", () => tell("closed", stream.rstCode));
  if (headers[":path"] === "/refused") {
    stream.respond({ ":status": 403, "content-type": "text/plain" });
    stream.end("no " + "x".repeat(100000));
  } else if (headers[":path"] === "/leaving") {
    stream.respond({ ":status": 200 });
    stream.session.close();
    stream.pipe(stream);
  } else {
    stream.respond({ ":status": 200 });
    stream.write("welcome ");
    stream.pipe(stream);
  }
});
// HTTP/1.1.
server.on("upgrade", (request, socket) => {
  tell("upgrade", request.url);
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nwelcome ");
  socket.pipe(socket);
});
server.listen(0, "127.0.0.1", () => tell("listening", server.address().port));
process.stdin.on("end", () => process.exit()).resume();
