// A server of Node's http and ws; tests/kit/back_ends/pages.py says what it answers. It tells when somebody
// leaves /events or /digest, has a /stuck that says it has ten bytes and sends five, and hints at a file in front of
// /hints; "Expect: 100-continue" is answered 417 at /expect. It has two more tokens:
// "raw" says "early" right behind its 101, sends everything back, and "late" when the client has ended its
// side; "tcp", on a POST with a content of JSON, is what Docker's engine does at /exec/ID/start.
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const http = require("http");
const https = require("https");
const path = require("path");
const { WebSocketServer } = require("ws");

const folder = JSON.parse(process.argv[2]);
const file = (name) => path.join(folder, name);
const tell = (...event) => process.stdout.write(JSON.stringify(event) + "\n");

const lines = [];
const waiting = [];
const match = () => {
  while (lines.length && waiting.length) waiting.shift()(lines.shift());
};
const next = (response) =>
  new Promise((resolve) => {
    waiting.push(resolve);
    response.on("close", () => {
      // Nobody hears it any more: it is for somebody else.
      const place = waiting.indexOf(resolve);
      if (place >= 0) waiting.splice(place, 1)[0]("end");
    });
    match();
  });
const contentOf = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
};

const pages = {
  "/page": (request, response) => {
    response.setHeader("ETag", '"1"');
    if (request.headers["if-none-match"] === '"1"') response.writeHead(304).end();
    else response.end("page");
  },
  "/asked": (request, response) => {
    const fields = [];
    for (let i = 0; i < request.rawHeaders.length; i += 2) fields.push(request.rawHeaders.slice(i, i + 2));
    const { method, url: target } = request;
    response.end(JSON.stringify({ method, target, fields, port: request.socket.remotePort ?? null }));
  },
  "/large": (request, response) => {
    if (!request.url.includes("?")) response.setHeader("Content-Length", fs.statSync(file("large.bin")).size);
    fs.createReadStream(file("large.bin")).pipe(response);
  },
  "/digest": async (request, response) => {
    const sha256 = crypto.createHash("sha256");
    let size = 0;
    try {
      for await (const chunk of request) {
        sha256.update(chunk);
        size += chunk.length;
      }
    } catch {
      tell("left");
      return;
    }
    response.end(`${size} ${sha256.digest("hex")}`);
  },
  "/echo": (request, response) => {
    response.flushHeaders();
    request.pipe(response);
  },
  "/events": async (_request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.flushHeaders();
    response.on("close", () => response.writableFinished || tell("left"));
    for (let line = ""; line !== "end"; ) {
      line = String(await next(response));
      response.write(`data: ${line}\n\n`);
    }
    response.end();
  },
  "/stuck": (_request, response) => {
    response.setHeader("Content-Length", 10);
    response.write("12345");
  },
  "/hints": (_request, response) =>
    response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" }, () => response.end("page")),
  "/poll": async (_request, response) => response.end(await next(response)),
  "/next": async (request, response) => {
    lines.push(await contentOf(request));
    match();
    response.writeHead(204).end();
  },
};

const sockets = new WebSocketServer({
  noServer: true,
  perMessageDeflate: true,
  handleProtocols: (offered) => (offered.has("b") ? "b" : false),
});
sockets.on("headers", (_headers, request) => request.socket.cork());
sockets.on("connection", (socket, request) => {
  if (request.url === "/welcome") socket.send("welcome");
  request.socket.uncork();
  socket.on("close", (code, reason) => tell("close", code, reason.toString()));
  socket.on("message", (data, binary) => {
    if (!binary && data.toString() === "please close") socket.close(4002, "done");
    else socket.send(data, { binary });
  });
});

const raw = (socket, head, phrase, fields, greeting) => {
  socket.write(`HTTP/1.1 101 ${phrase}\r\n${fields.join("\r\n")}\r\n\r\n${greeting}`);
  socket.write(head);
  socket.on("data", (data) => socket.write(data));
  socket.on("end", () => socket.end("late"));
  socket.on("error", (error) => tell("error", String(error)));
};
const upgrades = {
  websocket: (request, socket, head) => {
    if (request.url === "/refused") {
      // As ws itself refuses, but for the connection, which goes on.
      socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nConnection: close\r\n\r\nForbidden");
      return;
    }
    sockets.handleUpgrade(request, socket, head, (opened) => sockets.emit("connection", opened, request));
  },
  raw: (_request, socket, head) =>
    raw(socket, head, "Switching Protocols", ["Upgrade: raw", "Connection: Upgrade"], "early"),
  tcp: (request, socket, head) => {
    // Of a request with Upgrade, Node leaves the content to whoever takes the connection.
    const length = Number(request.headers["content-length"] ?? 0);
    const begin = (data) => {
      if (data.length < length) {
        socket.once("data", (more) => begin(Buffer.concat([data, more])));
        return;
      }
      tell("exec", JSON.parse(data.subarray(0, length)));
      const type = "Content-Type: application/vnd.docker.raw-stream";
      raw(socket, data.subarray(length), "UPGRADED", [type, "Connection: Upgrade", "Upgrade: tcp"], "early");
    };
    begin(head);
  },
};

const serve = (server, ...where) => {
  const nothing = (_request, response) => response.writeHead(404).end();
  server.on("request", (request, response) =>
    (pages[request.url.split("?")[0]] ?? nothing)(request, response)
  );
  server.on("checkContinue", (request, response) => {
    if (request.url === "/expect") {
      response.writeHead(417).end();
      return;
    }
    response.writeContinue();
    server.emit("request", request, response);
  });
  server.on("upgrade", (request, socket, head) =>
    upgrades[request.headers.upgrade.toLowerCase()](request, socket, head)
  );
  server.keepAliveTimeout = 60000;
  return new Promise((resolve) => server.listen(...where, () => resolve(server.address().port)));
};
const keys = { cert: fs.readFileSync(file("certificate.pem")), key: fs.readFileSync(file("key.pem")) };
Promise.all([
  serve(http.createServer(), 0, "127.0.0.1"),
  serve(https.createServer(keys), 0, "127.0.0.1"),
  serve(http.createServer(), file("socket")),
]).then(([tcp, tls]) => tell("listening", tcp, tls));
process.stdin.on("end", () => process.exit()).resume();
