"""Cut the site's math font to what pages use, and a little more: .ci/math_font.py STIXTwoMath-Regular.woff2

The font is STIX Two Math 2.11 (https://github.com/stipub/stixfonts, OFL). Needs fonttools and brotli. tests/site/test_built.py
tells when a page uses a character that the font of the site lacks: add it here and cut again.
"""

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

LETTERS = [chr(c) for c in range(0x21, 0x7F)]
GREEK = [chr(c) for c in (*range(0x391, 0x3AA), *range(0x3B1, 0x3CA))] + [*"ϵϕϑ"]
ITALIC = [
    chr(c) for c in (*range(0x1D434, 0x1D468), 0x210E)
]  # what a browser makes of <mi>x</mi>
GREEK_ITALIC = [chr(c) for c in range(0x1D6E2, 0x1D71C)]
BOLD = [chr(c) for c in range(0x1D400, 0x1D434)]
BOLD_ITALIC = [chr(c) for c in range(0x1D468, 0x1D49C)]
GREEK_BOLD = [*"𝜶𝜷𝜸𝜹𝜺𝜽𝝀𝝁𝝈𝝎𝝓"]
SCRIPT = [*"𝒜ℬ𝒞𝒟ℰℱ𝒢ℋℒ𝒩𝒪𝒫ℛ𝒮𝒯𝒰𝒱𝒲𝒳𝒴ℓ"]
DOUBLE = [*"𝔼ℕℝℤ𝟙"]
SIGNS = [*" \xa0±×÷ˆ˜¯‖…′″‴←↑→↓↔⇒⇐⇔∀∂∃∅∇∈∉∏∑−∓∗∘√∝∞∧∨∩∪∫∼≈≠≡≤≥≪≫⊂⊆⊕⊖⊗⊙⊤⊥⋅⋆⋯⋮⋱⌈⌉⌊⌋⟨⟩"]
JOINS = [*"\u2061\u2062\u2063\u2064\ufe00"]


PARTS = (
    LETTERS,
    GREEK,
    ITALIC,
    GREEK_ITALIC,
    BOLD,
    BOLD_ITALIC,
    GREEK_BOLD,
    SCRIPT,
    DOUBLE,
    SIGNS,
    JOINS,
)
KEPT = {c for part in PARTS for c in part}


def only_primes_have_script_forms(font: TTFont) -> None:
    """Letters are scaled down in indices without them, at half the bytes; a prime would be raised twice."""
    primes = {font.getBestCmap()[ord(c)] for c in "′″‴"}
    table = font["GSUB"].table
    numbers = {
        n
        for f in table.FeatureList.FeatureRecord
        if f.FeatureTag == "ssty"
        for n in f.Feature.LookupListIndex
    }
    for number in numbers:
        for part in table.LookupList.Lookup[number].SubTable:
            part = getattr(part, "ExtSubTable", part)
            forms = part.alternates if hasattr(part, "alternates") else part.mapping
            for glyph in [g for g in forms if g not in primes]:
                del forms[glyph]


def main(source: str) -> None:
    out = Path(__file__).parents[1] / "docs/assets/fonts/stix-two-math-subset.woff2"
    options = Options()
    options.flavor, options.layout_features = "woff2", ["ssty"]
    options.hinting = False  # of no use at the sizes of today's screens
    options.name_IDs = [0, 1, 2, 13, 14]  # copyright, name and licence stay
    font = TTFont(source)
    only_primes_have_script_forms(font)
    cut = Subsetter(options)
    cut.populate(unicodes=[ord(c) for c in KEPT])
    cut.subset(font)
    font.flavor = "woff2"
    font.save(out)
    print(
        f"{out.name}: {out.stat().st_size:,} bytes, {len(font.getBestCmap())} characters"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
