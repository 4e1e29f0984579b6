#!/usr/bin/env python3
"""Reads the imports of the Rust files in */src, with grouped and relative ones expanded.

.ci/imports.py list      prints each import as FILE:LINE: PATH, where PATH begins with `crate` or the name of a crate
.ci/imports.py circles   prints each circle of files that import one another, without the tests

An import counts for the file that defines the item, also when another file re-exports the item. A re-export is no import
of the file that has it, unless the file uses the item too.
"""

import pathlib
import re
import sys

NOISE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|b?r(\#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']+|[^\\'\n])'""", re.DOTALL
)
USE = re.compile(r"\b(pub(?:\([^)]*\))? +)?use +([^;]+);")
PATH = re.compile(r"(?<![\w:])([a-z_]\w*(?:::\w+)+)")
TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub(?:\([^)]*\))? +)?mod +\w+ *\{")


def blank(text):
    return re.sub(r"[^\n]", " ", text)


def code_of(path):
    """Returns the file's text with comments, strings and inline test modules blanked out, and every line kept."""
    code = NOISE.sub(lambda match: blank(match.group()), path.read_text())
    code = re.sub(r"pub\(in [^)]*\)", lambda match: blank(match.group()), code)
    while found := TEST_MODULE.search(code):
        end, depth = found.end(), 1
        while depth:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        code = code[: found.start()] + blank(code[found.start() : end]) + code[end:]
    return code


def expand(tree):
    """Yields (path, name in scope) for each leaf of a `use` tree."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        path, _, alias = re.sub(r"\s+", " ", tree).partition(" as ")
        parts = path.replace(" ", "").strip(":").split("::")
        parts = parts[:-1] if parts[-1] == "self" and len(parts) > 1 else parts
        yield parts, alias or parts[-1]
        return
    depth, leaf = 0, ""
    for char in rest[: rest.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and not depth:
            if leaf.strip():
                yield from expand(head + leaf.strip())
            leaf = ""
        else:
            leaf += char


class Module:
    def __init__(self, file, crate, path):
        self.file, self.crate, self.path = file, crate, path
        self.code = code_of(file)
        self.children, self.names, self.imports, self.re_exports = {}, {}, [], []
        body = self.code
        for match in USE.finditer(self.code):
            line = self.code.count("\n", 0, match.start()) + 1
            for parts, name in expand(match.group(2)):
                self.names[name] = parts
                (self.re_exports if match.group(1) else self.imports).append((line, parts, name))
            body = body[: match.start()] + blank(match.group()) + body[match.end() :]
        for match in PATH.finditer(body):
            self.imports.append((body.count("\n", 0, match.start()) + 1, match.group(1).split("::"), ""))
        body = re.sub(r"\bmod +\w+;", "", body)
        self.used = [parts for _, parts, _ in self.imports]
        self.used += [parts for _, parts, name in self.re_exports if re.search(rf"\b{name}\b", body)]

    def absolute(self, parts):
        """Returns a path from the root of the crate, or of another crate, without following re-exports."""
        base = list(self.path)
        if parts[0] in self.children or parts[0] == "self":
            return ["crate", *base, *(parts[1:] if parts[0] == "self" else parts)]
        if parts[0] in self.names and self.names[parts[0]][0] != parts[0]:
            return self.absolute([*self.names[parts[0]], *parts[1:]])
        while parts[0] == "super" and base:
            base, parts = base[:-1], parts[1:]
            if not parts or parts[0] != "super":
                return ["crate", *base, *parts]
        return parts

    def target(self, parts, depth=0):
        """Returns the file that defines the last item of a path in this crate, or None."""
        head, *rest = self.absolute(parts)
        if head != "crate" or depth > 20:
            return None
        module = self.crate
        for index, part in enumerate(rest):
            if part in module.children:
                module = module.children[part]
            elif part in module.names and module.names[part] != [part]:
                return module.target([*module.names[part], *rest[index + 1 :]], depth + 1)
            else:
                break
        return module.file


def modules():
    for source in sorted(pathlib.Path().glob("*/src")):
        roots = [source / name for name in ("lib.rs", "main.rs") if (source / name).exists()]
        tree = {(): Module(roots[0], None, ())}
        tree[()].crate = tree[()]
        for file in sorted(source.rglob("*.rs"), key=lambda file: (len(file.parts) - (file.name == "mod.rs"), file)):
            parts = file.relative_to(source).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "mod" else parts
            if file not in roots and parts[0] != "bin":
                tree[parts] = Module(file, tree[()], parts)
                tree[parts[:-1]].children[parts[-1]] = tree[parts]
        yield from tree.values()


def circles(edges):
    """Yields the strongly connected groups of more than one file (Tarjan's algorithm)."""
    index, low, stack = {}, {}, []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                yield from visit(other)
            low[node] = min(low[node], low[other]) if other in stack else low[node]
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                yield group

    for node in edges:
        if node not in index:
            yield from visit(node)


if sys.argv[1:] == ["list"]:
    for module in modules():
        for line, parts, _ in module.imports + module.re_exports:
            print(f"{module.file}:{line}: {'::'.join(module.absolute(parts))}")
elif sys.argv[1:] == ["circles"]:
    edges = {}
    for module in modules():
        if not any(part.startswith("tests") for part in (*module.path[:-1], module.file.stem)):
            targets = {module.target(parts) for parts in module.used} - {module.file, None}
            edges[module.file] = targets
    edges = {file: sorted(target for target in targets if target in edges) for file, targets in edges.items()}
    for group in circles(edges):
        print("circle: " + ", ".join(f"{a} -> {b}" for a in sorted(group) for b in edges[a] if b in group))
else:
    sys.exit(__doc__)
