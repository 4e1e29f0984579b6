#!/usr/bin/env python3
"""Prints figures about the readability of the Rust code. They have no limits: compare them before and after a change."""

import collections
import pathlib
import re

# Openers that stand where a comment should name its subject.
OPENER = re.compile(r"(What|That|Whether|Who|How|It|Then|They|There|This|These|Those)\b")
TYPE = re.compile(r"^(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait|type|union) (\w+)", re.MULTILINE)
TEST_MODULE = re.compile(r"^#\[cfg\(test\)\]\n(?:#\[[^\]]*\]\n)*(?:pub\S* )?mod \w+ \{", re.MULTILINE)
COMMENT = re.compile(r" *//[/!]? ?(.*)")


def is_test(file):
    return file.parts[0] == "tests" or any(part.startswith("tests") for part in (*file.parts[1:-1], file.stem))


def comments_of(lines):
    """Returns the comments, each as one text; an empty comment line and a line of code end a comment."""
    comments, current = [], []
    for line in [*lines, ""]:
        match = COMMENT.match(line)
        if match and match.group(1).strip():
            current.append(match.group(1).strip())
        elif current:
            comments.append(" ".join(current))
            current = []
    return comments


def share(part, whole):
    return f"{len(part)} of {len(whole)} ({100 * len(part) / max(len(whole), 1):.1f} %)"


def main():
    lines, comments, types = collections.Counter(), [], {}
    for file in sorted(path for path in pathlib.Path().rglob("*.rs") if "target" not in path.parts):
        text = file.read_text()
        production, *_ = [""] if is_test(file) else TEST_MODULE.split(text, maxsplit=1)
        lines["production"] += production.count("\n")
        lines["test"] += text.count("\n") - production.count("\n")
        comments += comments_of(production.splitlines())
        crate = types.setdefault(file.parts[0], collections.defaultdict(list))
        for name in TYPE.findall(production):
            crate[name].append(str(file))
    words = [len(comment.split()) for comment in comments]
    print(f"lines of production code: {lines['production']}, of tests: {lines['test']}")
    print("comments that open without a named subject:", share([text for text in comments if OPENER.match(text)], comments))
    print("comments with an identifier in backticks:", share([text for text in comments if "`" in text], comments))
    print(f"words in a comment: {sum(words) / len(words):.1f} on average, {sorted(words)[len(words) // 2]} in the median")
    for crate, names in types.items():
        for name, files in sorted(names.items()):
            if len(files) > 1:
                print(f"type name in {crate} more than once: {name} in {', '.join(files)}")


main()
