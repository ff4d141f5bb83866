"""Names that generated C code has: those of a model, of its header, and of the members of its structs."""

from __future__ import annotations

import re

from sgsc_edge.errors import ConfigError

_LONGEST = 64
_DIGIT_FIRST = "m_"
LONGEST_NAME = _LONGEST - len(_DIGIT_FIRST)
"""Characters of a name that fits in C, whatever it begins with."""

MODEL_NAME = rf"^[a-z_][a-z0-9_]{{0,{_LONGEST - 1}}}$"
"""What a model may be called in C."""

# Keywords of C99 to C23 and of C++98 to C++26, with C++'s alternative tokens; types of <stdint.h>, which are
# in scope where C++ reads a member's name; and words that compilers or common headers define as macros.
_C = """
    alignas alignof auto bool break case char const constexpr continue default do double else enum extern
    false float for goto if inline int long nullptr register restrict return short signed sizeof static
    static_assert struct switch thread_local true typedef typeof typeof_unqual union unsigned void volatile
    while
"""
_CPP = """
    and and_eq asm bitand bitor catch char8_t char16_t char32_t class co_await co_return co_yield compl
    concept consteval constinit const_cast contract_assert decltype delete dynamic_cast explicit export
    friend mutable namespace new noexcept not not_eq operator or or_eq private protected public
    reinterpret_cast requires static_cast template this throw try typeid typename using virtual wchar_t xor
    xor_eq
"""
_MACROS = """
    arm cdecl complex errno far hyper i386 imaginary interface linux mips near noreturn pascal small stderr
    stdin stdout unix
"""
_WIDTHS = [f"{way}{bits}" for way in ("", "_least", "_fast") for bits in (8, 16, 32, 64)]
_TYPES = [
    f"{sign}int{kind}_t"
    for sign in ("", "u")
    for kind in (
        "ptr",
        "max",
        *(f"{way}{bits}" for way in ("", "_least", "_fast") for bits in (8, 16, 32, 64)),
    )
]
RESERVED = frozenset([*_C.split(), *_CPP.split(), *_MACROS.split(), *_TYPES])
"""What a member of a struct cannot be called in a header for C and C++."""


def identifier(name: str) -> str:
    """A name of characters that C takes, in lower case.

    >>> identifier("MNIST-cnn 2"), identifier("3d")
    ('mnist_cnn_2', 'm_3d')
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "model"
    return f"{_DIGIT_FIRST}{plain}" if plain[0].isdigit() else plain


def model_name(name: str) -> str:
    """What a model is called in C; ``ConfigError`` where that is too long for a package."""
    made = identifier(name)
    if not re.match(MODEL_NAME, made):
        raise ConfigError(
            f"the model's name has {len(made)} characters in C code; a package takes {_LONGEST}",
            where=f"name '{made[:_LONGEST]}...'",
            remedy="give a shorter one: project.name in sgsc.toml, or --name of package",
        )
    return made


def header_name(model: str) -> str:
    """The public header of a model of this C name: its own, so that a project can hold several models.

    >>> header_name("digits")
    'sgsc_digits.h'
    """
    return f"sgsc_{model}.h"
