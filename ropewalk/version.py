"""The version of this build; pyproject.toml says the same (tested)."""

VERSION = "0.1.0"
