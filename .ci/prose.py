"""Check the rules of prose that a program can check: `python .ci/prose.py [PATH ...]`.

It reads Markdown pages, and docstrings, comments and messages of Python modules.
"""

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
PLACES = ("README.md", "docs", "encoder", "export", "player", "benchmarks", ".ci")
MAX_WORDS = 25
"""Words of a sentence."""
MAX_MEDIAN = 16
"""Words of the median sentence of all pages."""

VERBS = (
    "is|are|was|were|it|its|they|one|others|has|have|had|does|do|did|can|cannot|may|must|will|"
    "would|comes?|came|goes|follows?|makes?|made|takes?|took|holds?|needs?|depends?|stands?|lies|"
    "belongs?|remains|says|tells|shows?"
)
RULES = {
    "headless clause, name the thing": re.compile(
        rf"\b[Ww]hat (?:{VERBS})\b|\b[Ww]hoever\b|\b[Oo]f which\b"
        r"|\b(?:for|by|to|of|from|than|as|with|and|or) (?:what|who|whoever)\b"
        r"|\b(?:of|to|for|with) whom\b|^(?:What|Who|Whom)\b(?!.*\?$)"
    ),
    "say the viewer, the server, the session": re.compile(
        r"\b(?:[Hh]e|[Hh]im|[Hh]is|[Ss]he|[Hh]ers?)\b"
    ),
    "number in words": re.compile(r"\ba (?:third|quarter|fifth|sixth|tenth|\w+th) of\b"),
    "use -ize": re.compile(
        r"\b(?:de|un|re)?(?:quant|norm|optim|initial|minim|maxim|organ|recogn|synchron|equal"
        r"|parallel|general|visual|serial|util|summar)(?:al)?is(?:e[drs]?|ing|ations?|er)\b",
        re.IGNORECASE,
    ),
}
OPENINGS = re.compile(r"(?:What|How|Which|Who|Whose|When|Where|Whether)\b")
RUN_ON = re.compile(r"Of\b|\.\.\.|, |and\b|or\b")
INLINE_CODE = re.compile(r"``?[^`]+``?")
LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
ABBREVIATIONS = re.compile(r"\b(?:e\.g|i\.e|vs|etc|cf|al|fig|no|approx)\.", re.IGNORECASE)
SENTENCE_END = re.compile(
    r"(?<=[.!?])[\"')\]*_]*\s+(?=[\"'(*_`\[]*[A-Z0-9X])|(?<=[:;])\s+(?=[A-Z])"
)
DIAGRAM = re.compile(r"\s*(?:\S+\n[├└│]|.*[├└│]|    \S)")
HELP = ("help", "summary", "description")
MESSAGE = re.compile(r"(?:\w+Error|logger\.\w+)$")
PRAGMA = re.compile(r"#!|# (?:noqa|type:|pyright:|ruff:|fmt:)")
WORD = re.compile(r"[A-Za-z0-9][\w'/.,%+-]*")


def plain(text: str) -> str:
    """Return a text with code and links as single words, and without emphasis."""
    text = LINK.sub(r"\1", INLINE_CODE.sub("X", text))
    return ABBREVIATIONS.sub("X", text.replace("*", "").replace("_", " "))


def sentences(text: str) -> list[str]:
    """Return the sentences of a paragraph."""
    parts = SENTENCE_END.split(" ".join(plain(text).split()))
    return [part for part in parts if part.strip()]


