"""TeX formulas as MathML, which browsers draw without a script; the part of TeX that we write.

A formula with a command that is not in the tables here raises ``Unknown``; add the command.
"""

import re
import unicodedata
from collections.abc import Callable
from html import escape

GREEK = {
    name: unicodedata.lookup(f"GREEK SMALL LETTER {name.replace('lambda', 'lamda').upper()}")
    for name in (
        *("alpha", "beta", "gamma", "delta", "zeta", "eta", "theta", "kappa", "lambda"),
        *("mu", "nu", "xi", "pi", "rho", "sigma", "tau", "chi", "psi", "omega"),
    )
}
GREEK |= {"epsilon": "ϵ", "varepsilon": "ε", "phi": "ϕ", "varphi": "φ"}
UPRIGHT = {"Sigma": "Σ", "Delta": "Δ", "Lambda": "Λ", "Omega": "Ω", "Phi": "Φ", "Gamma": "Γ"}
UPRIGHT |= {"infty": "∞", "partial": "∂", "nabla": "∇", "top": "⊤", "ell": "ℓ", "dots": "…"}
UPRIGHT |= {"ldots": "…", "cdots": "⋯"}
OPERATORS = {"le": "≤", "ge": "≥", "ne": "≠", "ll": "≪", "gg": "≫", "sim": "∼", "approx": "≈"}
OPERATORS |= {"mid": "∣", "pm": "±", "times": "×", "cdot": "⋅", "to": "→", "in": "∈", "int": "∫"}
OPERATORS |= {"equiv": "≡", "propto": "∝", "subset": "⊂", "leq": "≤", "geq": "≥", "odot": "⊙"}
LIMITS = {"sum": "∑", "prod": "∏", "min": "min", "max": "max", "sup": "sup", "inf": "inf"}
FUNCTIONS = ("log", "ln", "exp", "det", "cos", "sin", "tanh", "tr", "rank", "dim", "arg")
SPACES = {"\\,": 0.17, "\\;": 0.28, "\\:": 0.22, "\\!": -0.17, "\\ ": 0.33, "~": 0.33}
SPACES |= {"\\quad": 1.0, "\\qquad": 2.0}
SIZES = {"big": 1.2, "Big": 1.8, "bigg": 2.4, "Bigg": 3.0}
ALPHABETS = {"mathcal": "SCRIPT", "mathbb": "DOUBLE-STRUCK"}
ACCENTS = {"hat": "^", "bar": "‾", "tilde": "~", "vec": "→"}
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)


class Unknown(ValueError):
    """A command that this module does not draw, or a brace that is not closed."""


def mathml(tex: str, display: bool = False) -> str:
    """A ``<math>`` element with the TeX source as its annotation.

    Raises:
        Unknown: the formula cannot be drawn.
    """
    drawn = _Formula(tex).row(None)
    kind = ' display="block"' if display else ""
    source = f'<annotation encoding="application/x-tex">{escape(tex.strip())}</annotation>'
    return f"<math{kind}><semantics>{drawn}{source}</semantics></math>"


