"""What makes a site of the repository's pages, whose links are made for a browser of the repository.

The pages in the order of ``docs/README.md``; files outside of ``docs`` that they lead to; a page for each module, made
of its docstrings; the notebooks with their images; and ``llms.txt``. MkDocs calls the functions whose names begin with
``on_``.
"""

import ast
import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("wss_data", "wss_train")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(?=\))")
SECTIONS = ("Tutorials", "How to", "Reference", "Explanation")  # Rows of the table in docs/README.md
# A list right below a line of prose is a list in the repository's browser; here it needs an empty line.
LIST_BELOW_PROSE = re.compile(r"^((?!\s*(?:[-*]|\d+\.) |\|).*\S.*)\n(?=(?:[-*]|\d+\.) )", re.MULTILINE)

SOURCE = re.compile(r'<details class="mkdocstrings-source">.*?</details>', re.DOTALL)

_whole: dict[str, str] = {}  # Page whose source code is hidden -> its content
_sources: dict[str, str] = {}  # Page of the site -> file of the repository
_texts: dict[str, tuple[str, str]] = {}  # Page of the site -> its title and its text


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Set the pages in order: those of the table in ``docs/README.md``, then the modules."""
    nav: list[dict[str, Any]] = [{"Start": [site_uri("README.md"), site_uri("docs/README.md")]}]
    rows = re.findall(r"^\|.*\]\(.*\|$", (ROOT / "docs/README.md").read_text(encoding="utf-8"), re.MULTILINE)
    for section, row in zip(SECTIONS, rows, strict=True):
        links = re.findall(r"\[([^\]]+)\]\(([^)]+)\)", row)
        pages = [{name[:1].upper() + name[1:]: site_uri(posixpath.normpath(f"docs/{to}"))} for name, to in links]
        nav.append({section: pages})
    known = {uri for pages in nav for uri in re.findall(r"'([\w/]+\.md)'", str(pages))}
    nav.append({"API": [site_uri("api"), *({package: _tree(ROOT / package)} for package in PACKAGES)]})
    others = (site_uri(source) for source in _linked_files() if source.endswith(".md"))
    nav.append({"Project": sorted(set(others) - known)})
    config.nav = nav
    config.watch += [str(ROOT / package) for package in PACKAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what does not lie in ``docs`` as it is shown."""
    for file in list(files):
        if file.src_uri == "README.md" or file.src_uri.endswith(".ipynb"):
            files.remove(file)
    for file in files.documentation_pages():
        _sources[file.src_uri] = f"docs/{file.src_uri}"
    _add(files, config, site_uri("api"), _public_names())
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            source = path.relative_to(ROOT).as_posix()
            name = source.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            _add(files, config, site_uri(source), f"---\ntitle: {name}\n---\n\n::: {name}\n", source)
    for notebook in (ROOT / "docs").rglob("*.ipynb"):
        source = notebook.relative_to(ROOT).as_posix()
        text, images = _shown(notebook)
        for name, image in images.items():
            files.append(
                File.generated(config, posixpath.join(posixpath.dirname(site_uri(source)), name), content=image)
            )
        _add(files, config, site_uri(source), text, source)
    for source in _linked_files():
        if source.endswith(".md"):
            _add(files, config, site_uri(source), (ROOT / source).read_text(encoding="utf-8"), source)
        else:
            files.append(File.generated(config, site_uri(source), abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where the site has what they name."""
    source = _sources.get(page.file.src_uri)
    if source is None or source.endswith(".py"):
        return markdown
    markdown = LIST_BELOW_PROSE.sub(r"\1\n\n", markdown)
    here = posixpath.dirname(page.file.src_uri)

    def to_site(match: re.Match[str]) -> str:
        target, anchor = match.groups()
        if files.get_file_from_path(posixpath.join(here, target)) and source.endswith(".ipynb"):
            return match.group()
        uri = site_uri(posixpath.normpath(posixpath.join(posixpath.dirname(source), target)))
        return posixpath.relpath(uri, here or ".") + (anchor or "")

    text = LINK.sub(to_site, markdown)
    title = re.search(r"^# (.*)$", text, re.MULTILINE)
    _texts[page.file.dest_uri] = (title.group(1) if title else page.file.name, text)
    return text


@event_priority(50)
def _hide_source(context: Any, page: Page, **_: Any) -> None:
    """Before the search reads the page: of a module it finds names and docstrings, not twice the words of all code."""
    _whole[page.file.src_uri] = page.content or ""
    page.content = SOURCE.sub("", page.content or "")


@event_priority(-50)
def _show_source(context: Any, page: Page, **_: Any) -> None:
    """Behind the search: the page has its source code."""
    page.content = _whole.pop(page.file.src_uri)


on_page_context = CombinedEvent(_hide_source, _show_source)


def on_post_build(config: MkDocsConfig) -> None:
    """Write ``llms.txt``, the list of all pages of prose, and ``llms-full.txt``, their text."""
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    for section, pages in ((name, pages) for entry in config.nav or [] for name, pages in entry.items()):
        uris = [next(iter(page.values())) if isinstance(page, dict) else page for page in pages]
        known = [uri.removesuffix(".md") + ".html" for uri in uris if isinstance(uri, str)]
        lines += ["", f"## {section}", ""] + [f"- [{_texts[uri][0]}]({uri})" for uri in known if uri in _texts]
    site = Path(config.site_dir)
    (site / "llms.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
    full = (f"<!-- {uri} -->\n\n{text.strip()}\n" for uri, (_, text) in _texts.items())
    (site / "llms-full.txt").write_text("\n".join(full), encoding="utf-8")


def site_uri(source: str) -> str:
    """Where the site has a file or folder of the repository.

    >>> [site_uri(name) for name in ("README.md", "docs/README.md", "docs/how_to/install.md", "wss_data/ledger.py")]
    ['index.md', 'pages.md', 'how_to/install.md', 'api/wss_data/ledger.md']
    >>> site_uri("wss_data/crf"), site_uri("datasets/README.md"), site_uri("datasets/drawn.yaml")
    ('api/wss_data/crf/index.md', 'project/datasets/readme.md', 'project/datasets/drawn.yaml')
    """
    if source in ("README.md", "docs/README.md"):
        return {"README.md": "index.md"}.get(source, "pages.md")
    if source.startswith("docs/"):
        return source.removeprefix("docs/").removesuffix(".ipynb") + (".md" if source.endswith(".ipynb") else "")
    if source == "api" or source.split("/")[0] in PACKAGES:
        inside = source if source == "api" else f"api/{source}"
        if inside.endswith("/__init__.py") or "." not in posixpath.basename(inside):
            return f"{inside.removesuffix('/__init__.py')}/index.md"
        return inside.removesuffix(".py") + ".md" if inside.endswith(".py") else inside
    return f"project/{source.lower() if source.endswith('.md') else source}"


def _add(files: Files, config: MkDocsConfig, uri: str, text: str, source: str | None = None) -> None:
    files.append(File.generated(config, uri, content=text))
    if source is not None:
        _sources[uri] = source


def _shown(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page: its text, code, and what it printed; and the images in it by their files' names."""
    parts, images = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/jpeg" in data:
                name = f"{notebook.stem}_{len(images)}.jpg"
                images[name] = base64.b64decode("".join(data["image/jpeg"]))
                parts.append(f"![What the cell shows]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join([*parts, ""]), images


def _linked_files() -> list[str]:
    """The pages beside ``docs``, the table of all pages, and each file outside of ``docs`` that a page links to."""
    pages = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    found = [page for page in pages if "/" not in page or page == "docs/README.md"]
    while pages:
        page = pages.pop()
        for target, _ in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
            source = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
            inside = source.startswith("docs/") or source.split("/")[0] in PACKAGES
            if (ROOT / source).is_file() and not inside and source not in found:
                found.append(source)
                pages += [source] if source.endswith(".md") else []
    return found


def _tree(folder: Path) -> list[Any]:
    """The pages of a package, its own page first."""
    pages: list[Any] = [site_uri(folder.relative_to(ROOT).as_posix())]
    for path in sorted(folder.iterdir()):
        if (path / "__init__.py").is_file():
            pages.append({path.name: _tree(path)})
        elif path.suffix == ".py" and path.name != "__init__.py":
            pages.append({path.stem: site_uri(path.relative_to(ROOT).as_posix())})
    return pages


def _public_names() -> str:
    """The page of the names that a program uses: what ``import wss_data`` and ``import wss_train`` offer."""
    lines = ["# The names to import", "", "Each is loaded when it is first used. All modules are listed beside."]
    for package in PACKAGES:
        lines += ["", f"## {package}", ""]
        tree = ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        for node in imports:
            whole = node.module in PACKAGES  # A module of the package, not a name in it
            if str(node.module).startswith(PACKAGES) and "runtime" not in str(node.module):
                lines += [
                    f"- [{package}.{name.name}][{node.module}.{name.name}]" + " (module)" * whole for name in node.names
                ]
    return "\n".join([*lines, ""])


class Docstrings(griffe.Extension):
    """Makes Markdown of what our docstrings hold beside it: examples that are run as tests, and literal blocks."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Put fences around the examples of an object."""
        if obj.docstring:
            text = re.sub(r"((?:^ *>>> .*\n(?:^ *\S.*\n?)*)+)", _fenced, obj.docstring.value + "\n", flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^::\n|(?<=:):(?=\n\n )", "", text, flags=re.MULTILINE).rstrip()


def _fenced(match: re.Match[str]) -> str:
    indent = " " * (len(match[1]) - len(match[1].lstrip(" ")))
    return f"\n{indent}```pycon\n{match[1].rstrip()}\n{indent}```\n"
