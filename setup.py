import re
from pathlib import Path

from setuptools import setup

# A package page knows no path of this folder: pictures are left out there, and links are words and a path.
text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
text = re.sub(r"(?m)^(!\[|<img ).*\n\n?", "", text)
setup(long_description=re.sub(r"\[([^]]+)\]\((?!https?:)([^)]+)\)", r"\1 (\2)", text))
