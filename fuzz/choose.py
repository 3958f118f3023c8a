#!/usr/bin/env python3
"""Chooses the inputs that fuzz/corpora keeps, and prints them: one in each line, in base64.

    fuzz/choose.py CONTROL_FILE BYTES_MAX

CONTROL_FILE is what `-set_cover_merge=1 -merge_control_file=` of libFuzzer leaves: the inputs, and which features
(an edge of the program, and roughly how often it was taken) each one has. The next input is always the one that
adds most for its length: edges as long as any are missing, then features. The smallest inputs alone, which a
merge prefers, would leave no room for the ones that get far.
"""

import base64
import pathlib
import sys

# Features of one edge (libFuzzer, FuzzerTracePC.h: the buckets of a counter).
FEATURES_PER_EDGE = 8
INPUT_BYTES_MAX = 3_072


def read(control_file):
    """The inputs with their features."""
    lines = pathlib.Path(control_file).read_text(encoding="utf-8").splitlines()
    count = int(lines[0])
    paths, features = lines[2 : 2 + count], {}
    for line in lines[2 + count :]:
        kind, *numbers = line.split()
        if kind == "FT":
            features[paths[int(numbers[0])]] = frozenset(map(int, numbers[1:]))
    inputs = ((pathlib.Path(path).read_bytes(), found) for path, found in features.items())
    return [(data, found) for data, found in inputs if 0 < len(data) < INPUT_BYTES_MAX]


def choose(inputs, bytes_max):
    """Lines for these inputs, as many as there is room for."""
    left = [(base64.b64encode(data).decode(), found) for data, found in inputs]
    # The same choice each time.
    left.sort(key=lambda entry: (len(entry[0]), entry[0]))
    lines, bytes_left = [], bytes_max
    for unit in [FEATURES_PER_EDGE, 1]:
        seen = {feature // unit for line, found in lines for feature in found}
        missing = [(line, found, {feature // unit for feature in found} - seen) for line, found in left]
        while missing := [entry for entry in missing if entry[2] and len(entry[0]) < bytes_left]:
            line, found, added = max(missing, key=lambda entry: len(entry[2]) / (len(entry[0]) + 1))
            lines.append((line, found))
            bytes_left -= len(line) + 1
            missing = [(other, its, new - added) for other, its, new in missing]
        chosen = {line for line, _ in lines}
        left = [entry for entry in left if entry[0] not in chosen]
    return sorted((line for line, _ in lines), key=lambda line: (len(line), line))


def main():
    _, control_file, bytes_max = sys.argv
    print("\n".join(choose(read(control_file), int(bytes_max))))


if __name__ == "__main__":
    main()
