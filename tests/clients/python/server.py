"""The real program as a process, what it says about itself, and tokens by two hands."""

import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from datetime import datetime, timedelta, timezone

import jwt

BINARY = os.environ["SERVER_BINARY"]
SECRET = "a secret of the client tests, longer than thirty-two bytes"
# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 20
# No proxy of the environment comes between.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


# The tests read metrics at the port of clients; the address of the admin listener belongs to one server.
HTTP = {"FANWIRE_ADMIN_LISTEN": "none", "FANWIRE_CLIENT_HTTP": "health,metrics,notify"}


def environment():
    """Only what the program needs: every other FANWIRE_ variable would be a setting.

    With a log of text on standard error it prints on which port it listens.
    """
    return {
        "FANWIRE_JWT_SECRET": SECRET,
        "FANWIRE_LOG_FILE": "",
        "FANWIRE_LOG_FORMAT": "text",
        "PATH": os.environ["PATH"],
        "RUST_LOG": "warn",
        **HTTP,
    }


class Server:
    """A secured server of two shards, on a port of its own unless `options` say where."""

    def __init__(self, *options, **variables):
        self.log = tempfile.TemporaryFile("w+")
        if not {"--host", "--config"} & set(options):
            options = ["--listen", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(
            [BINARY, "serve", "--shards", "2", *options],
            env={**environment(), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        first = self.process.stdout.readline()
        listening = re.search(r"listening on (.+)", first)
        if not listening:
            self.log.seek(0)
            raise RuntimeError(f"the server did not start: {first}{self.log.read()}")
        self.addresses = listening[1].split(", ")
        self.address = self.addresses[0]
        # Nobody reads the rest of the banner, and a full pipe would stop the server.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def url(self, path="/monitoring"):
        return f"ws://{self.address}{path}"

    def metric(self, name, **labels):
        """The sum over shards of the series of one name that have these labels."""
        url = f"http://{self.address}/metrics/prometheus"
        with DIRECT.open(url, timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        values = [
            int(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted)
        ]
        assert values, f"no series {name} {labels}"
        return sum(values)

    def await_metric(self, expected, name, **labels):
        """Waits for a value: a server counts a delivery after its client may have it."""
        deadline = time.monotonic() + PATIENCE_S
        while (value := self.metric(name, **labels)) < expected and time.monotonic() < deadline:
            pass
        assert value == expected, f"{name} {labels} is {value}, not {expected}"

    def ask_to_end(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, within_s=PATIENCE_S):
        return self.process.wait(within_s)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Ends only what was started here; what has ended already is no error.
        self.process.kill()
        self.process.wait()


def program_token(user, *permissions, ttl="1h"):
    """A token by `fanwire token`."""
    command = [BINARY, "token", "--user", user, "--ttl", ttl]
    for permission in permissions:
        command += ["--permission", permission]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    return done.stdout.strip()


def library_token(claims=None, secret=SECRET, algorithm="HS256", lasts_s=3600):
    """A token by PyJWT."""
    expires = datetime.now(timezone.utc) + timedelta(seconds=lasts_s)
    return jwt.encode({"user_id": "user123", "exp": expires, **(claims or {})}, secret, algorithm)
