"""Numbers as people read them: few digits, none in scientific notation, a real minus sign."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"


def significant(value: float, digits: int = 3) -> str:
    """Round to significant digits without scientific notation: 1234, 12.3, 0.0123."""
    if value != value or abs(value) == float("inf"):
        return "not finite"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    plain = f"{float(text):.10f}".rstrip("0").rstrip(".") if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"
    wanted = digits - len(plain.replace("-", "").replace(".", "").lstrip("0"))
    if abs(value) < 10 ** (digits - 1) and wanted > 0:
        plain += ("" if "." in plain else ".") + "0" * wanted
    return plain.replace("-", MINUS)


def trimmed(value: float) -> str:
    """Three significant digits at most: 0.39, 1.25, 42."""
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
