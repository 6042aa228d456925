// A client of Node's ws: does what it is told on standard input, and tells on standard output what happens.
"use strict";
const WebSocket = require("ws");
const [url, protocols, options] = process.argv.slice(2).map((text) => JSON.parse(text));

const tell = (...event) => process.stdout.write(JSON.stringify(event) + "\n");
const told = {
  text: (text) => socket.send(text),
  binary: (data) => socket.send(Buffer.from(data, "base64")),
  ping: (data) => socket.ping(data),
  close: (code, reason) => socket.close(code, reason),
};

const socket = new WebSocket(url, protocols, options);
socket.on("open", () => tell("open", socket.protocol, socket.extensions));
socket.on("unexpected-response", (request, response) => {
  tell("refused", response.statusCode);
  request.destroy();
});
socket.on("error", (error) => tell("error", String(error)));
socket.on("pong", (data) => tell("pong", data.toString()));
socket.on("message", (data, binary) =>
  binary ? tell("binary", data.toString("base64")) : tell("text", data.toString())
);
socket.on("close", (code, reason) => tell("close", code, reason.toString()));

require("readline")
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const [what, ...values] = JSON.parse(line);
    told[what](...values);
  })
  .on("close", () => process.exit());
