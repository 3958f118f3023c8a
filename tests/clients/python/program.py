"""A published program as a process, and the lines it prints."""

import ast
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from server import PATIENCE_S


def printed(name, replacements):
    """The program of that name, with what it prints of URLs and secrets replaced."""
    program = Path(__file__).with_name(name).read_text()
    for theirs, ours in replacements.items():
        assert program.count(theirs) == 1, theirs
        program = program.replace(theirs, repr(ours))
    return program


class Program:
    def __init__(self, program):
        environment = {name: os.environ[name] for name in os.environ if "proxy" not in name.lower()}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)

    def line(self):
        return self.lines.get(timeout=PATIENCE_S).rstrip("\n")

    def printed(self, label):
        """The message of the next line, which must begin with `label`."""
        line = self.line()
        assert line.startswith(f"{label}: "), line
        return ast.literal_eval(line.removeprefix(f"{label}: "))

    def exit_code(self):
        return self.process.wait(PATIENCE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()
