"""What tells two networks apart that have the same weights and the same layers."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import nn

from stagetune.targets import code_of

VERSIONED = ("torch", "torchvision", "timm")  # whose code is told by their version
PLAIN = (bool, int, float, str, type(None))


def network_key(network: nn.Module, arguments: Mapping[str, Any] | None = None) -> str:
    """A key that changes with what its numbers may depend on: class, arguments, plain attributes, code, versions.

    Args:
        network: as it was made.
        arguments: of its constructor, where they are known.

    Returns:
        Its class's name and a digest.
    """
    digest = hashlib.blake2b(digest_size=16)
    parts = [repr(sorted((arguments or {}).items(), key=str)), *_attributes(network), *_sources(network)]
    for package in VERSIONED:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return f"{type(network).__module__}.{type(network).__qualname__} {digest.hexdigest()}"


def _is_versioned(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in VERSIONED


def _attributes(network: nn.Module) -> Iterator[str]:
    """The plain attributes of layers that are not a library's, such as a limit; repr does not show them."""
    for name, layer in network.named_modules():
        if not _is_versioned(type(layer)):
            own = {key: value for key, value in vars(layer).items() if key != "training" and _is_plain(value)}
            yield f"{name}: {sorted(own.items())}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple | list) and all(map(_is_plain, value)))


def _sources(network: nn.Module) -> Iterator[str]:
    """The files that the classes stand in, and those of a person's own that these import; else the classes."""
    kinds = {base for layer in network.modules() for base in type(layer).__mro__ if not _is_versioned(base)}
    for kind in sorted(kinds - {object}, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        files = code_of(kind.__module__)
        yield from (file.read_text() for file in files)
        if not files:
            with suppress(OSError, TypeError):
                yield inspect.getsource(kind)
