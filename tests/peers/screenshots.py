"""Makes the pictures of the console in docs/images, from a made-up installation. `.ci/peers --screenshots` runs it.

The services listen on the ports of `aerostack dev`, so that the pictures show the addresses that readers know."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import urllib.request
from pathlib import Path

from console import Console, aerostack, run
from pair import BINARY, REPOSITORY, Pair

IMAGES = REPOSITORY / "docs" / "images"
MAX_BYTES = 150_000
LEDGER = "http://localhost:8080"

# Name, origins, and other flags of `secret set`. No value is real.
SECRETS = [
    ("STRIPE_API_KEY", "https://api.stripe.com", "--label team=payments --expires-in 12d"),
    ("STRIPE_WEBHOOK_SECRET", "https://api.stripe.com", "--label team=payments"),
    ("GITHUB_TOKEN", "https://api.github.com", "--label team=platform --expires-in 90d"),
    ("SLACK_BOT_TOKEN", "https://slack.com", "--label team=platform"),
    ("SENTRY_TOKEN", "https://sentry.io", "--label team=platform"),
    ("LEDGER_PASSWORD", LEDGER, "--label team=payments"),
    ("LEDGER_USER", LEDGER, "--label team=payments"),
    ("OPENAI_API_KEY", "", "--label team=search --expires-in 30d"),
]
SERVERS = [
    "stripe --url https://api.stripe.com --auth-type bearer --secrets STRIPE_API_KEY",
    "github --url https://api.github.com --auth-type bearer --secrets GITHUB_TOKEN",
    "slack --url https://slack.com/api --auth-type bearer --secrets SLACK_BOT_TOKEN",
    "ledger --url " + LEDGER + " --inject basic:${LEDGER_USER}:${LEDGER_PASSWORD} --required LEDGER_PASSWORD",
    "sentry --url https://sentry.io/api --auth-type bearer --secrets SENTRY_TOKEN",
    # Its secret does not exist.
    "pager --url https://events.pagerduty.com --auth-type bearer --secrets PAGERDUTY_KEY",
]


def furnish(pair: Pair) -> None:
    aerostack(pair, "workspace", "create", "payments", "--plan", "starter", "--kept-versions", "5")
    aerostack(pair, "workspace", "create", "search", "--plan", "pro")
    for name, origin, flags in SECRETS:
        only_to = ["--only-to", origin] if origin else []
        for version in range(3 if name == "STRIPE_API_KEY" else 1):
            value = f"made-up-value-{version}"
            aerostack(pair, "workspace", "secret", "set", "payments", name, "-", *only_to, *flags.split(), stdin=value)
    for server in SERVERS:
        aerostack(pair, "workspace", "server", "add", "payments", *server.split())


def make_calls(pair: Pair, ended: threading.Event) -> None:
    """Makes calls, for some intervals of the charts more and for some fewer, so that the activity is a curve."""
    second = 0
    while not ended.wait(1):
        second += 1
        for _ in range((15, 25, 40, 30)[second // 40 % 4]):
            urllib.request.urlopen(f"http://{pair.data_plane}/payments/ledger/accounts").read()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair.start(Path(folder) / "dev", ports={"vault": 7150, "injector": 7151, "data-plane": 7100})
        upstream = subprocess.Popen([BINARY, "echo", "--listen", "127.0.0.1:8080"], stdout=subprocess.DEVNULL)
        try:
            furnish(pair)
            console = Console(pair)
            IMAGES.mkdir(exist_ok=True)
            ended = threading.Event()
            caller = threading.Thread(target=make_calls, args=(pair, ended))
            caller.start()
            try:
                run("screenshots", console, folder=str(IMAGES))
            finally:
                ended.set()
                caller.join()
            console.stop()
        finally:
            upstream.kill()
            upstream.wait()
            pair.stop()
    for image in sorted(IMAGES.glob("console-*.png")):
        size = image.stat().st_size
        print(f"{image.relative_to(REPOSITORY)}: {size} bytes")
        assert size < MAX_BYTES, image


if __name__ == "__main__":
    main()
