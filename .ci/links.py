"""Asks every address that the pages, the bibliography and the people's files name whether it is still there.

    python .ci/links.py [--list]

Gone is: no such host, 404, 410, or another answer of 400 and above. A host that refuses robots (401, 403, 405, 406, 418,
429) or is out of breath (5xx, time-out) after three tries is told, and is no failure.
"""

import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    "README.md",
    "NOTICE",
    "CHANGELOG.md",
    "CITATION.cff",
    "docs/**/*.md",
    "docs/**/*.bib",
    ".github/**/*.md",
    "src/**/*.py",
]
ADDRESS = re.compile(r"https?://[^\s<>\"'`{}\\|^]+")
BIB = {"doi": "https://doi.org/", "eprint": "https://arxiv.org/abs/"}
REFUSES = {401, 403, 405, 406, 418, 429}
RESERVED = re.compile(
    r"https?://([^/]*\.)?(example|invalid|test|localhost)([:/]|$)|https?://(localhost|127\.)"
)


def addresses(root: Path = ROOT) -> dict[str, str]:
    """Address -> the first file and line that names it."""
    places: dict[str, str] = {}
    for pattern in FILES:
        for path in sorted(root.glob(pattern)):
            for number, line in enumerate(
                path.read_text(encoding="utf-8").split("\n"), 1
            ):
                named = [trimmed(match) for match in ADDRESS.findall(line)]
                if path.suffix == ".bib":
                    for field, host in BIB.items():
                        named += [
                            host + value
                            for value in re.findall(
                                rf"^\s*{field}\s*=\s*\{{(.+?)\}}", line
                            )
                        ]
                for address in named:
                    if not RESERVED.match(address):
                        places.setdefault(
                            address, f"{path.relative_to(root).as_posix()}:{number}"
                        )
    return places


def trimmed(address: str) -> str:
    """Without the full stop, comma or bracket that belongs to the sentence around it."""
    address = re.sub(r"[.,;:!?*_]+$", "", address)
    while address.endswith((")", "]")) and address.count("(") + address.count(
        "["
    ) < address.count(")") + address.count("]"):
        address = re.sub(r"[.,;:]+$", "", address[:-1])
    return address


def answer(address: str, tries: int = 3) -> tuple[bool, str]:
    """(still there or not to be told, what was said)."""
    message = ""
    for attempt in range(tries):
        request = urllib.request.Request(
            address,
            headers={"User-Agent": "Mozilla/5.0 (link check of a documentation site)"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return True, str(response.status)
        except urllib.error.HTTPError as error:
            message = f"{error.code} {error.reason}"
            if error.code in REFUSES:
                return True, message
            if error.code < 500:
                return False, message
        except urllib.error.URLError as error:
            message = str(error.reason)
            if (
                "Name or service not known" in message
                or "nodename nor servname" in message
            ):
                return False, message
        except (TimeoutError, OSError) as error:
            message = str(error) or type(error).__name__
        time.sleep(2**attempt)
    return True, f"no answer: {message}"


def main(arguments: list[str]) -> int:
    places = addresses()
    if arguments == ["--list"]:
        for address, place in places.items():
            print(place, address)
        return 0
    gone = 0
    with ThreadPoolExecutor(8) as pool:
        for (address, place), (exists, message) in zip(
            places.items(), pool.map(answer, places), strict=True
        ):
            if not exists or not message.startswith("2"):
                print(f"{place}: {address}: {message}" + ("" if exists else "  GONE"))
            gone += not exists
    print(f"{len(places)} addresses, {gone} gone")
    return bool(gone)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
