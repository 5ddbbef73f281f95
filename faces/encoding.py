"""Symbols on terminals, and in pipes, whose encoding lacks them: ε becomes eps, σ_λ² sigma_lambda^2."""

import codecs
import sys
import unicodedata

HANDLER = "sgdphases.plain"
_PLAIN = {
    "–": "-", "—": "-", "…": "...", "→": "->", "×": "x", "·": "*", "‖": "||", "∥": "||", "⊥": "perp", "°": " deg",
    "≤": "<=", "≥": ">=", "≪": "<<", "≫": ">>", "≈": "~", "±": "+-", "√": "sqrt", "∞": "inf", "⟨": "<", "⟩": ">",
    "²": "^2", "³": "^3", "‘": "'", "’": "'", "“": '"', "”": '"', "•": "*",
}  # fmt: skip


def plain(text: str) -> str:
    """A text in ASCII: Greek letters by their names, other symbols by what comes close, and ? for all else."""
    return "".join(character if character < "\x80" else _plain(character) for character in text)


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    name = unicodedata.name(character, "")
    if name.startswith("GREEK") and "LETTER" in name:
        letter = name.split("LETTER ")[1].split(" WITH")[0].split()[-1].lower()
        letter = {"lamda": "lambda", "epsilon": "eps"}.get(letter, letter)
        return letter.capitalize() if "CAPITAL" in name else letter
    if name.startswith("BOX DRAWINGS"):
        return {"HORIZONTAL": "-", "VERTICAL": "|"}.get(name.split()[-1], "+")
    close = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return close or "?"


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return plain(error.object[error.start : error.end]), error.end


def write_any_text() -> None:
    """Let standard output and error write what their encoding lacks as `plain` does, instead of failing at it."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors=HANDLER)
