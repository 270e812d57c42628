"""Writes .env from .env.example: a random word for every secret. What .env sets already stays, so that it may be run again.

python3 docker/write_secrets.py [FOLDER]
"""

import base64
import os
import re
import secrets
import sys
from pathlib import Path

EXAMPLE = "change-me"


def main(folder: Path) -> str:
    """Completes `.env` beside `.env.example`, for its owner's eyes alone. Returns one line that says what was done."""
    env = folder / ".env"
    kept = {
        name: value
        for name, value in _values(env.read_text() if env.exists() else "").items()
        if value and not value.startswith(EXAMPLE)
    }
    made = [
        name
        for name, value in _values((folder / ".env.example").read_text()).items()
        if value == EXAMPLE and name not in kept
    ]
    text = env.read_text() if env.exists() else (folder / ".env.example").read_text()
    for name in made:
        new = f"{name}={_word(name)}"
        text, found = re.subn(rf"(?m)^{name}[ \t]*=.*$", new, text)
        text = text if found else f"{text.rstrip()}\n{new}\n"
    if made:
        beside = folder / ".env.new"
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
        beside.replace(env)
    return f".env: {len(made)} secrets made, {len(kept)} lines kept"


def _values(text: str) -> dict[str, str]:
    """The lines that set something."""
    lines = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in lines}


def _word(name: str) -> str:
    if name.endswith("FERNET_KEY"):
        return base64.urlsafe_b64encode(os.urandom(32)).decode()
    # Letters and digits alone: they stand in addresses, too.
    return secrets.token_hex(20)


if __name__ == "__main__":
    print(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