class _Formula:
    """The tokens of a formula and how far they have been read."""

    def __init__(self, tex: str) -> None:
        self.tokens = TOKEN.findall(tex)
        self.at = 0

    def peek(self) -> str:
        """The next token that is no white space; empty at the end."""
        while self.at < len(self.tokens) and self.tokens[self.at].isspace():
            self.at += 1
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        if not token:
            raise Unknown("the formula ends too early")
        self.at += 1
        return token

    def row(self, end: str | None) -> str:
        """Everything up to ``end``, which is read too."""
        parts = []
        while (token := self.peek()) != (end or ""):
            if token in ("\\textstyle", "\\displaystyle"):
                self.take()
                shown = str(token == "\\displaystyle").lower()
                parts.append(f'<mstyle displaystyle="{shown}">{self.row(end)}</mstyle>')
                return f"<mrow>{''.join(parts)}</mrow>"
            parts.append(self.scripted())
        if end:
            self.take()
        return f"<mrow>{''.join(parts)}</mrow>"

    def argument(self) -> str:
        """A group in braces or a single token."""
        return self.atom(self.take(), single=True)

    def words(self) -> str:
        """The text of a group in braces, as it stands."""
        if self.take() != "{":
            return self.tokens[self.at - 1]
        start = self.at
        while self.take() != "}":
            pass
        return "".join(self.tokens[start : self.at - 1])

    def scripted(self) -> str:
        """An atom with its sub- and superscripts."""
        first = self.take()
        base = self.atom(first)
        below, above = "", ""
        while (token := self.peek()) in ("_", "^", "'"):
            self.take()
            if token == "'":
                above += "<mo>′</mo>"
            elif token == "_":
                below = self.argument()
            else:
                above += self.argument()
        under, over, both = "msub", "msup", "msubsup"
        if first[1:] in LIMITS:
            under, over, both = "munder", "mover", "munderover"
        if below and above:
            return f"<{both}>{base}{below}<mrow>{above}</mrow></{both}>"
        if below:
            return f"<{under}>{base}{below}</{under}>"
        return f"<{over}>{base}<mrow>{above}</mrow></{over}>" if above else base

    def atom(self, token: str, single: bool = False) -> str:
        if token == "{":
            return self.row("}")
        if token in SPACES:
            return f'<mspace width="{SPACES[token]}em"/>'
        if token.startswith("\\"):
            return self.command(token[1:])
        if token.isdigit():
            while not single and self.at < len(self.tokens) and self._goes_on():
                token += self.tokens[self.at]
                self.at += 1
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        if token in "_^&}":
            raise Unknown(f"{token!r} out of place")
        return _mark(token)

    def _goes_on(self) -> bool:
        """Whether the next token still belongs to a number: 2.5 does, the full stop of 2. not."""
        following = self.tokens[self.at : self.at + 2]
        return following[0].isdigit() or (
            following[0] == "." and len(following) == 2 and following[1].isdigit()
        )

    def command(self, name: str) -> str:
        drawn: dict[str, Callable[[], str]] = {
            "frac": lambda: f"<mfrac>{self.argument()}{self.argument()}</mfrac>",
            "tfrac": lambda: f'<mstyle displaystyle="false">{self.command("frac")}</mstyle>',
            "sqrt": lambda: f"<msqrt>{self.argument()}</msqrt>",
            "text": lambda: f"<mtext>{escape(self.words())}</mtext>",
            "mathrm": lambda: f'<mi mathvariant="normal">{escape(self.words())}</mi>',
            "operatorname": lambda: self.function(self.words()),
        }
        if name in drawn:
            return drawn[name]()
        if name in GREEK:
            return f"<mi>{GREEK[name]}</mi>"
        if name in UPRIGHT:
            return f'<mi mathvariant="normal">{UPRIGHT[name]}</mi>'
        if name in OPERATORS:
            return f"<mo>{OPERATORS[name]}</mo>"
        if name in LIMITS:
            return f'<mo movablelimits="true" rspace="0.17em">{LIMITS[name]}</mo>'
        if name in FUNCTIONS:
            return self.function(name)
        if name in SIZES:
            return _mark(self.take(), SIZES[name])
        if name in ALPHABETS:
            return f"<mi>{_letter(ALPHABETS[name], self.words())}</mi>"
        if name in ACCENTS:
            return f'<mover accent="true">{self.argument()}<mo>{ACCENTS[name]}</mo></mover>'
        if not name.isalnum():
            return _mark("\\" + name)
        raise Unknown(f"the command \\{name}")

    def function(self, name: str) -> str:
        after = "0" if self.peek() in ("(", "\\big", "\\Big", "\\!") else "0.17em"
        return f'<mo lspace="0.17em" rspace="{after}">{name}</mo>'


def _mark(token: str, size: float = 0) -> str:
    """A bracket, a bar, or another sign as an operator."""
    sign = {"-": "−", "\\|": "‖", "*": "∗"}.get(token, token.removeprefix("\\"))
    fixed = f'stretchy="true" minsize="{size}em" maxsize="{size}em"' if size else 'stretchy="false"'
    tight = ' lspace="0" rspace="0"' if sign in "|‖/" else ""
    if sign in "()[]{}|‖":
        return f"<mo {fixed}{tight}>{sign}</mo>"
    return f"<mo{tight}>{escape(sign)}</mo>"


def _letter(alphabet: str, letter: str) -> str:
    """A capital of another alphabet; a few of them have older names in Unicode."""
    for prefix in ("MATHEMATICAL ", ""):
        try:
            return unicodedata.lookup(f"{prefix}{alphabet} CAPITAL {letter}")
        except KeyError:
            continue
    raise Unknown(f"no {alphabet.lower()} {letter!r}")
