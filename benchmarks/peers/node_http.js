'use strict';
// Node's http: the event 'upgrade', which comes with the socket and what was read behind the request.

const http = require('http');

const WANTED = 'The token here is echo.\n';

// Node has looked whether Connection names Upgrade.
function shouldUpgradeCallback(request) {
  const offered = request.headers.upgrade.split(',').map((token) => token.trim().toLowerCase());
  return request.httpVersion === '1.1' && offered.includes('echo');
}

const server = http.createServer({shouldUpgradeCallback}, (request, response) => {
  response.writeHead(426, {Connection: 'Upgrade', Upgrade: 'echo', 'Content-Type': 'text/plain'});
  response.end(WANTED);
});

server.on('upgrade', (request, socket, head) => {
  socket.on('error', () => socket.destroy());
  if (!shouldUpgradeCallback(request)) {
    // Before Node 22.21 and 24.9 nobody has asked, and the connection has left HTTP: this is the last answer.
    socket.end(
      'HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, close\r\nUpgrade: echo\r\n' +
        `Content-Type: text/plain\r\nContent-Length: ${WANTED.length}\r\n\r\n${WANTED}`,
    );
    return;
  }
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  socket.unshift(head);
  socket.pipe(socket);
});

server.listen(Number(process.argv[2]), '127.0.0.1', () => console.log('ready'));
