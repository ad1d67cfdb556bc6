"""Series can be told apart by people who don't see red, green or blue, on both grounds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from penstock.lab.pages import palette

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency (2009),
# severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": [1, 0, 0, 0, 1, 0, 0, 0, 1],
    "protan": [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
    "deutan": [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.011820, 0.042940, 0.968881],
    "tritan": [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.303900],
}
GROUNDS = {"light": "#ffffff", "dark": "#171f22"}


def linear(colour: str) -> np.ndarray:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1)
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_first_five_colours_differ_for_everyone(ground: str, deficiency: str) -> None:
    colours = (palette.LIGHT if ground == "light" else palette.DARK)[:5]
    seen = [lab(np.reshape(DEFICIENCIES[deficiency], (3, 3)) @ linear(colour)) for colour in colours]
    for (a, x), (b, y) in combinations(enumerate(seen), 2):
        assert np.linalg.norm(x - y) > 12, (colours[a], colours[b])


@pytest.mark.parametrize("ground", GROUNDS)
def test_every_colour_stands_out_from_its_ground(ground: str) -> None:
    luminance = np.array([0.2126, 0.7152, 0.0722])
    back = float(luminance @ linear(GROUNDS[ground]))
    for colour in palette.LIGHT if ground == "light" else palette.DARK:
        fore = float(luminance @ linear(colour))
        assert (max(fore, back) + 0.05) / (min(fore, back) + 0.05) >= 3.0, colour
