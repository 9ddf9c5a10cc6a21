#!/usr/bin/env python3
"""Writes tests/golden/iris.json: the irises of the astronaut by LiteRT, the nets alone and behind the face mesh.

    pip install ai-edge-litert numpy pillow
    python3 tests/golden/make_iris.py ASTRONAUT.png FACE_LANDMARK.tflite IRIS_LANDMARK.tflite tests/golden/iris.json

`crops` are squares of 64 x 64 pixels cut from the picture, no pixel resampled (left, top, whether mirrored), with every output of the
iris net. `irises` are pixels of the picture: the mesh is looked for in a square given by hand, then twice where the mesh itself says
that the face is; each eye, level and 2.3 times as large as from corner to corner, goes through the iris net, a left one mirrored.
"""
import json
import math
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

CROPS = [(170, 85, False), (195, 80, True), (180, 90, False), (200, 100, True)]
FACE = (222, 115, 200, 0.0)  # x, y, side, rotation
CORNERS = [(33, 133), (263, 362)]


class Net:
    def __init__(self, path):
        self.net = Interpreter(model_path=path, num_threads=1)
        self.net.allocate_tensors()

    def __call__(self, pixels):
        self.net.set_tensor(self.net.get_input_details()[0]["index"], pixels[None].astype(np.float32))
        self.net.invoke()
        return {o["name"]: self.net.get_tensor(o["index"]).ravel() for o in self.net.get_output_details()}


def sample(picture, region, side):
    """Bilinear, the edge's pixels beyond the edge; (side, side, 3) in 0..1."""
    x, y, size, turn = region
    at = np.arange(side) * size / side - size / 2
    dx, dy = np.meshgrid(at, at)
    px, py = x + dx * math.cos(turn) - dy * math.sin(turn), y + dx * math.sin(turn) + dy * math.cos(turn)
    x0, y0 = np.floor(px).astype(int), np.floor(py).astype(int)
    ax, ay = (px - x0)[..., None], (py - y0)[..., None]
    pixel = lambda i, j: picture[np.clip(j, 0, picture.shape[0] - 1), np.clip(i, 0, picture.shape[1] - 1)]
    top = pixel(x0, y0) * (1 - ax) + pixel(x0 + 1, y0) * ax
    bottom = pixel(x0, y0 + 1) * (1 - ax) + pixel(x0 + 1, y0 + 1) * ax
    return (top * (1 - ay) + bottom * ay) / 255


def to_picture(region, points):
    x, y, size, turn = region
    d = (points - 0.5) * size
    return np.stack([x + d[:, 0] * math.cos(turn) - d[:, 1] * math.sin(turn), y + d[:, 0] * math.sin(turn) + d[:, 1] * math.cos(turn)], 1)


def square(points, right, left, margin):
    low, high = points.min(0), points.max(0)
    turn = math.atan2(left[1] - right[1], left[0] - right[0])
    return (*((low + high) / 2), (high - low).max() * margin, turn)


def main():
    picture, mesh, iris = np.asarray(Image.open(sys.argv[1]).convert("RGB"), np.float64), Net(sys.argv[2]), Net(sys.argv[3])
    crops = []
    for left, top, mirrored in CROPS:
        pixels = picture[top : top + 64, left : left + 64] / 255
        outputs = iris(pixels[:, ::-1] if mirrored else pixels)
        rounded = {name: [round(float(v), 5) for v in values] for name, values in outputs.items()}
        crops.append({"left": left, "top": top, "mirrored": mirrored, "outputs": rounded})
    region = FACE
    for _ in range(3):
        points = max(mesh(sample(picture, region, 192)).values(), key=len).reshape(-1, 3)[:, :2] / 192
        points = to_picture(region, points)
        region = square(points, points[33], points[263], 1.5)
    irises = []
    for eye, (outer, inner) in enumerate(CORNERS):
        ends = points[[outer, inner]]
        right, left = (ends[0], ends[1]) if eye == 0 else (ends[1], ends[0])
        region = square(ends, right, left, 2.3)
        pixels = sample(picture, region, 64)
        found = min(iris(pixels[:, ::-1] if eye else pixels).values(), key=len).reshape(-1, 3)[:, :2].astype(np.float64)
        if eye:
            found[:, 0] = 63 - found[:, 0]
        irises.append(to_picture(region, found / 64).round(3).tolist())
    with open(sys.argv[4], "w") as file:
        json.dump({"crops": crops, "irises": irises}, file)
        file.write("\n")


main()
