"""What was found as one page with pictures, in one file that needs no network; every name is escaped."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from stagetune.artifacts import write_text
from stagetune.inspection.check import KINDS, Checked, Finding
from stagetune.inspection.looks import picture
from stagetune.inspection.telling import majority, summary
from stagetune.visible import visible

TEMPLATE = Path(__file__).with_name("page.html")
SIDE = 112  # pixels of a picture
PICTURED = 60  # findings of a kind that have pictures
TOGETHER = 6  # pictures of a finding
CLASSES = 200  # in the table, those with the fewest images


def write_page(checked: Checked, path: Path) -> None:
    """Write the page in one piece."""
    write_text(path, page(checked))


def page(checked: Checked) -> str:
    said = "".join(f"<tr><th>{escape(about)}</th><td>{escape(text)}</td></tr>" for about, text in summary(checked))
    sections = [_broken(checked.unreadable)] if checked.unreadable else []
    sections += [_section(checked, kind, found) for kind, found in checked.found.items() if found]
    text = Template(TEMPLATE.read_text()).substitute(
        title=escape(f"{checked.config.name}: the data of {checked.source.name}"),
        summary=said,
        sections="".join(sections),
        classes=_classes(checked) if checked.config.data.has_identities else "",
    )
    return visible(text)


def _broken(unreadable: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(one)}</li>" for one in unreadable)
    return f'<section><h2 id="broken">Images that cannot be read: {len(unreadable):,}</h2><ul>{items}</ul></section>'


def _section(checked: Checked, kind: str, found: Sequence[Finding]) -> str:
    shown = "".join(_figure(checked, one) for one in found[:PICTURED])
    rest = f'<p class="soft">and {len(found) - PICTURED:,} more; --json has all</p>' if len(found) > PICTURED else ""
    title = f"{KINDS[kind][0].upper()}{KINDS[kind][1:]}: {len(found):,}"
    return f'<section><h2 id="{kind}">{escape(title)}</h2><div class="findings">{shown}</div>{rest}</section>'


def _figure(checked: Checked, one: Finding) -> str:
    pictures = "".join(_picture(checked, index) for index in one.images[:TOGETHER])
    more = f" and {len(one.images) - TOGETHER} more" if len(one.images) > TOGETHER else ""
    return f"<figure><div>{pictures}</div><figcaption>{escape(one.text + more)}</figcaption></figure>"


def _picture(checked: Checked, index: int) -> str:
    name, part, label = checked.source.describe(index), checked.part[index], checked.label(index)
    image = picture(checked.source, index)
    image.thumbnail((SIDE, SIDE))
    if max(image.size) < SIDE:  # a small one is shown in its pixels
        times = SIDE // max(image.size)
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    data = base64.b64encode(file.getvalue()).decode()
    where = escape(" · ".join(word for word in (part, label) if word))
    short = escape(checked.short(index))
    return (
        f'<span class="one"><img alt="{escape(name, quote=True)}" title="{escape(name, quote=True)}" '
        f'src="data:image/webp;base64,{data}"><span>{where}</span><span class="soft">{short}</span></span>'
    )


def _classes(checked: Checked) -> str:
    parts, labels, classes = checked.split.parts(), checked.source.labels, checked.source.classes
    counts = [
        [int((labels[indices] == i).sum()) for indices in parts.values()] for i in range(len(checked.source.classes))
    ]
    order = sorted(range(len(counts)), key=lambda i: sum(counts[i]))[:CLASSES]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("class", *parts, "all"))
    rows = "".join(
        f"<tr><td>{escape(classes[i])}</td>"
        + "".join(f"<td>{count:,}</td>" for count in [*counts[i], sum(counts[i])])
        + "</tr>"
        for i in order
    )
    baseline = majority(checked)
    said = "Fewest first." + (f" The baseline answers {baseline} always." if baseline else "")
    left = f" {len(counts) - CLASSES:,} classes with more images are left out." if len(counts) > CLASSES else ""
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    return f'<section><h2>Classes</h2><p class="soft">{escape(said + left)}</p>{table}</section>'
