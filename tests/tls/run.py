#!/usr/bin/env python3
"""Does testssl.sh find anything in the TLS of the real server?

    tests/tls/run.py FANWIRE

Exits with 1 when it finds something above "low", but for what concerns the certificate alone: the one that is
tested was made here, and nobody trusts it.
"""

import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 20
TESTSSL_S = 400
ATTEMPTS = 3
# Of the certificate, and of the name that stands for it in DNS.
OF_THE_CERTIFICATE = ("cert_", "DNS_CAArecord")
# Of the tool: Debian's openssl has no GOST ciphers to offer. Neither has the server.
OF_THE_TOOL = ("engine_problem",)
ACCEPTED = {"OK", "INFO", "LOW"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def await_handshake(port):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
                with context.wrap_socket(plain) as secure:
                    return secure.version()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def examine(binary):
    """What testssl.sh finds."""
    program = shutil.which("testssl") or shutil.which("testssl.sh")
    assert program, "testssl.sh is missing"
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [binary, "serve", "--dev", "--tls", "--shards", "1", "--listen", f"127.0.0.1:{port}"]
        server = subprocess.Popen(
            [*command, "--admin-listen", "none"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            print("the handshake gives", await_handshake(port))
            report = pathlib.Path(folder, "report.json")
            check = [program, "--quiet", "--color", "0", "--warnings", "off", "--jsonfile", report]
            # Its exit code says how much it found, whatever that is.
            subprocess.run(
                [*check, f"https://127.0.0.1:{port}/"],
                stdout=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
                timeout=TESTSSL_S,
                check=False,
                cwd=folder,
            )
            assert server.poll() is None, "the server has ended"
            return json.loads(report.read_text())
        finally:
            server.terminate()
            server.wait()


def main(binary):
    for _ in range(ATTEMPTS):
        findings = examine(binary)
        # What it does not look at, it does not find.
        names = {finding["id"] for finding in findings}
        for expected in ("TLS1_2", "TLS1_3", "heartbleed", "ROBOT", "secure_client_renego", "cipher_order"):
            assert expected in names, f"testssl.sh did not look at {expected}"
        above = [finding for finding in findings if finding["severity"] not in ACCEPTED]
        for finding in above:
            print(finding["severity"], finding["id"], finding["finding"][:120])
        bad = [finding for finding in above if not finding["id"].startswith(OF_THE_CERTIFICATE + OF_THE_TOOL)]
        # A check that could not be made, as happens now and then on a busy machine, is made again.
        if not bad or any(finding["severity"] != "WARN" for finding in bad):
            break
    assert not bad, bad
    print(f"tests/tls/run.py: {len(findings)} findings, none above low beside those of the certificate; passed")


if __name__ == "__main__":
    main(sys.argv[1])
