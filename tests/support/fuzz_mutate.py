"""Draw damaged and hostile inputs from sound ones: bytes, texts and JSON; the same random generator draws the same ones."""

import json
import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 2**31, 2**53, 2**63, 10**18, -(10**18), 10**300, "", "x", "..", "/", "\0",
    "\x1b[31m", "\ud800", "ü" * 300, "x" * 5000, [], {}, [None], [[]], {"": None}, [0] * 1000,
)  # fmt: skip
TEXTS = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 2000 + "]" * 2000, '{"a":' * 2000 + "1" + "}" * 2000)


def mutate_bytes(rng: random.Random, data: bytes, tokens: Sequence[bytes] = (), other: bytes = b"") -> bytes:
    """Change one to eight places of `data`: bits, bytes, numbers, slices, tokens, or a slice of another sample."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        data = _mutate_once(rng, data or b"\0", tokens, other)
    return data


def _mutate_once(rng: random.Random, data: bytes, tokens: Sequence[bytes], other: bytes) -> bytes:
    start = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 64))))
    stop = min(len(data), start + rng.choice((1, 2, 4, 8, rng.randrange(1, 257))))
    head, middle, tail = data[:start], data[start:stop], data[stop:]
    width = rng.choice((1, 2, 4, 8))
    number = rng.choice((rng.choice(NUMBERS), rng.getrandbits(64))) % 256**width
    source = other or data
    begin = rng.randrange(len(source))
    return rng.choice(
        (
            lambda: head + bytes([middle[0] ^ 1 << rng.randrange(8)]) + middle[1:] + tail,
            lambda: head + bytes([rng.choice((0, 255, rng.randrange(256)))]) + middle[1:] + tail,
            lambda: head + number.to_bytes(width, rng.choice(("little", "big"))) + data[start + width :],
            lambda: head + tail,
            lambda: head + middle * rng.choice((2, 3, 50)) + tail,
            lambda: head + rng.randbytes(len(middle)) + tail,
            lambda: head + (rng.choice(tokens) if tokens else middle) + tail,
            lambda: head + source[begin : begin + rng.randrange(1, 257)] + tail,
            lambda: head,
            lambda: data + rng.randbytes(rng.choice((1, 16, 4096))),
        )
    )()


def mutate_text(rng: random.Random, text: str, tokens: Sequence[str] = ()) -> str:
    """Change words and lines of a text, or its bytes."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        words = lines[line].split(" ")
        word = rng.randrange(len(words))
        choice = rng.randrange(6)
        if choice == 0:
            lines.insert(rng.randrange(len(lines)), lines[line])
        elif choice == 1:
            del lines[line]
        elif choice == 2:
            words[word] = str(rng.choice(NUMBERS) * rng.choice((1, -1, 10**18)))
        elif choice == 3:
            words[word] = rng.choice((*TEXTS, *tokens, "nan", "inf", "-inf", "true", "[]", '"x"', '"\\u0000"'))
        elif choice == 4:
            words[word] = rng.choice(rng.choice(lines).split(" "))
        else:
            text = mutate_bytes(rng, text.encode(errors="replace")).decode(errors="replace")
            continue
        lines[line : line + 1] = [" ".join(words)] if choice in (2, 3, 4) else lines[line : line + 1]
        text = "\n".join(lines)
    return text


def mutate_json(rng: random.Random, content: Any, tokens: Sequence[str] = ()) -> bytes:
    """Change one to three fields of a JSON value, at any depth, and sometimes its text."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if fields := list_fields(content):
            container, key = rng.choice(fields)
            _mutate_field(rng, container, key, rng.choice(fields), tokens)
    text = json.dumps(content)
    if rng.random() < 0.1:
        fragment = rng.choice(("0", "1", "null", '""', "[]"))
        text = text.replace(fragment, rng.choice((*TEXTS, '{"a": 1, "a": 2}', "")), 1)
    return mutate_bytes(rng, text.encode()) if rng.random() < 0.05 else text.encode()


def list_fields(content: Any) -> list[tuple[Any, Any]]:
    """List (container, key) of every field, at any depth."""
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    return [field for key in keys for field in [(content, key), *list_fields(content[key])]]


def _mutate_field(rng: random.Random, container: Any, key: Any, other: tuple[Any, Any], tokens: Sequence[str]) -> None:
    """Replace, remove, rename, repeat or shift one field."""
    value, choice = container[key], rng.randrange(10)
    if choice == 0:
        del container[key]
    elif choice == 1 and isinstance(container, dict):
        container[rng.choice((str(key) + "x", "", rng.choice(tokens or ("y",))))] = container.pop(key)
    elif choice == 2:
        container[key] = json.loads(json.dumps(other[0].get(other[1]) if isinstance(other[0], dict) else value))
    elif choice == 3 and isinstance(value, list):
        container[key] = rng.choice((value * rng.choice((2, 100)), value[1:], value[::-1], value[:-1]))
    elif choice == 4 and isinstance(value, str):
        container[key] = rng.choice((value[1:], value * 2, value.upper(), "../" + value, "/" + value, value + "\0"))
    elif choice <= 6 and isinstance(value, int | float):
        container[key] = rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, value + 0.5, str(value)[:20]))
    elif choice == 7 and tokens:
        container[key] = rng.choice(tokens)
    else:
        container[key] = deepcopy(rng.choice(VALUES))