def page_paragraphs(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs of a page with their lines' numbers, without tables and code."""
    lines: list[str] = []
    start = 0
    is_code = False
    for number, line in enumerate([*path.read_text().splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
        is_item = re.match(r"\s*(?:[-*+]|\d+\.)\s", line) is not None
        is_text = (
            not (is_code or re.match(r"\s*(?:\||#|<|```|\$|---|!!!|:::)|    ", line)) or is_item
        )
        if lines and (not line.strip() or is_item or not is_text):
            yield start, " ".join(lines)
            lines = []
        if is_text and line.strip():
            start = start if lines else number
            lines.append(re.sub(r"^\s*(?:[-*+>]|\d+\.)\s+", "", line).strip())


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the kind, and the text of docstrings, by paragraph."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        body = node.body if isinstance(node, (ast.Module, ast.ClassDef, *functions)) else []
        for index, child in enumerate(body):
            if not isinstance(child, ast.Expr) or not isinstance(child.value, ast.Constant):
                continue
            kind = "field" if index else "module" if isinstance(node, ast.Module) else "docstring"
            for paragraph in re.split(r"\n\s*\n", str(child.value.value)):
                if not DIAGRAM.match(paragraph):
                    yield child.lineno, kind, paragraph
                kind = "docstring" if kind == "module" else kind


def comments(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the kind, and the text of comments."""
    lines: list[str] = []
    start = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not PRAGMA.match(token.string):
            start = start if lines else token.start[0]
            lines.append(re.sub(r"# ?(?:noqa|type:|pyright:)[^#]*", "", token.string.lstrip("# ")))
        elif lines and token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.INDENT):
            yield start, "comment", " ".join(lines)
            lines = []


def messages(tree: ast.Module) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the kind, and the text of errors, log lines and help."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        texts = [each.value for each in node.keywords if each.arg in HELP]
        if MESSAGE.search(ast.unparse(node.func)):
            texts += node.args
        for text in texts:
            if words := _words(text):
                yield node.lineno, "message", words


def _words(node: ast.expr) -> str:
    """Return a string with its formatted values as single words; nothing for other expressions."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[-+.\d]*[sdfgr]", "X", text)
        case ast.JoinedStr(values=parts):
            return "".join(
                _words(part) if isinstance(part, ast.Constant) else "X" for part in parts
            )
        case _:
            return ""


def module_texts(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the number of the line, the kind, and the text of docstrings, comments and messages."""
    source = path.read_text()
    tree = ast.parse(source)
    yield from docstrings(tree)
    yield from messages(tree)
    yield from comments(source)


def faults(text: str, kind: str) -> Iterator[str]:
    """Yield what breaks a rule in a paragraph."""
    if kind == "module" and OPENINGS.match(text.strip()):
        yield f"a module's docstring begins with a noun or a verb: {text.strip()[:60]}"
    if kind == "field" and RUN_ON.match(text.strip()):
        yield f"a field's docstring stands alone: {text.strip()[:60]}"
    for sentence in sentences(text):
        count = len(WORD.findall(sentence))
        if count > MAX_WORDS:
            yield f"{count} words: {sentence[:70]}..."
        for name, pattern in RULES.items():
            if found := pattern.search(sentence):
                yield f"{name}: ...{sentence[max(found.start() - 30, 0) : found.end() + 30]}..."


def main() -> int:
    """Print the faults of all files; return whether there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files, folders (default: all)")
    named = parser.parse_args().paths
    paths = named or [ROOT / place for place in PLACES]
    files = sorted(
        {file for path in paths for file in ([path] if path.is_file() else path.rglob("*"))}
    )
    found = 0
    lengths: list[int] = []
    for file in files:
        if file.suffix == ".md":
            texts = [(number, "page", text) for number, text in page_paragraphs(file)]
            found_sentences = [each for _, _, text in texts for each in sentences(text)]
            lengths += [len(WORD.findall(each)) for each in found_sentences]
        elif file.suffix == ".py":
            texts = list(module_texts(file))
        else:
            continue
        for number, kind, text in texts:
            for fault in faults(text, kind):
                shown = file.relative_to(ROOT) if file.is_absolute() else file
                print(f"{shown}:{number}: {fault}")
                found += 1
    if lengths and median(lengths) > MAX_MEDIAN:
        print(f"the median sentence of the pages has {median(lengths):g} words, over {MAX_MEDIAN}")
        found += 1
    print(f"{found} faults in {len(files)} files", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
