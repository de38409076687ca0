"""Keras runs on torch here, and must be told before anything imports it."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
