#!/usr/bin/env python3
"""A machine's only way out: a forward proxy for one connection, which stands on standard input and output.

    proxy.py HOSTS CACHE [NEXT]

Only plain GETs of the hosts that the file HOSTS lists are relayed, to NEXT (another proxy, `host:port`) if
that is given. What never changes under its name (packages, lists by their hash) is kept in the folder CACHE.
QEMU starts one of these per connection, and the machine reaches nothing else.
"""

import hashlib
import http.client
import os
import pathlib
import sys
import tempfile
import urllib.parse

LIMIT = 60
PASSED_ON = ("if-modified-since", "user-agent", "accept")
HANDED_BACK = ("last-modified", "content-type", "etag")


def main():
    hosts = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").split()
    cache = pathlib.Path(sys.argv[2])
    following = sys.argv[3] if len(sys.argv) > 3 else None
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while line := source.readline():
        words = line.decode("latin-1").split()
        headers = http.client.parse_headers(source)
        status, more, body = 403, [], b"only packages are to be had here\n"
        if len(words) == 3 and words[0] == "GET" and urllib.parse.urlsplit(words[1]).hostname in hosts:
            try:
                status, more, body = fetch(words[1], headers, cache, following)
            except (OSError, http.client.HTTPException) as error:
                status, body = 502, f"{error}\n".encode()
        sink.write(f"HTTP/1.1 {status} {http.client.responses.get(status, '')}\r\n".encode())
        for name, value in more:
            sink.write(f"{name}: {value}\r\n".encode("latin-1"))
        if status != 304:
            sink.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        else:
            sink.write(b"\r\n")
        sink.flush()


def fetch(url, headers, cache, following):
    """The answer to a GET: status, headers, body."""
    kept = cache / hashlib.sha256(url.encode()).hexdigest()
    lasting = url.endswith(".deb") or "/by-hash/" in url
    if lasting and kept.exists():
        return 200, [], kept.read_bytes()
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(following or parts.netloc, timeout=LIMIT)
    asked = {name: value for name, value in headers.items() if name.lower() in PASSED_ON}
    asked["Host"] = parts.netloc
    connection.request("GET", url if following else parts.path, headers=asked)
    answer = connection.getresponse()
    body = answer.read()
    if lasting and answer.status == 200:
        keep(kept, body)
    more = [(name, value) for name, value in answer.getheaders() if name.lower() in HANDED_BACK]
    return answer.status, more, body


def keep(path, body):
    """Puts a file there whole; another connection may do the same at once."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(body)
    os.rename(file.name, path)


if __name__ == "__main__":
    main()
