"""What the images of a run are, in short, kept so that a run that goes on notices where they are others."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from stagetune.data.groups import some
from stagetune.data.names import PARTS
from stagetune.data.source import KEYS, Pairs, Source
from stagetune.data.splits import Split

Kept = dict[str, Any]  # plain, for a checkpoint


def contents_of(source: Source, split: Split, pairs: Pairs | None = None, *, by_group: bool = False) -> Kept:
    """What a run's data are, where they lie apart.

    Args:
        source: the images.
        split: which of them are in which part.
        pairs: those of a table, where there is one.
        by_group: whether training or the split looks at the groups of the images.

    Returns:
        `keys`, the kind of these keys; `classes` in their order; for each part the short key and the label of each
        image in its order; and keys of groups and pairs.
    """
    keys = [short(content) for content in source.contents]
    kept: Kept = {"keys": KEYS, "classes": list(source.classes), "groups": "", "pairs": ""}
    for part, indices in split.parts().items():
        positions = indices.tolist()
        kept[part] = {"images": [keys[i] for i in positions], "labels": source.labels[indices].tolist()}
    groups = source.image_groups or (source.groups and [source.groups[label] for label in source.labels.tolist()])
    if by_group and groups:
        kept["groups"] = _digest(map(str, zip(keys, groups, strict=True)))
    if pairs is not None:
        columns = (pairs.first, pairs.second, pairs.is_same, pairs.fold)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        kept["pairs"] = _digest(f"{keys[i]} {keys[j]} {same} {fold}" for i, j, same, fold in rows)
    return kept


def data_key(source: Source) -> str:
    """A key of all images with their classes, whatever the split and wherever they lie."""
    named = zip(source.contents, source.labels.tolist(), strict=True)
    return _digest(f"{content} {source.classes[label]}" for content, label in named)


def changes(before: Kept, now: Kept, name_of: Callable[[str, int], str]) -> list[str]:
    """What is other about the data, each in a phrase; empty where training may go on with them.

    Args:
        before: what a checkpoint has kept.
        now: the same of the data as they are.
        name_of: says which image one is now, by its part and its position in that.
    """
    called = _renamed(before, now)
    said = [f"class {one} is called {other} now" for one, other in called.items()]
    if gone := [one for one in before["classes"] if one not in called and one not in now["classes"]]:
        said.append(f"{_count(gone, 'class', 'classes')} went, {some(gone)}")
    if come := [one for one in now["classes"] if one not in called.values() and one not in before["classes"]]:
        said.append(f"{_count(come, 'class', 'classes')} came, {some(come)}")
    if not said and before["classes"] != now["classes"]:
        said.append("the classes are in another order")
    old, new = _by_key(before, called), _by_key(now)
    if came := [one for key, ones in new.items() for one in ones[len(old.get(key, ())) :]]:
        said.append(f"{_count(came)} came, such as {name_of(came[0].part, came[0].position)}")
    if went := [one for key, ones in old.items() for one in ones[len(new.get(key, ())) :]]:
        said.append(f"{_count(went)} went, such as one of {went[0].label} in {went[0].part}")
    for what, of in (("of another class", attrgetter("label")), ("in another part", attrgetter("part"))):
        if moved := [found for key, ones in new.items() if (found := _moved(old.get(key, []), ones, of))]:
            one, was = moved[0]
            name = name_of(one.part, one.position)
            said.append(f"{_count(moved)} {_are(moved)} {what}, such as {name} ({of(one)}, was {was})")
    said += [f"the {what} are others" for what in ("groups", "pairs") if before[what] != now[what]]
    return said


def short(content: str) -> str:
    """A short key of an image's content, or of a name, which may hold bytes that are no UTF-8."""
    return hashlib.blake2b(content.encode(errors="surrogatepass"), digest_size=8).hexdigest()


class _Image(NamedTuple):
    label: str
    part: str
    position: int  # in its part


def _by_key(kept: Kept, called: Mapping[str, str] = MappingProxyType({})) -> dict[str, list[_Image]]:
    """The images of each key, under the names that their classes have now."""
    found: dict[str, list[_Image]] = {}
    for part in PARTS:
        for position, (key, label) in enumerate(zip(kept[part]["images"], kept[part]["labels"], strict=True)):
            name = kept["classes"][label]
            found.setdefault(key, []).append(_Image(called.get(name, name), part, position))
    return found


def _moved(old: Sequence[_Image], new: Sequence[_Image], of: Callable[[_Image], str]) -> tuple[_Image, str] | None:
    """Of as many copies of an image as before, one that is elsewhere now, and where it was."""
    was, now = Counter(map(of, old)), Counter(map(of, new))
    if len(old) != len(new) or was == now:
        return None
    return next(one for one in new if of(one) in now - was), next(iter(was - now))


def _renamed(before: Kept, now: Kept) -> dict[str, str]:
    """By the name of each class that is gone that of a new one which has most of its images."""
    new, of_class = _by_key(now), defaultdict[str, list[str]](list)
    for key, ones in _by_key(before).items():
        for one in ones:
            of_class[one.label].append(key)
    found = {}
    for name, keys in of_class.items():
        now_of = Counter(one.label for key in keys for one in new.get(key, ()))
        most = max(now_of, key=now_of.__getitem__, default=name)
        if name not in now["classes"] and most not in before["classes"] and 2 * now_of[most] > len(keys):
            found[name] = most
    return found


def _count(things: Sequence[object], one: str = "image", many: str = "images") -> str:
    return f"{len(things):,} {one if len(things) == 1 else many}"


def _are(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _digest(lines: Iterable[str]) -> str:
    """A key of lines in whatever order."""
    return short("\n".join(sorted(lines)))
