"""nginx in front of a good server, as its documentation shows it for WebSocket."""

import sys

from fronting import Place, run

_CONFIG = """
daemon off; pid %(folder)s/nginx.pid; error_log /dev/null; worker_processes 1;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path %(folder)s; proxy_temp_path %(folder)s; fastcgi_temp_path %(folder)s;
  uwsgi_temp_path %(folder)s; scgi_temp_path %(folder)s;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen 127.0.0.1:%(port)d;
    location / {
      proxy_pass http://127.0.0.1:%(back)d;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
    }
  }
}
"""


def command(place: Place) -> list[str]:
    return ["nginx", "-p", place.folder, "-c", place.write("nginx.conf", _CONFIG)]


run(command, *sys.argv[1:])
