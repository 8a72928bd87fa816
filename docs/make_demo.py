"""Draws the end of a run of the demo as docs/demo.svg.

Run with:  script -qc "cargo run --release -- demo" run.txt && python3 docs/make_demo.py run.txt
"""

import re
import sys
from html import escape
from pathlib import Path

COLUMNS, WIDE, HIGH, LEFT, TOP = 130, 8.4, 19, 18, 52
LEVELS = (0, 95, 135, 175, 215, 255)  # of the 216 colours of a terminal


def colour(number):
    """Of the 256 that a terminal has."""
    number -= 16
    return "#{:02x}{:02x}{:02x}".format(*(LEVELS[number // part % 6] for part in (36, 6, 1)))


def pieces(line):
    """Text and its style, line by line of at most COLUMNS."""
    style, column, row = {}, 0, []
    for part in re.split(r"(\x1b\[[\d;]*m)", line):
        if part.startswith("\x1b"):
            codes = part[2:-1].split(";")
            if codes == ["0"] or codes == [""]:
                style = {}
            elif codes[:2] == ["38", "5"]:
                style = {"fill": colour(int(codes[2]))} | ({"back": colour(int(codes[5]))} if len(codes) > 5 else {})
            else:
                style = {"1": {"bold": True}, "2": {"dim": True}}[codes[0]]
            continue
        while part:
            taken, part = part[: COLUMNS - column], part[COLUMNS - column :]
            row.append((column, taken, style))
            column += len(taken)
            if part:
                yield row
                row, column = [], 0
    yield row


def main():
    text = Path(sys.argv[1]).read_text().replace("\r", "")
    start = text.index("\x1b[1mscores on the")
    lines = text[start : text.index("row 441", start)].strip().split("\n")
    rows = [row for line in ["$ cargo run --release -- demo", "\x1b[2m…\x1b[0m", *lines] for row in pieces(line)]
    backs, texts = [], []
    for number, row in enumerate(rows):
        y = TOP + HIGH * number
        for column, text, style in row:
            x = LEFT + WIDE * column
            if "back" in style:
                backs.append(f'<rect x="{x - 0.5:.1f}" y="{y - 14:.1f}" width="{WIDE * len(text) + 1:.1f}" height="18" rx="3" fill="{style["back"]}"/>')
            looks = f' fill="{style["fill"]}"' if "fill" in style else ' font-weight="bold"' if "bold" in style else ' opacity=".6"' if "dim" in style else ""
            if text.strip():
                texts.append(f'<text x="{x:.1f}" y="{y}"{looks} textLength="{WIDE * len(text):.1f}">{escape(text)}</text>')
    width, height = 2 * LEFT + WIDE * COLUMNS, TOP + HIGH * len(rows)
    dots = "".join(f'<circle cx="{20 + 18 * at}" cy="18" r="5" fill="{fill}"/>' for at, fill in enumerate(("#e0655a", "#dfb04a", "#62b568")))
    fonts = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" font-family="{fonts}" font-size="14"'
    ground = '<rect width="100%" height="100%" rx="10" fill="#1b1e23"/>'
    body = "\n".join([ground, dots, *backs, *texts])
    Path(__file__).with_name("demo.svg").write_text(f'{head} fill="#e4e2dc" xml:space="preserve">\n{body}\n</svg>\n')


main()
