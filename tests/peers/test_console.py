"""The scripts of the console, outside of a browser."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CHECK = """
import { readFileSync } from "node:fs";
const [script, table] = process.argv.slice(1).map((path) => readFileSync(path, "utf8"));
const { normalize } = await import("data:text/javascript," + encodeURIComponent(script));
console.log(JSON.stringify(JSON.parse(table).map(([given]) => [given, normalize(given)])));
"""


def test_the_form_shows_the_name_that_the_vault_will_store() -> None:
    script = REPOSITORY / "cli/src/console/assets/names.js"
    table = REPOSITORY / "cli/tests/console/names.json"
    command = ["node", "--input-type=module", "-e", CHECK, str(script), str(table)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == json.loads(table.read_text())
